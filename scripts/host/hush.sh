# Ends what answer.sh has left running. In: $pid (what it printed), $token.
grep -q "$token" "/proc/$pid/cmdline" 2>/dev/null && kill "$pid"
:

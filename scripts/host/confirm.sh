# Keeps what the transaction of $owner did and disarms its undo timer. Fails when it was undone meanwhile.
set -eu
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin
transaction=/var/lib/isthmus/transaction
exec 9>/run/isthmus.lock
flock -w 20 9 || { echo "another run is changing this host" >&2; exit 1; }
[ "$(cat $transaction/owner 2>/dev/null)" = "$owner" ] || { echo "the change was undone before it was confirmed" >&2; exit 1; }
# From here on the undo finds no transaction, whatever happens to the timer.
mv $transaction /var/lib/isthmus/confirmed
systemctl stop isthmus-undo.timer 2>/dev/null || true
# A gateway that is none any more has its sysctls back; should it be one again, what counts is what it has then.
if grep -qsxF /etc/sysctl.d/90-isthmus.conf /var/lib/isthmus/confirmed/discard; then rm -f /var/lib/isthmus/sysctls.before; fi
rm -rf /var/lib/isthmus/confirmed

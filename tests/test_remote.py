"""Isthmus' door to hosts, against real OpenSSH servers on loopback."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import fabric
import pytest
from paramiko import Channel, PKey
from sshd import Bench, Sshd, free_port, inventory_of, make_key, needs_sshd

from isthmus.errors import CommandError, HostError, HostKeyError, IsthmusError, UnreachableError
from isthmus.remote import Fleet, Remote, login, shell
from isthmus.remote.connection import open_session

pytestmark = needs_sshd

PATHS = os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parents[1]))
PASSWORD = "a password nobody may see"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def n1(bench: Bench) -> Sshd:
    return bench.sshd()


@pytest.fixture(scope="module")
def n2(bench: Bench) -> Sshd:
    return bench.sshd(address="127.0.0.2")


@pytest.fixture(scope="module")
def fleet(bench: Bench, n1: Sshd, n2: Sshd) -> Iterator[Fleet]:
    with bench.fleet(inventory_of({"n1": n1, "n2": n2})) as made:
        yield made


def run(fleet: Fleet, script: str, host: str = "n1", timeout: float = 20, stdin: bytes = b"") -> str:
    """Run one script on one host; its error is raised."""
    result = fleet.each([host], lambda remote: remote.run(script, timeout=timeout, stdin=stdin))[host]
    if isinstance(result, HostError):
        raise result
    return result


def failure(fleet: Fleet, host: str, script: str = "true") -> HostError:
    result = fleet.each([host], lambda remote: remote.run(script, timeout=20))[host]
    assert isinstance(result, HostError), result
    return result


# --- scripts ------------------------------------------------------------------------------------------------------


def test_a_script_runs_as_root_and_its_output_comes_back(fleet: Fleet) -> None:
    assert run(fleet, "id -u\nprintf 'no newline'") == "0\nno newline"


def test_a_script_may_hold_quotes_heredocs_and_an_exit(fleet: Fleet) -> None:
    script = """cat <<'END'\n'one' "two" `three` $four \\five\nEND\nexit 0\necho never"""
    assert run(fleet, script) == "'one' \"two\" `three` $four \\five\n"


def test_an_empty_script_is_fine(fleet: Fleet) -> None:
    assert run(fleet, "") == ""
    assert run(fleet, "# only a comment") == ""


def test_a_script_reads_what_it_is_given_and_then_the_end(fleet: Fleet) -> None:
    assert run(fleet, 'read line; echo "<$line>"; cat', stdin=b"first\nsecond\n") == "<first>\nsecond\n"
    assert run(fleet, "cat") == ""


def test_megabytes_pass_in_both_directions_and_on_both_streams(fleet: Fleet) -> None:
    script = "head -c 5000000 /dev/zero >&2 & head -c 5000000 /dev/zero | tr '\\0' x; wait; wc -c"
    output = run(fleet, script, stdin=b"y" * 5_000_000)
    assert output == "x" * 5_000_000 + "5000000\n"


def test_a_large_stdin_is_handed_over_in_blocks(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paramiko copies what is left of a block for every packet of it: a bundle in one would take minutes."""
    sizes: list[int] = []
    real = Channel.sendall

    def sendall(channel: Channel, data: bytes) -> None:
        sizes.append(len(data))
        real(channel, data)

    monkeypatch.setattr(Channel, "sendall", sendall)
    content = bytes(range(256)) * 20_000
    assert run(fleet, "sha256sum | cut -c 1-64", stdin=content) == f"{hashlib.sha256(content).hexdigest()}\n"
    assert max(sizes) <= shell.BLOCK < len(content)


def test_output_that_is_not_text_is_replaced(fleet: Fleet) -> None:
    assert run(fleet, r"printf 'a\377b'") == "a\ufffdb"


def test_a_failing_script_is_an_error_with_its_status_and_last_words(fleet: Fleet) -> None:
    with pytest.raises(CommandError) as caught:
        run(fleet, "# install WireGuard\necho one >&2; echo two >&2; echo three >&2; echo four >&2; exit 3")
    assert caught.value.status == 3
    assert str(caught.value) == "n1: install WireGuard: status 3: two; three; four"


def test_a_script_that_does_not_end_in_time_is_ended_on_the_host_too(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        run(fleet, f"# wait\necho $$ > {tmp_path}/pid\nsleep 600", timeout=0.5)
    assert caught.value.status is None
    assert str(caught.value) == "n1: wait: not done within 0.5 s"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_status_124_before_the_deadline_is_the_scripts_own(fleet: Fleet) -> None:
    with pytest.raises(CommandError) as caught:
        run(fleet, "exit 124")
    assert caught.value.status == 124


def test_a_connection_that_breaks_during_a_script_is_said_so(bench: Bench, n1: Sshd) -> None:
    script = """# break
    p=$$; while ! grep -q '^sshd' /proc/$p/comm; do p=$(sed 's/.*) . //' /proc/$p/stat | cut -d' ' -f1); done
    kill -9 $p; sleep 5"""
    with bench.fleet(inventory_of({"n1": n1})) as fleet:
        with pytest.raises(CommandError, match=r"n1: break: the connection broke after \d+\.\d s") as caught:
            run(fleet, script)
        assert caught.value.status is None
        assert run(fleet, "echo again") == "again\n"  # by a new connection


def test_what_a_login_shell_says_first_is_not_output(bench: Bench) -> None:
    noisy = bench.sshd()
    (noisy.folder / "home/.bashrc").write_text("echo Welcome to the noisy host\necho 'and more' >&2\n")
    with bench.fleet(inventory_of({"n1": noisy})) as fleet:
        assert run(fleet, "echo quiet") == "quiet\n"


PAYLOAD = shell.wrapped("touch {marker}\ntouch {marker}\ntrue")


@pytest.mark.parametrize("arrived", [0, 1, 8, len(PAYLOAD) // 2, len(PAYLOAD) - 1])
def test_a_script_cut_off_on_its_way_does_nothing(fleet: Fleet, tmp_path: Path, arrived: int) -> None:
    payload = PAYLOAD.replace(b"{marker}", str(tmp_path / "touched").encode())
    arrived = arrived if arrived < len(PAYLOAD) - 1 else len(payload) - 1
    channel = open_session(fleet.link("n1"))
    channel.exec_command(shell.command(len(payload), 10, ""))
    channel.sendall(payload[:arrived])
    channel.shutdown_write()
    assert channel.recv_exit_status() == shell.CUT_OFF
    assert not (tmp_path / "touched").exists()


def test_the_same_script_whole_does_something(fleet: Fleet, tmp_path: Path) -> None:
    run(fleet, f"touch {tmp_path}/touched")
    assert (tmp_path / "touched").exists()


def test_a_script_with_a_syntax_error_at_its_end_does_nothing(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Syntax error"):
        run(fleet, f"touch {tmp_path}/touched\nif true; then\n")
    assert not (tmp_path / "touched").exists()


def test_nothing_of_a_script_is_in_any_command_line(fleet: Fleet) -> None:
    output = run(fleet, "# say sesame\nsesame='open ses''ame'\ncat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "timeout -k" in output
    assert "sesame" not in output


# --- many hosts ---------------------------------------------------------------------------------------------------


def test_results_come_by_name_in_the_order_asked_for(fleet: Fleet, n1: Sshd, n2: Sshd) -> None:
    done = []
    results = fleet.each(
        ["n2", "n1"], lambda remote: remote.run("echo $SSH_CONNECTION").split()[2:], lambda *it: done.append(it)
    )
    assert results == {"n2": ["127.0.0.2", str(n2.port)], "n1": ["127.0.0.1", str(n1.port)]}
    assert list(results) == ["n2", "n1"]
    assert sorted(done) == [("n1", results["n1"]), ("n2", results["n2"])]


def test_one_failing_host_does_not_keep_the_others(bench: Bench, n1: Sshd, n2: Sshd) -> None:
    hosts = inventory_of({"n1": n1, "dead": ("127.0.0.1", free_port()), "n2": n2})
    with bench.fleet(hosts) as fleet:
        results = fleet.each(hosts.hosts, lambda remote: remote.run("echo fine"))
    assert isinstance(results.pop("dead"), UnreachableError)
    assert results == {"n1": "fine\n", "n2": "fine\n"}


def test_hosts_that_are_logged_in_to_at_once_share_no_configuration(
    bench: Bench, n1: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fabric's Connection writes into its configuration, which is empty for a moment then; here for a long one."""
    merge = fabric.Config.merge

    def slow_merge(config: fabric.Config) -> None:
        config._set(_config={})
        time.sleep(0.02)
        merge(config)

    inventory = inventory_of({f"n{number}": n1 for number in range(1, 9)})
    monkeypatch.setattr(fabric.Config, "merge", slow_merge)
    with bench.fleet(inventory) as fleet:
        assert set(fleet.each(inventory.hosts, lambda remote: remote.run("echo in")).values()) == {"in\n"}


def test_no_more_hosts_than_allowed_are_worked_on_at_once(bench: Bench, n1: Sshd) -> None:
    names = [f"h{number}" for number in range(8)]
    hosts = inventory_of(dict.fromkeys(names, n1))
    lock, at_once = threading.Lock(), [0, 0]

    def count(_remote: Remote) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1

    with bench.fleet(hosts, parallel=3) as fleet:
        fleet.each(names, count)
    assert at_once[1] == 3


def test_an_error_that_is_no_hosts_is_raised_when_all_are_done(fleet: Fleet) -> None:
    done = []

    def clumsy(remote: Remote) -> None:
        if remote.name == "n1":
            raise ZeroDivisionError
        done.append(remote.run("echo done"))

    with pytest.raises(ZeroDivisionError):
        fleet.each(["n1", "n2"], clumsy)
    assert done == ["done\n"]


def test_connections_can_be_begun_early_and_are_kept(bench: Bench, n1: Sshd) -> None:
    with bench.fleet(inventory_of({"n1": n1})) as fleet:
        fleet.connect(["n1"])
        first = run(fleet, "echo $SSH_CONNECTION")
        assert run(fleet, "echo $SSH_CONNECTION") == first


def test_reconnecting_makes_a_fresh_connection(bench: Bench, n1: Sshd) -> None:
    with bench.fleet(inventory_of({"n1": n1})) as fleet:
        first = run(fleet, "echo $SSH_CONNECTION")
        fleet.reconnect(["n1"])
        assert run(fleet, "echo $SSH_CONNECTION") != first


def test_a_failure_holds_until_reconnecting(bench: Bench) -> None:
    late = bench.sshd()
    late.stop()
    with bench.fleet(inventory_of({"n1": late})) as fleet:
        assert "refuses the connection" in str(failure(fleet, "n1"))
        late.start()
        assert "refuses the connection" in str(failure(fleet, "n1"))
        fleet.reconnect(["n1"])
        assert run(fleet, "echo back") == "back\n"


def test_a_closed_fleet_connects_no_more(bench: Bench, n1: Sshd) -> None:
    with bench.fleet(inventory_of({"n1": n1})) as fleet:
        pass
    assert str(failure(fleet, "n1")) == "n1: no connection: the run was ended"


def test_an_interrupted_run_ends_at_once_and_without_a_traceback(bench: Bench, n1: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        program = textwrap.dedent(f"""
            import signal
            from sshd import inventory_of
            from isthmus.remote import Fleet
            from pathlib import Path
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            hosts = inventory_of({{"n1": ("127.0.0.1", {n1.port}), "silent": ("127.0.0.1", {silent.getsockname()[1]})}})
            fleet = Fleet(hosts, known_hosts=Path({str(bench.write_known_hosts(n1))!r}), connect_timeout=600,
                          ssh_config=(Path({str(bench.folder / "ssh_config")!r}),), system_known_hosts=())
            try:
                with fleet:
                    script = "echo ready > {bench.folder}/ready; sleep 600"
                    fleet.each(hosts.hosts, lambda remote: remote.run(script, timeout=600))
            except KeyboardInterrupt:
                print("interrupted")
        """)
        with bench.fleet(inventory_of({"n1": n1})):  # writes ssh_config
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONPATH": PATHS},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        wait_for(bench.folder / "ready")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=15)
    assert output == b"interrupted\n"


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 15
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


# --- host keys ----------------------------------------------------------------------------------------------------


def test_a_host_with_an_unknown_key_is_sent_nothing(bench: Bench, n1: Sshd) -> None:
    stranger = bench.sshd()
    with bench.fleet(inventory_of({"n1": stranger}), known_hosts=bench.write_known_hosts(n1)) as fleet:
        error = failure(fleet, "n1")
    assert isinstance(error, HostKeyError)
    assert (error.known, error.found) == (None, stranger.fingerprint())
    assert str(error) == (
        f"n1: the host key of {stranger.known_name} is not known: {stranger.fingerprint()} (ssh-ed25519); "
        "compare it with the host's console, then record it with `inv ssh.trust`"
    )
    assert "Connection from" in stranger.log
    assert "userauth-request" not in stranger.log


def test_a_host_with_a_changed_key_is_sent_nothing(bench: Bench, n1: Sshd) -> None:
    changed = bench.sshd()
    known = bench.folder / "old_known_hosts"
    known.write_text(f"{changed.known_name} {n1.public_key()}\n")
    with bench.fleet(inventory_of({"n1": changed}), known_hosts=known) as fleet:
        error = failure(fleet, "n1")
    assert isinstance(error, HostKeyError)
    assert (error.known, error.found) == (n1.fingerprint(), changed.fingerprint())
    assert "HAS CHANGED" in str(error)
    assert n1.fingerprint() in str(error)
    assert changed.fingerprint() in str(error)
    assert "userauth-request" not in changed.log


def test_an_accepted_login_does_show_in_the_log(fleet: Fleet, n1: Sshd) -> None:
    run(fleet, "true")  # the two tests above would prove nothing if it did not
    assert "userauth-request" in n1.log


def test_the_host_is_asked_for_the_kind_of_key_we_know(bench: Bench) -> None:
    both = bench.sshd(key_kinds=("ed25519", "rsa"))
    known = bench.folder / "rsa_known_hosts"
    known.write_text(f"{both.known_name} {both.public_key('rsa')}\n")
    with bench.fleet(inventory_of({"n1": both}), known_hosts=known) as fleet:
        assert run(fleet, "echo in") == "in\n"


def test_a_host_key_alias_is_honoured(bench: Bench, n1: Sshd) -> None:
    known = bench.folder / "alias_known_hosts"
    known.write_text(f"the-alias {n1.public_key()}\n")
    with bench.fleet(inventory_of({"n1": n1}), "Host n1\n  HostKeyAlias the-alias", known_hosts=known) as fleet:
        assert run(fleet, "echo in") == "in\n"


# --- unreachable hosts --------------------------------------------------------------------------------------------


def test_a_refused_connection_is_a_clear_line(bench: Bench) -> None:
    port = free_port()
    with bench.fleet(inventory_of({"n1": ("127.0.0.1", port)})) as fleet:
        error = failure(fleet, "n1")
    assert isinstance(error, UnreachableError)
    assert str(error) == f"n1: 127.0.0.1:{port} refuses the connection: Connection refused (tried 3 times)"


def test_a_server_that_takes_connections_and_says_nothing_is_a_clear_line(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with bench.fleet(inventory_of({"n1": ("127.0.0.1", port)}), connect_timeout=0.5) as fleet:
            error = failure(fleet, "n1")
    assert isinstance(error, UnreachableError)
    assert str(error) == f"n1: 127.0.0.1:{port} takes connections, but no SSH server answers within 0.5 s"


@contextmanager
def mute_listener(address: str = "127.0.0.1") -> Iterator[int]:
    """A port that answers nothing, as behind a firewall that drops: its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_host_that_answers_nothing_is_a_clear_line(bench: Bench) -> None:
    with mute_listener() as port, bench.fleet(inventory_of({"n1": ("127.0.0.1", port)}), connect_timeout=0.5) as fleet:
        error = failure(fleet, "n1")
    assert isinstance(error, UnreachableError)
    assert str(error) == f"n1: no answer from 127.0.0.1:{port} within 0.5 s"


def test_a_name_nobody_knows_is_a_clear_line(bench: Bench, n1: Sshd) -> None:
    with bench.fleet(inventory_of({"n1": n1}), "Host n1\n  HostName no-such-host.invalid") as fleet:
        error = failure(fleet, "n1")
    assert str(error) == "n1: no address is known for the name no-such-host.invalid"


def test_a_server_that_hangs_after_its_banner_is_a_clear_line(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def greet() -> None:
            connection, _ = silent.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                while connection.recv(4096):
                    pass

        greeter = threading.Thread(target=greet)
        greeter.start()
        port = silent.getsockname()[1]
        with bench.fleet(inventory_of({"n1": ("127.0.0.1", port)}), connect_timeout=0.5) as fleet:
            error = failure(fleet, "n1")
        greeter.join()
    assert str(error) == f"n1: 127.0.0.1:{port} takes connections, but no SSH server answers within 0.5 s"


def test_a_connection_that_is_reset_is_tried_again(bench: Bench, n1: Sshd) -> None:
    """As an sshd does that is just being restarted, or is at its MaxStartups."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def pass_on_the_third() -> None:
            for _ in range(2):
                proxy.accept()[0].close()
            near, _ = proxy.accept()
            with near, socket.create_connection((n1.address, n1.port)) as far:
                up = threading.Thread(target=copy, args=(near, far))
                up.start()
                copy(far, near)
                up.join()

        def copy(source: socket.socket, target: socket.socket) -> None:
            with suppress(ConnectionError):  # who leaves with something unread resets the connection
                while data := source.recv(65536):
                    target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        passing = threading.Thread(target=pass_on_the_third)
        passing.start()
        port = proxy.getsockname()[1]
        known = bench.folder / "proxy_known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {n1.public_key()}\n")
        with bench.fleet(inventory_of({"n1": ("127.0.0.1", port)}), known_hosts=known) as fleet:
            assert run(fleet, "echo third time") == "third time\n"
        passing.join()


def test_a_refused_login_names_the_user_and_what_was_tried(bench: Bench, n1: Sshd) -> None:
    other = make_key(bench.folder / "other")
    locked = make_key(bench.folder / "locked")
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "secret phrase", "-f", str(locked)], check=True, stdout=subprocess.DEVNULL
    )
    config = f"Host n1\n  IdentityFile {other}\n  IdentityFile {locked}\n  IdentityFile /nowhere/id"
    with bench.fleet(inventory_of({"n1": n1})) as fleet:
        (bench.folder / "ssh_config").write_text(f"{config}\n  IdentityAgent none\n")
    with Fleet(fleet.inventory, known_hosts=fleet.known_hosts_file, ssh_config=(bench.folder / "ssh_config",)) as fleet:
        error = failure(fleet, "n1")
    assert isinstance(error, UnreachableError)
    assert str(error) == (
        f"n1: login as root at 127.0.0.1:{n1.port} failed: refused {other}; "
        f"{locked} is encrypted: add it to ssh-agent; /nowhere/id does not exist"
    )


def test_a_key_file_is_read_once_for_all_hosts(bench: Bench, n1: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(login, "_read_key", lambda path: read.append(path) or PKey.from_path(path))
    with bench.fleet(inventory_of({"a": n1, "b": n1, "c": n1})) as fleet:
        assert fleet.each("abc", lambda remote: remote.run("echo in")) == dict.fromkeys("abc", "in\n")
    assert read == [str(bench.folder / "id")]


@pytest.fixture
def agent(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that holds our key; no key file can be found."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    monkeypatch.setenv("HOME", str(tmp_path))
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 15
    while subprocess.run(
        ["ssh-add", "-q", str(bench.folder / "id")], check=False, stderr=subprocess.DEVNULL
    ).returncode:
        assert time.monotonic() < deadline, "ssh-agent did not start"
        time.sleep(0.02)
    yield
    process.terminate()
    process.wait()


def agent_fleet(bench: Bench, server: Sshd, config: str) -> Fleet:
    (bench.folder / "agent_config").write_text(config)
    return Fleet(
        inventory_of({"n1": server}),
        known_hosts=bench.write_known_hosts(server),
        ssh_config=(bench.folder / "agent_config",),
        system_known_hosts=(),
    )


@pytest.mark.usefixtures("agent")
def test_the_agents_keys_are_used(bench: Bench, n1: Sshd) -> None:
    with agent_fleet(bench, n1, "") as fleet:
        assert run(fleet, "echo in") == "in\n"


@pytest.mark.usefixtures("agent")
def test_only_the_identities_named_are_used_when_asked_so(bench: Bench, n1: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    with agent_fleet(bench, n1, f"IdentitiesOnly yes\nIdentityFile {other}") as fleet:
        assert str(failure(fleet, "n1")) == f"n1: login as root at 127.0.0.1:{n1.port} failed: refused {other}"
    # The agent holds the private half of this one; the file itself is of no use.
    named = tmp_path / "named"
    named.with_suffix(".pub").write_text((bench.folder / "id.pub").read_text())
    with agent_fleet(bench, n1, f"IdentitiesOnly yes\nIdentityFile {named}") as fleet:
        assert run(fleet, "echo in") == "in\n"


# --- where to connect ---------------------------------------------------------------------------------------------


def test_the_users_ssh_config_wins_over_the_inventory(bench: Bench, n1: Sshd, n2: Sshd) -> None:
    (bench.folder / "more_config").write_text(f"Host n1\n  HostName 127.0.0.2\n  Port {n2.port}\n")
    with bench.fleet(inventory_of({"n1": n1}), "Include more_config") as fleet:
        assert run(fleet, "echo $SSH_CONNECTION").split()[2:] == ["127.0.0.2", str(n2.port)]


def test_a_host_without_public_address_is_reached_over_its_gateways_connection(bench: Bench, n2: Sshd) -> None:
    gateway = bench.sshd()
    leaves = {"n2": n2, "n3": n2, "n4": n2}
    with bench.fleet(inventory_of({"n1": gateway, **leaves}, private=tuple(leaves))) as fleet:
        results = fleet.each([*leaves, "n1"], lambda remote: remote.run("echo $SSH_CONNECTION").split()[2])
    assert results == {"n2": "127.0.0.2", "n3": "127.0.0.2", "n4": "127.0.0.2", "n1": "127.0.0.1"}
    assert gateway.log.count("Accepted publickey") == 1
    assert gateway.log.count("direct-tcpip") >= 3


def test_a_dead_gateway_is_told_apart_from_a_dead_leaf(bench: Bench, n1: Sshd) -> None:
    nobody = free_port()
    with bench.fleet(inventory_of({"n1": n1, "n3": ("127.0.0.3", nobody)}, private=("n3",))) as fleet:
        dead_leaf = failure(fleet, "n3")
    with bench.fleet(inventory_of({"n1": ("127.0.0.1", nobody), "n3": n1}, private=("n3",))) as fleet:
        dead_gateway = failure(fleet, "n3")
    assert isinstance(dead_leaf, UnreachableError)
    assert isinstance(dead_gateway, UnreachableError)
    assert dead_leaf.gateway is None
    assert str(dead_leaf) == (f"n3: n1 answers, 127.0.0.3:{nobody} behind it does not: Connect failed (tried 3 times)")
    assert dead_gateway.gateway == "n1"
    assert str(dead_gateway) == (
        f"n3: not reached: its gateway n1: 127.0.0.1:{nobody} refuses the connection: "
        "Connection refused (tried 3 times)"
    )


def test_a_leaf_is_reached_through_the_gateway_that_stands_by_where_the_other_is_dead(bench: Bench, n2: Sshd) -> None:
    gateway, leaf = bench.sshd(), bench.sshd(address="127.0.0.3")
    hosts = inventory_of({"n1": gateway, "n2": n2, "n3": leaf}, private=("n3",), gateways=2)
    with bench.fleet(hosts) as fleet:
        assert run(fleet, "echo $SSH_CONNECTION", "n3").split()[2] == "127.0.0.3"
        assert gateway.log.count("confirm direct-tcpip") == 1
        gateway.stop()
        tunnels = n2.log.count("confirm direct-tcpip")
        fleet.reconnect(["n1", "n3"])
        assert run(fleet, "echo by the other", "n3") == "by the other\n"
        assert n2.log.count("confirm direct-tcpip") == tunnels + 1
        assert isinstance(failure(fleet, "n1"), UnreachableError)
        gateway.start()
        fleet.reconnect(["n3"])
        run(fleet, "true", "n3")
        assert gateway.log.count("confirm direct-tcpip") == 1  # in its new log


def test_a_leaf_whose_gateways_are_both_dead_says_so_of_both(bench: Bench, n1: Sshd) -> None:
    one, other = ("127.0.0.1", free_port()), ("127.0.0.2", free_port())
    with bench.fleet(inventory_of({"n1": one, "n2": other, "n3": n1}, private=("n3",), gateways=2)) as fleet:
        error = failure(fleet, "n3")
    assert isinstance(error, UnreachableError)
    assert error.gateway == "n1"
    refused = "refuses the connection: Connection refused (tried 3 times)"
    assert str(error) == (
        f"n3: not reached: its gateway n1: 127.0.0.1:{one[1]} {refused}; its gateway n2: 127.0.0.2:{other[1]} {refused}"
    )


def test_a_mute_leaf_is_told_apart_from_its_gateway(bench: Bench, n1: Sshd) -> None:
    with mute_listener("127.0.0.3") as port:
        hosts = inventory_of({"n1": n1, "n3": ("127.0.0.3", port)}, private=("n3",))
        with bench.fleet(hosts, connect_timeout=1) as fleet:
            fleet.each(["n1"], Remote.connect)
            error = failure(fleet, "n3")
            assert run(fleet, "echo n1 lives") == "n1 lives\n"
    assert isinstance(error, UnreachableError)
    assert error.gateway is None
    assert str(error) == f"n3: n1 answers, 127.0.0.3:{port} behind it does not within 1 s"


def test_a_gateway_with_an_unknown_key_leads_nowhere(bench: Bench, n2: Sshd) -> None:
    stranger = bench.sshd()
    hosts = inventory_of({"n1": stranger, "n2": n2}, private=("n2",))
    with bench.fleet(hosts, known_hosts=bench.write_known_hosts(n2)) as fleet:
        error = failure(fleet, "n2")
    assert isinstance(error, UnreachableError)
    assert error.gateway == "n1"
    assert f"not reached: its gateway n1: the host key of {stranger.known_name} is not known" in str(error)


def test_a_leafs_own_key_is_verified_behind_a_gateway(bench: Bench, n1: Sshd) -> None:
    stranger = bench.sshd(address="127.0.0.3")
    hosts = inventory_of({"n1": n1, "n3": stranger}, private=("n3",))
    with bench.fleet(hosts, known_hosts=bench.write_known_hosts(n1)) as fleet:
        error = failure(fleet, "n3")
    assert isinstance(error, HostKeyError)
    assert error.found == stranger.fingerprint()


def test_a_gateway_that_forwards_nothing_is_named(bench: Bench, n2: Sshd) -> None:
    closed = bench.sshd(options=("AllowTcpForwarding no",))
    with bench.fleet(inventory_of({"n1": closed, "n2": n2}, private=("n2",))) as fleet:
        error = failure(fleet, "n2")
    assert isinstance(error, UnreachableError)
    assert error.gateway == "n1"
    assert str(error) == (
        "n2: not reached: its gateway n1 does not forward connections (AllowTcpForwarding in its sshd_config)"
    )


def test_reconnecting_a_gateway_reconnects_its_leaves(bench: Bench, n1: Sshd, n2: Sshd) -> None:
    with bench.fleet(inventory_of({"n1": n1, "n2": n2}, private=("n2",))) as fleet:
        before = fleet.each(["n1", "n2"], lambda remote: remote.run("echo $SSH_CONNECTION"))
        fleet.reconnect(["n1"])
        after = fleet.each(["n2"], lambda remote: remote.run("echo $SSH_CONNECTION"))
        after |= fleet.each(["n1"], lambda remote: remote.run("echo $SSH_CONNECTION"))
    assert not any(isinstance(result, HostError) for result in after.values())
    assert all(before[name] != after[name] for name in ("n1", "n2"))


def test_reconnecting_a_leaf_gives_its_gateway_another_chance(bench: Bench, n2: Sshd) -> None:
    gateway = bench.sshd()
    gateway.stop()
    with bench.fleet(inventory_of({"n1": gateway, "n2": n2}, private=("n2",))) as fleet:
        assert "its gateway n1" in str(failure(fleet, "n2"))
        gateway.start()
        fleet.reconnect(["n2"])
        assert run(fleet, "echo back", "n2") == "back\n"


def test_a_jump_host_outside_the_inventory_is_used_and_verified(bench: Bench, n2: Sshd) -> None:
    bastion = bench.sshd()
    jump = f"Host n1\n  ProxyJump root@127.0.0.1:{bastion.port}"
    with bench.fleet(inventory_of({"n1": n2}), jump) as fleet:
        assert run(fleet, "echo in") == "in\n"
    assert bastion.log.count("direct-tcpip") >= 1
    with bench.fleet(inventory_of({"n1": n2}), jump, known_hosts=bench.write_known_hosts(n2)) as fleet:
        error = failure(fleet, "n1")
    assert f"not reached: its jump host 127.0.0.1: the host key of {bastion.known_name} is not known" in str(error)


def test_a_proxy_command_is_used(bench: Bench, n1: Sshd) -> None:
    relay = bench.folder / "relay.py"
    relay.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    config = f"Host n1\n  ProxyCommand {sys.executable} {relay} %h %p"
    with bench.fleet(inventory_of({"n1": n1}), config) as fleet:
        assert run(fleet, "echo in") == "in\n"


def test_an_ssh_config_nobody_can_read_is_a_clear_line(bench: Bench, n1: Sshd) -> None:
    with pytest.raises(IsthmusError, match=r"ssh_config: Unparsable line .*; expected ssh_config\(5\)"):
        bench.fleet(inventory_of({"n1": n1}), "ThisIsNoOption")


# --- sudo ---------------------------------------------------------------------------------------------------------
# The stand-in keeps to sudo's protocol: -n never asks; -S writes the prompt to stderr and reads one line from stdin,
# three times at most. Real sudo is tested in the lab.

SUDO = r"""#!/bin/sh
echo "$*" >> {log}; tr '\0' '\n' < /proc/$$/environ >> {log}
case $1 in -n) ask=no; shift;; -S) ask=yes; prompt=$3; shift 3;; *) echo "usage: $*" >&2; exit 1;; esac
if [ -e {free} ]; then exec "$@"; fi
if [ $ask = no ]; then echo "sudo: a password is required" >&2; exit 1; fi
for try in 1 2 3; do
    printf %s "$prompt" >&2
    IFS= read -r line || {{ echo "sudo: no password was provided" >&2; exit 1; }}
    [ "$line" = "{password}" ] && exec "$@"
    echo "$line" >> {guesses}
    echo "Sorry, try again." >&2
done
echo "sudo: 3 incorrect password attempts" >&2; exit 1
"""


@pytest.fixture(scope="module")
def sudo_host(bench: Bench) -> Sshd:
    """A host with the stand-in; `free` in its folder makes it ask for nothing."""
    server = bench.sshd()
    (server.folder / "bin").mkdir()
    names = {name: server.folder / name for name in ("log", "free", "guesses")} | {"log": server.folder / "sudo.log"}
    sudo = server.folder / "bin/sudo"
    sudo.write_text(SUDO.format(password=PASSWORD, **names))
    sudo.chmod(0o755)
    return server


@pytest.fixture
def debug() -> list[str]:
    return []


def sudo_run(bench: Bench, server: Sshd, password: str | None, script: str, debug: list[str]) -> str:
    """Run a script twice as the user `debian`: the connection is root's, since this machine has no such user."""
    with bench.fleet(inventory_of({"n1": server}), sudo_password=password, debug=debug.append) as fleet:
        link = fleet.link("n1")
        link.open()
        link.way = replace(link.way, user="debian")
        assert run(fleet, script, stdin=b"input") == run(fleet, script, stdin=b"input")
        return run(fleet, script, stdin=b"input")


def test_sudo_without_password(bench: Bench, sudo_host: Sshd, debug: list[str]) -> None:
    (sudo_host.folder / "free").touch()
    assert sudo_run(bench, sudo_host, None, "echo through; cat", debug) == "through\ninput"
    assert sudo_run(bench, sudo_host, PASSWORD, "echo through; cat", debug) == "through\ninput"
    (sudo_host.folder / "free").unlink()


def test_sudo_with_the_right_password(bench: Bench, sudo_host: Sshd, debug: list[str]) -> None:
    assert sudo_run(bench, sudo_host, PASSWORD, "echo through; cat", debug) == "through\ninput"


def test_sudo_that_asks_though_no_password_was_given(bench: Bench, sudo_host: Sshd, debug: list[str]) -> None:
    with pytest.raises(CommandError) as caught:
        sudo_run(bench, sudo_host, None, "echo through", debug)
    assert str(caught.value) == (
        "n1: sudo asks for a password for debian: give it with `inv --prompt-for-sudo-password …` "
        "or in INVOKE_SUDO_PASSWORD"
    )


def test_sudo_with_a_wrong_password_gets_one_guess_and_no_line_of_the_script(
    bench: Bench, sudo_host: Sshd, debug: list[str]
) -> None:
    with pytest.raises(CommandError) as caught:
        sudo_run(bench, sudo_host, "wrong", "echo through", debug)
    assert str(caught.value) == "n1: sudo does not take the password given for debian"
    assert (sudo_host.folder / "guesses").read_text() == "wrong\n"


def test_the_password_is_in_no_command_line_environment_error_or_debug_line(
    bench: Bench, sudo_host: Sshd, debug: list[str]
) -> None:
    with pytest.raises(CommandError) as caught:
        sudo_run(bench, sudo_host, PASSWORD, f"echo '{PASSWORD}' >&2; exit 1", debug)
    assert str(caught.value) == "n1: a script: status 1: ***"
    log = (sudo_host.folder / "sudo.log").read_text()
    assert "timeout -k" in log
    assert "PATH=" in log
    assert PASSWORD not in log + "".join(debug)


# --- debug lines --------------------------------------------------------------------------------------------------


def test_debug_lines_name_scripts_and_show_nothing_of_them(bench: Bench, n1: Sshd, debug: list[str]) -> None:
    with bench.fleet(inventory_of({"n1": n1}), debug=debug.append) as fleet:
        run(fleet, "# write the key\nsecret=hidden; echo $secret")
        run(fleet, "secret=hidden; echo $secret")
        failure(fleet, "n1", "# fail\necho hidden >&2; exit 4")
    lines = [re.sub(r"\d+\.\d\d s", "0.12 s", line) for line in debug]
    assert lines == [
        f"[n1] connected to root@127.0.0.1:{n1.port} (0.12 s)",
        "[n1] # write the key (0.12 s, exit 0)",
        "[n1] # a script (0.12 s, exit 0)",
        "[n1] # fail (0.12 s, exit 4)",
    ]

"""known_hosts as OpenSSH reads it, and learning host keys from real servers."""

from __future__ import annotations

import base64
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sshd import Bench, free_port, inventory_of, make_key, needs_sshd

from isthmus.errors import HostError, HostKeyError, IsthmusError, UnreachableError
from isthmus.remote.known_hosts import Key, KnownHosts, fingerprint_of, name_of, with_key
from isthmus.remote.trust import HostKey, Standing, behind, record, scan

A = Key("ssh-ed25519", b"key a")
B = Key("ssh-ed25519", b"key b")
R = Key("ssh-rsa", b"key r")
A64, B64, R64 = "a2V5IGE=", "a2V5IGI=", "a2V5IHI="


def known(tmp_path: Path, *texts: str) -> KnownHosts:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / str(number))
        paths[-1].write_text(text)
    return KnownHosts([*paths, tmp_path / "missing"])


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        # plain names
        (f"203.0.113.1 ssh-ed25519 {A64}", "203.0.113.1", (A,)),
        (f"203.0.113.1 ssh-ed25519 {A64} a comment", "203.0.113.1", (A,)),
        (f"203.0.113.1 ssh-ed25519 {A64}", "203.0.113.10", ()),
        (f"n1,203.0.113.1\tssh-ed25519 {A64}", "203.0.113.1", (A,)),
        (f"N1.example ssh-ed25519 {A64}", "n1.EXAMPLE", (A,)),
        # a port is part of the name
        (f"[203.0.113.1]:2222 ssh-ed25519 {A64}", "[203.0.113.1]:2222", (A,)),
        (f"[203.0.113.1]:2222 ssh-ed25519 {A64}", "203.0.113.1", ()),
        # patterns: only * ? and a leading !
        (f"203.0.113.* ssh-ed25519 {A64}", "203.0.113.9", (A,)),
        (f"203.0.113.? ssh-ed25519 {A64}", "203.0.113.10", ()),
        (f"203.0.113.*,!203.0.113.9 ssh-ed25519 {A64}", "203.0.113.9", ()),
        (f"[203.0.113.*]:22?? ssh-ed25519 {A64}", "[203.0.113.9]:2222", (A,)),
        (f"203.0.113.[12] ssh-ed25519 {A64}", "203.0.113.1", ()),
        # markers
        (f"@revoked 203.0.113.1 ssh-ed25519 {A64}", "203.0.113.1", ()),
        (f"@cert-authority * ssh-ed25519 {A64}", "203.0.113.1", ()),
        # what is no entry
        (f"# 203.0.113.1 ssh-ed25519 {A64}", "203.0.113.1", ()),
        ("203.0.113.1 ssh-ed25519", "203.0.113.1", ()),
        ("203.0.113.1 ssh-ed25519 no*base64", "203.0.113.1", ()),
        ("|1|broken|hash| ssh-ed25519 " + A64, "203.0.113.1", ()),
        ("", "203.0.113.1", ()),
    ],
)
def test_a_line_of_known_hosts(tmp_path: Path, line: str, name: str, expected: tuple[Key, ...]) -> None:
    assert known(tmp_path, f"{line}\n").keys(name) == expected


def test_every_file_is_believed_in_order(tmp_path: Path) -> None:
    both = known(tmp_path, f"n1 ssh-ed25519 {A64}\nn1 ssh-rsa {R64}\n", f"n1 ssh-ed25519 {B64}\n")
    assert both.keys("n1") == (A, R, B)


def test_a_revoked_key_is_told(tmp_path: Path) -> None:
    text = f"@revoked * ssh-ed25519 {B64}\nn1 ssh-ed25519 {A64}\n"
    assert known(tmp_path, text).revoked("n1") == {B}


def test_hashed_names_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    path = tmp_path / "hashed"
    public = " ".join((make_key(tmp_path / "k").with_suffix(".pub")).read_text().split()[:2])
    path.write_text(f"203.0.113.1 {public}\n[203.0.113.2]:2222 {public}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, stderr=subprocess.DEVNULL)
    assert "203.0.113" not in path.read_text()
    hashed = KnownHosts([path])
    assert [key.base64 for key in hashed.keys("203.0.113.1")] == [public.split()[1]]
    assert [key.base64 for key in hashed.keys("[203.0.113.2]:2222")] == [public.split()[1]]
    assert hashed.keys("203.0.113.2") == ()


def test_a_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    public = make_key(tmp_path / "k").with_suffix(".pub")
    said = subprocess.run(["ssh-keygen", "-lf", str(public)], check=True, capture_output=True, text=True).stdout
    assert fingerprint_of(base64.b64decode(public.read_text().split()[1])) == said.split()[1]


def test_the_name_of_a_key_carries_the_port_only_when_it_is_not_22() -> None:
    assert name_of("203.0.113.1", 22) == "203.0.113.1"
    assert name_of("203.0.113.1", 2222) == "[203.0.113.1]:2222"


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_new_key_is_added_at_the_end_and_the_rest_kept() -> None:
    before = f"# ours\n\nn2 ssh-rsa {R64}"
    assert with_key(before, "n1", A, "gateway", replace=False) == (
        f"# ours\n\nn2 ssh-rsa {R64}\nn1 ssh-ed25519 {A64} gateway\n"
    )


def test_a_key_that_is_there_is_not_added_again() -> None:
    before = f"n1 ssh-ed25519 {A64}\n"
    assert with_key(before, "n1", A, "gateway", replace=True) == before


def test_replacing_takes_the_old_keys_of_that_name_out_and_nothing_else() -> None:
    before = (
        f"# ours\n\nn1 ssh-ed25519 {B64} old\nn1,n2 ssh-rsa {R64}\nn* ssh-rsa {R64}\n@revoked n1 ssh-ed25519 {B64}\n"
        f"n2 ssh-ed25519 {B64}\n"
    )
    assert with_key(before, "n1", A, "n1", replace=True) == (
        f"# ours\n\nn2 ssh-rsa {R64}\nn* ssh-rsa {R64}\n@revoked n1 ssh-ed25519 {B64}\n"
        f"n2 ssh-ed25519 {B64}\nn1 ssh-ed25519 {A64} n1\n"
    )


# --- scanning real servers ----------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.stop()


def shown(results: dict[str, HostKey | HostError], host: str) -> HostKey:
    result = results[host]
    assert isinstance(result, HostKey), result
    return result


@needs_sshd
def test_scanning_tells_unknown_known_and_changed_keys_apart_without_logging_in(bench: Bench, tmp_path: Path) -> None:
    new, old, reinstalled = (bench.sshd() for _ in range(3))
    file = tmp_path / "known"
    file.write_text(f"{old.known_name} {old.public_key()}\n{reinstalled.known_name} {old.public_key()}\n")
    hosts = inventory_of({"new": new, "old": old, "reinstalled": reinstalled, "dead": ("127.0.0.1", free_port())})
    with bench.fleet(hosts, known_hosts=file) as fleet:
        results = scan(fleet, hosts.hosts)
    assert [shown(results, name).standing for name in ("new", "old", "reinstalled")] == [
        Standing.UNKNOWN,
        Standing.KNOWN,
        Standing.CHANGED,
    ]
    assert isinstance(results["dead"], UnreachableError)
    assert shown(results, "new").fingerprint == new.fingerprint()
    assert shown(results, "new").known is None
    assert shown(results, "reinstalled").fingerprint == reinstalled.fingerprint()
    assert shown(results, "reinstalled").known == old.fingerprint()
    assert not any("userauth-request" in server.log for server in (new, old, reinstalled))


@needs_sshd
def test_recorded_keys_open_the_hosts_and_the_file_is_ours_alone_to_write(bench: Bench, tmp_path: Path) -> None:
    server = bench.sshd()
    hosts = inventory_of({"n1": server})
    file = tmp_path / "known"
    with bench.fleet(hosts, known_hosts=file) as fleet:
        assert isinstance(fleet.each(["n1"], lambda remote: remote.run("true"))["n1"], HostKeyError)
        new = record(fleet, [shown(scan(fleet, ["n1"]), "n1")])
        assert [key.host for key in new] == ["n1"]
        assert fleet.each(["n1"], lambda remote: remote.run("echo in")) == {"n1": "in\n"}
        assert record(fleet, [shown(scan(fleet, ["n1"]), "n1")]) == ()
    assert file.read_text() == f"{server.known_name} {server.public_key()} n1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.glob("*known*")] == ["known"]  # no temporary file is left


@needs_sshd
def test_a_changed_key_is_replaced_only_when_told_so(bench: Bench, tmp_path: Path) -> None:
    server = bench.sshd()
    stale = " ".join(make_key(tmp_path / "stale").with_suffix(".pub").read_text().split()[:2])
    file = tmp_path / "known"
    file.write_text(f"{server.known_name} {stale}\n")
    with bench.fleet(inventory_of({"n1": server}), known_hosts=file) as fleet:
        key = shown(scan(fleet, ["n1"]), "n1")
        with pytest.raises(HostKeyError, match="not replaced"):
            record(fleet, [key])
        assert file.read_text() == f"{server.known_name} {stale}\n"
        record(fleet, [key], replace=True)
        assert fleet.each(["n1"], lambda remote: remote.run("echo in")) == {"n1": "in\n"}
    assert file.read_text() == f"{server.known_name} {server.public_key()} n1\n"


@needs_sshd
def test_a_host_behind_a_gateway_is_scanned_once_the_gateway_is_trusted(bench: Bench, tmp_path: Path) -> None:
    gateway, leaf = bench.sshd(), bench.sshd(address="127.0.0.2")
    hosts = inventory_of({"n1": gateway, "n3": leaf}, private=("n3",))
    with bench.fleet(hosts, known_hosts=tmp_path / "known") as fleet:
        first = scan(fleet, hosts.hosts)
        assert behind(fleet, first, ["n1"]) == ("n3",)
        record(fleet, [shown(first, "n1")])
        second = scan(fleet, behind(fleet, first, ["n1"]))
        assert shown(second, "n3").fingerprint == leaf.fingerprint()
        record(fleet, [shown(second, "n3")])
        assert fleet.each(["n3"], lambda remote: remote.run("echo in")) == {"n3": "in\n"}
    assert leaf.log.count("Accepted publickey") == 1


@needs_sshd
def test_a_known_hosts_that_cannot_be_written_is_a_clear_line(bench: Bench, tmp_path: Path) -> None:
    server = bench.sshd()
    with bench.fleet(inventory_of({"n1": server}), known_hosts=tmp_path / "no/folder/known") as fleet:
        key = shown(scan(fleet, ["n1"]), "n1")
        with pytest.raises(IsthmusError, match=r"no/folder/known: cannot be written: No such file or directory"):
            record(fleet, [key])


@needs_sshd
def test_bytes_of_others_in_known_hosts_are_kept(bench: Bench, tmp_path: Path) -> None:
    server = bench.sshd()
    file = tmp_path / "known"
    file.write_bytes(b"# caf\xe9, in Latin-1\n")
    with bench.fleet(inventory_of({"n1": server}), known_hosts=file) as fleet:
        record(fleet, [shown(scan(fleet, ["n1"]), "n1")])
    assert file.read_bytes() == b"# caf\xe9, in Latin-1\n" + f"{server.known_name} {server.public_key()} n1\n".encode()

"""Hosts over SSH: a real sshd in a root file system of its own, and what keeps one from it."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning import loopback
from provisioning.hosts.remote import connection_to
from provisioning.vm import image, machines, qemu, sshd
from tests.vm.fleet import PASSWORD, Fleet, open_to_all, state_of, stock_disk

STOCK = f"tests-hosts-{os.getpid()}"

#: The first value counts.
SSH_CONFIG = """\
Host plain
  User gs-plain
Host admin
  User gs-admin
Host asked
  User gs-asked
Host stranger
  UserKnownHostsFile /dev/null
Host changed
  UserKnownHostsFile {folder}/changed
Host locked
  IdentityFile {folder}/other_key
Host silent
  Port {unused}
Host behind
  ProxyJump one
Host behind-a-stranger
  ProxyJump stranger
Host behind-one-that-sees-nothing
  HostName nowhere.invalid
  ProxyJump one
Host nowhere
  HostName nowhere.invalid
Host *
  HostName 127.0.0.1
  Port {port}
  User root
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
Host * !locked
  IdentityFile {key}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with sshd.serving(folder, PASSWORD) as server:
        write_files(folder, server)
        environment = {
            **os.environ,
            "GS_SSH_CONFIG": str(folder / "ssh_config"),
            "GS_HOSTS": str(folder / "hosts.toml"),
            "GS_CACHE": str(folder / "cache"),
        }
        yield Fleet(environment, folder / "cache")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One host as people have it: a stock kernel, booted by the GRUB on its own disk."""
    base = stock_disk()
    try:
        machine = machines.up(base / image.KERNEL, STOCK, base=base)
        yield Fleet.of([machine], tmp_path_factory.mktemp("stock"))
    finally:
        machines.down(STOCK)


def write_files(folder: Path, server: sshd.Sshd) -> None:
    (folder / "known_hosts").write_text(server.known_host)
    other = folder / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    changed = " ".join(Path(f"{other}.pub").read_text().split()[:2])
    (folder / "changed").write_text(f"[127.0.0.1]:{server.port} {changed}\n")
    (folder / "hosts.toml").write_text('[groups]\nboth = ["one", "two"]\nbad = ["nowhere"]\n')
    text = SSH_CONFIG.format(
        port=server.port, unused=qemu.free_port(), key=image.ssh_key(), folder=folder
    )
    (folder / "ssh_config").write_text(text)


def test_where_hosts_stand(fleet: Fleet) -> None:
    done = fleet.invoke("status", "--host", "both", "--host", "one", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        {
            "host": name,
            "kernel": platform.release(),
            "gs": "none",
            "system": "Debian GNU/Linux 12 (bookworm)",
        }
        for name in ("one", "two")
    ]


def test_by_way_of_another(fleet: Fleet) -> None:
    done = fleet.invoke("status", "--host", "behind")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["one", "behind"])
def test_small_packets_go_at_once(fleet: Fleet, name: str) -> None:
    """To the host that is connected to directly, which may be a jump host."""
    with connection_to(name, fleet.environment["GS_SSH_CONFIG"]) as connection:
        connection.open()
        direct = connection.gateway or connection
        assert direct.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


WHY = {
    "stranger": "its host key is not known",
    "changed": "its host key is another one",
    "locked": "it does not take root",
    "silent": "nothing answers at 127.0.0.1",
    "nowhere": "no address for nowhere.invalid",
    "one:port": "cannot reach one:port: invalid",
    "behind-a-stranger": "its host key is not known",
    "behind-one-that-sees-nothing": "one cannot connect to nowhere.invalid:",
}


def test_those_that_cannot_be_reached(fleet: Fleet) -> None:
    """Each says why, the others are not held up, and the closing line repeats these alone."""
    words = [word for name in ("one", *WHY, "two") for word in ("--host", name)]
    done = fleet.invoke("status", *words)
    assert done.returncode == 3
    rows = {line.split()[0]: line for line in done.stdout.splitlines()[1:]}
    assert list(rows) == ["one", *WHY, "two"]
    assert all(why in rows[name] for name, why in WHY.items()), done.stdout
    assert "Debian" in rows["one"] and "Debian" in rows["two"]
    (last,) = done.stderr.splitlines()
    again = " ".join(f"--host={name}" for name in WHY)
    assert last.endswith(f"for these alone: ./dev status {again}")


def test_what_would_be_done(fleet: Fleet) -> None:
    """A root file system is no machine of its own: that is what is in the way."""
    words = ("build-kernel", "--dry-run", "--kernel", "6.1", "--source", "debian")
    done = fleet.invoke(*words, "--host", "one", "--host", "plain", "--json")
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)
    assert told["series"] == "6.1" and set(told["hosts"]) == {"one", "plain"}
    bad = {
        name: [f["check"] for f in findings if f["level"] == "bad"]
        for name, findings in told["hosts"].items()
    }
    assert "connection" not in bad["plain"], done.stdout
    assert "loader" in bad["one"] and "rights" not in bad["one"]
    assert "rights" in bad["plain"]


def test_they_are_measured(tmp_path: Path) -> None:
    """By the benchmark: one and four, with a part of a processor each and without a limit, which is
    faster."""
    (tmp_path / "kernel").write_bytes(os.urandom(3_000_000))
    rows = loopback.measure(tmp_path / "kernel", trials=3)
    took = {(row["part"], row["hosts"]): row["ns"] for row in rows}
    assert list(took) == [(0.25, 1), (0.25, 4), (None, 1), (None, 4)] and len(rows) == 12
    assert min(r["ns"] for r in rows if r["part"]) > min(r["ns"] for r in rows if not r["part"])
    tops = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu"))
    assert not [left for top in tops for left in top.glob(f"gs-bench-{os.getpid()}-*")]


def test_a_shell_that_greets(fleet: Fleet) -> None:
    """With every command: what it says would be taken for the command's answer."""
    ssh = ["ssh", "-F", fleet.environment["GS_SSH_CONFIG"], "one"]
    greets = "cp .bashrc kept; sed -i '1i echo; echo Welcome' .bashrc"
    subprocess.run([*ssh, greets], check=True)
    try:
        planned = fleet.invoke("build-kernel", "--dry-run", "--kernel", "6.1", "--host", "one")
        verified = fleet.invoke("verify", "--host", "one")
    finally:
        subprocess.run([*ssh, "mv kept .bashrc"], check=True)
    for told, done in ((planned.stdout, planned), (verified.stderr, verified)):
        assert done.returncode == 3
        assert "its shell says something with every command: 'Welcome'" in told, told


@pytest.mark.parametrize(
    ("host", "password", "says"),
    [
        ("admin", "", "gs-admin becomes root by sudo"),
        ("asked", PASSWORD, "gs-asked by sudo's password"),
        ("asked", "battery staple", "sudo does not take the password that was given for gs-asked"),
        ("asked", "", "gs-asked cannot become root without a password"),
    ],
)
def test_who_becomes_root(fleet: Fleet, host: str, password: str, says: str) -> None:
    told = replace(fleet, environment={**fleet.environment, "INVOKE_SUDO_PASSWORD": password})
    words = ("build-kernel", "--dry-run", "--kernel", "6.1", "--source", "debian")
    done = told.invoke(*words, "--host", host)
    assert says in done.stdout, done.stdout + done.stderr
    assert not password or password not in fleet.log_of(host)


def test_nothing_is_built_for_a_host_that_is_not_ready(fleet: Fleet) -> None:
    done = fleet.invoke("build-kernel", "--kernel", "6.1", "--source", "debian", "--host", "one")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "one is not ready" in done.stderr and "there is no GRUB" in done.stderr
    assert "building" not in done.stderr and "fetching" not in done.stderr


def test_nothing_is_in_the_way(stock: Fleet) -> None:
    words = ("build-kernel", "--dry-run", "--kernel", "6.1", "--source", "debian")
    done = stock.invoke(*words, "--host", STOCK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GRUB (bios) can boot a kernel once" in done.stdout
    assert "cloud-amd64" in done.stdout


def test_a_host_is_verified(machine: machines.Machine, tmp_path: Path) -> None:
    """One with gs in its kernel, seen to run a handler; and nothing of ours is left there."""
    left = "ls -A /root; systemctl list-units --failed --plain --no-legend"
    before = machine.run(["sh", "-c", left]).stdout
    fleet = Fleet.of([machine], tmp_path)
    done = fleet.invoke("verify", "--host", machine.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[1].split() == [machine.name, "verified"]
    assert "6 passed" in fleet.log_of(machine.name)
    assert machine.run(["sh", "-c", left]).stdout == before


def test_a_stock_host_is_not(stock: Fleet) -> None:
    done = stock.invoke("verify", "--host", STOCK)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"1 of 1 hosts failed: {STOCK}; for these alone: ./dev verify" in done.stderr


def test_the_module_on_a_stock_host(tmp_path: Path) -> None:
    """From Debian as it comes, with the headers of its kernel and DKMS, to verified, and back; by a
    user whom sudo asks for a password, which nobody writes down."""
    name = f"tests-module-{os.getpid()}"
    base = stock_disk()
    try:
        machine = machines.up(base / image.KERNEL, name, base=base)
        fleet = Fleet.of([machine], tmp_path).by_sudo(machine)
        before, writable = state_of(machine), open_to_all(machine)
        words = ("build-kernel", "--module", "--host", name)
        assert fleet.invoke(*words, "--dry-run").returncode == 0
        assert state_of(machine) == before

        done = fleet.invoke(*words, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "module installed and loaded; verified" in done.stdout
        assert open_to_all(machine) == writable
        assert (
            json.loads(fleet.invoke("status", "--host", name, "--json").stdout)[0]["gs"] == "module"
        )

        done = fleet.invoke(*words, timeout=600)
        assert done.returncode == 0 and "nothing to do; verified" in done.stdout, (
            done.stdout + done.stderr
        )

        done = fleet.invoke("uninstall", "--host", name, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "removed gs-oom and gs-oom-dkms" in done.stdout
        assert state_of(machine) == before
        assert "nothing to do" in fleet.invoke("uninstall", "--host", name).stdout
        for log in (tmp_path / "hosts" / name).iterdir():
            assert PASSWORD not in log.read_text()
    finally:
        machines.down(name)


def test_the_log_has_what_was_run(fleet: Fleet) -> None:
    fleet.invoke("status", "--host", "two")
    log = fleet.log_of("two")
    assert "$ facts.sh" in log and f"release={platform.release()}" in log
    key = Path(image.ssh_key()).read_text().splitlines()[1]
    assert key not in log


def test_interrupted(fleet: Fleet) -> None:
    """A host that accepts connections and says nothing is not waited for."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        host = f"root@127.0.0.1:{mute.getsockname()[1]}"
        process = fleet.start("status", "--host", host)
        mute.settimeout(60)
        mute.accept()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert time.monotonic() - began < 5

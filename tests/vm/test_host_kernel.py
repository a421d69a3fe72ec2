"""A patched kernel on hosts that boot by themselves: tried once, kept only when it is good.

GS_BAD_KERNELS=all adds kernels that are not good, and what is cut short, each some minutes;
GS_HOST_SYSTEM names another system on the hosts (see fleet.py), and GS_HOST_CONFIG another
configuration than host, as distro, whose build takes long.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from provisioning import commands, config
from provisioning.errors import ProvisioningError
from provisioning.vm import image, machines, ssh_config, sshd
from tests.kernels import chosen_series, sources_of
from tests.vm.fleet import Fleet, open_to_all, state_of, stock_disk

#: Seconds for a build from nothing, and everything else that is done on the host.
DEADLINE = 2400


@dataclass(frozen=True)
class Target:
    """A host with its stock kernel at first, and the words that bring a patched one to it."""

    machine: machines.Machine
    fleet: Fleet
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.machine.name

    def release(self) -> str:
        return self.machine.run(["uname", "-r"]).stdout.strip()

    def state(self) -> str:
        return state_of(self.machine)


#: A host's log is found by its name: none has that of an earlier one.
_numbers = itertools.count()


@contextmanager
def targets(series: str, count: int) -> Iterator[list[Target]]:
    """Hosts that are alike, all behind one ssh_config."""
    names = [f"tests-kernel-{series}-{os.getpid()}-{next(_numbers)}" for _ in range(count)]
    words = ("build-kernel", "--kernel", series, "--source", sources_of(series))
    words += ("--config", os.environ.get("GS_HOST_CONFIG") or "host")
    base = stock_disk()
    try:
        up = [machines.up(base / image.KERNEL, name, base=base) for name in names]
        fleet = Fleet.of(up, config.cache_dir())
        yield [Target(one, fleet, words) for one in up]
    finally:
        for name in names:
            machines.down(name)


@pytest.fixture(params=chosen_series())
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with targets(request.param, 1) as (one,):
        yield replace(one, words=(*one.words, "--host", one.name))


@pytest.fixture(params=chosen_series())
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Target, Target]]:
    with targets(request.param, 2) as (first, second):
        yield first, second


#: Options that make a kernel of no use, by what it does then.
BAD = {
    "panics": 'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="rdinit=/no/such/init"\n',
    "has no network": "# CONFIG_VIRTIO_NET is not set\n",
    "does not see its disk": "# CONFIG_VIRTIO_BLK is not set\n",
}

#: One that begins with a program that waits for ever, before anything watches over it.
HANGS = 'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="rdinit=/bin/cat"\n'

#: A unit that stops systemd itself, and with it whatever feeds the watchdog.
STOPS_INIT = """\
[Unit]
ConditionKernelVersion=*-gs-*
[Service]
ExecStart=gdb -p 1 -batch -ex "shell sleep 9999"
[Install]
WantedBy=multi-user.target
"""


#: What makes verify fail, and does no harm to another kernel.
OFF = 'echo "-vm.graceful_shutdown_enabled=0" >/etc/sysctl.d/99-off.conf'


def test_there_and_back(pair: tuple[Target, Target]) -> None:
    """Two at once, from the stock kernel, by one command: the good one runs ours and is verified,
    the other one runs what it ran; and all the way back."""
    good, bad = pair
    assert bad.machine.run(["sh", "-c", OFF]).returncode == 0
    stock, before = good.release(), (good.state(), bad.state())
    writable = open_to_all(good.machine)
    hosts = ("--host", good.name, "--host", bad.name)
    done = good.fleet.invoke(*good.words, *hosts, timeout=DEADLINE)
    assert done.returncode == 3, done.stdout + done.stderr
    ours = good.release()
    assert ours.startswith(good.words[2] + ".") and "-gs-" in ours
    assert f"{ours} verified, and the default" in done.stdout
    assert open_to_all(good.machine) == writable
    assert f"{bad.name} is not verified: {stock} runs there again" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"--host={bad.name}")
    stand = json.loads(good.fleet.invoke("status", *hosts, "--json").stdout)
    assert [(row["kernel"], row["gs"]) for row in stand] == [(ours, "builtin"), (stock, "none")]

    done = good.fleet.invoke(*good.words, "--host", good.name, timeout=DEADLINE)
    assert done.returncode == 0 and "nothing to do; verified" in done.stdout, (
        done.stdout + done.stderr
    )

    done = good.fleet.invoke("rollback", "--host", good.name, timeout=DEADLINE)
    assert done.returncode == 0 and f"back on {stock}" in done.stdout, done.stdout + done.stderr
    assert good.release() == stock

    done = good.fleet.invoke("uninstall", *hosts, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (good.state(), bad.state()) == before


@pytest.fixture
def builder(target: Target, tmp_path: Path) -> Iterator[tuple[Target, sshd.Sshd, str]]:
    """The target; and a machine that has nothing yet of what building a kernel takes, and its name,
    which is new, as its log is."""
    name = f"builder-{os.getpid()}"
    with sshd.serving(tmp_path / "builder") as server:
        known, both = tmp_path / "known_hosts", tmp_path / "ssh_config"
        known.write_text(server.known_host)
        own = ssh_config.host(name, server.port, known, user="gs-admin")
        both.write_text(target.machine.ssh_config.read_text() + own)
        environment = {**target.fleet.environment, "GS_SSH_CONFIG": str(both)}
        yield replace(target, fleet=replace(target.fleet, environment=environment)), server, name


@contextmanager
def little_room(target: Target, name: str) -> Iterator[None]:
    """On the builder, for all that is ours: what preflight looks at has enough."""
    place = "/home/gs-admin/.cache/gs-oom"
    small = f"mkdir -p {place} && sudo mount -t tmpfs -o size=500M,uid=gs-admin tmpfs {place}"
    ssh = ["ssh", "-F", target.fleet.environment["GS_SSH_CONFIG"], name]
    commands.run([*ssh, small])
    try:
        yield
    finally:
        commands.run([*ssh, f"sudo umount {place} && rmdir {place}"])


def test_built_elsewhere(builder: tuple[Target, sshd.Sshd, str]) -> None:
    """Packages are installed, sources fetched, and the kernel is built on another machine, by a
    user of its; a full disk is said; killed meanwhile, and with its connections cut, the task finds
    the build again."""
    target, server, name = builder
    words = (*target.words, "--build-on", name)
    with little_room(target, name):
        full = target.fleet.invoke(*words, timeout=DEADLINE)
    assert full.returncode == 3, full.stdout + full.stderr
    assert "No space left on device" in full.stderr and "make room" in full.stderr

    first = target.fleet.start(*words)
    wait_until(lambda: "building Linux" in target.fleet.log_of(name))
    first.kill()
    first.wait()

    second = target.fleet.start(*words)
    try:
        wait_until(lambda: "it runs there already" in target.fleet.log_of(name))
        commands.run(["pkill", "-KILL", "-f", "^sshd: gs-admin@notty"])
        wait_until(lambda: "connecting again" in target.fleet.log_of(name))
        said = "".join(second.communicate(timeout=DEADLINE))
    finally:
        second.kill()
    assert second.returncode == 0, said
    assert f"{target.release()} verified, and the default" in said
    assert target.fleet.log_of(name).count("> building Linux") == 1
    home = server.root / "home/gs-admin"
    assert oct((home / ".cache/gs-oom").stat().st_mode)[-3:] == "700"
    done = target.fleet.invoke("uninstall", "--host", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (home / ".cache/gs-oom").exists()


def refused(target: Target, *words: str, trial: int) -> str:
    """A kernel that does not come up is not kept; what was said of it."""
    stock = target.release()
    fleet = replace(
        target.fleet,
        environment={**target.fleet.environment, "GS_TRIAL_SECONDS": str(trial)},
    )
    done = fleet.invoke(*target.words, *words, timeout=DEADLINE)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{stock} runs there again" in done.stderr
    assert target.release() == stock
    left = target.machine.run(["sh", "-c", "ls /etc/systemd/system/*; cat /boot/grub/grubenv"])
    assert "gs-oom-trial" not in left.stdout
    assert "next_entry=gnulinux" not in left.stdout  # GRUB leaves an empty one
    assert f"gnulinux-{stock}-advanced" in left.stdout
    return done.stderr


#: Each takes minutes.
thorough = pytest.mark.skipif("GS_BAD_KERNELS" not in os.environ, reason="GS_BAD_KERNELS: minutes")


@thorough
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_kernel(target: Target, tmp_path: Path, bad: str) -> None:
    """The machine comes back by itself, on the kernel before."""
    fragment = tmp_path / "bad.config"
    fragment.write_text(BAD[bad])
    said = refused(target, "--fragment", str(fragment), trial=45)
    assert "did not stay up, or had no network" in said


@thorough
def test_a_bad_kernel_where_grub_cannot_boot_once(target: Target, tmp_path: Path) -> None:
    """It is the default while it is tried, until it is up itself."""
    fragment = tmp_path / "bad.config"
    fragment.write_text(BAD["has no network"])
    refused(target, "--no-one-shot", "--fragment", str(fragment), trial=45)


@thorough
def test_a_kernel_that_hangs_before_any_watchdog(target: Target, tmp_path: Path) -> None:
    """Somebody has to switch it off and on; then the kernel before boots."""
    fragment = tmp_path / "bad.config"
    fragment.write_text(HANGS)
    cycled = threading.Thread(target=power_cycle_when_it_hangs, args=(target,))
    cycled.start()
    refused(target, "--fragment", str(fragment), trial=45)
    cycled.join()


def power_cycle_when_it_hangs(target: Target) -> None:
    """Of the kernel itself nothing is to be seen: the command line says quiet."""
    loading = re.compile(r"Loading Linux \S+-gs-")
    console = target.machine.console_log
    wait_until(lambda: bool(loading.search(console.read_text(errors="replace"))))
    time.sleep(60)
    machines.power_cycle(target.name)


@thorough
def test_a_tarball_for_whoever_takes_no_packages(target: Target, tmp_path: Path) -> None:
    """It is the host's kernel, whose packages the other tests install; unpacked by hand where dpkg
    knows nothing of it, it boots."""
    before = target.state()
    done = target.fleet.invoke(*target.words, "--tarball", str(tmp_path), timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.state() == before
    (made,) = tmp_path.glob("linux-*.tar.xz")
    assert str(made) in done.stdout
    commands.run(["sha256sum", "--check", f"{made.name}.sha256"], cwd=tmp_path)
    release = made.name.removeprefix("linux-").removesuffix(".tar.xz")
    commands.run(["scp", "-qF", target.machine.ssh_config, made, f"{target.name}:/root/"])
    by_hand = f"""
    export PATH="$PATH:/usr/sbin:/sbin"
    tar -C / --no-same-owner -xf /root/{made.name} && depmod {release} &&
    update-initramfs -c -k {release} && update-grub && systemctl --no-block reboot"""
    assert target.machine.run(["sh", "-c", by_hand]).returncode == 0
    wait_until(lambda: target.release() == release)


@thorough
def test_a_kernel_that_hangs_with_a_watchdog(target: Target) -> None:
    unit = "/etc/systemd/system/stops-init.service"
    script = f'printf "%s" "$1" >{unit}; systemctl enable --quiet stops-init'
    assert target.machine.run(["sh", "-c", script, "sh", STOPS_INIT]).returncode == 0
    refused(target, trial=1200)


@dataclass(frozen=True)
class Cut:
    """A line of the host's log, and what is cut short then beside the task itself."""

    line: str
    how: Callable[[Target], object] = lambda _: None


def power(target: Target) -> None:
    time.sleep(10)  # in the middle of it, wherever that is
    machines.power_cycle(target.name)


def connections(target: Target) -> None:
    """The host goes on with what it was told."""
    target.machine.run(["pkill", "-KILL", "-f", "^sshd: root@"])


CUTS = {
    "while it installs": Cut("apt-get -y"),
    "while it reboots": Cut("systemctl --no-block reboot"),
    "the power, while it installs": Cut("apt-get -y", power),
}


@thorough
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_cut_short(target: Target, cut: Cut) -> None:
    """The next run comes to the end."""
    stock = target.release()
    done = target.fleet.start(*target.words)
    wait_until(lambda: cut.line in target.fleet.log_of(target.name))
    cut.how(target)
    done.kill()
    done.wait()
    if cut.line.endswith("reboot"):
        wait_until(lambda: target.release() not in ("", stock))
    elif cut.how is power:
        wait_until(lambda: target.release() == stock)
    completes(target)


def completes(target: Target) -> None:
    again = target.fleet.invoke(*target.words, timeout=DEADLINE)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{target.release()} verified, and the default" in again.stdout


#: Holds the lock of dpkg's for as long as nobody ends it.
LOCKS = """\
import fcntl, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
time.sleep(9999)
"""


@thorough
def test_what_is_in_the_way_there(target: Target) -> None:
    """Each thing is said, on its own line, and does no harm; the next run without it completes."""
    fill = "fallocate -l $(($(df -k --output=avail /boot | tail -n 1) - 100000))K /filled"
    assert target.machine.run(["sh", "-c", fill]).returncode == 0
    fails(target, "MB are free in /boot, and it takes 150", "make room in /boot")
    assert target.machine.run(["rm", "/filled"]).returncode == 0

    holder = ["systemd-run", "--unit=holder", "python3", "-c", LOCKS]
    assert target.machine.run(holder).returncode == 0
    fails(target, "Could not get lock /var/lib/dpkg/lock-frontend", "held by process")
    assert target.machine.run(["systemctl", "stop", "holder"]).returncode == 0

    first = target.fleet.start(*target.words)
    wait_until(lambda: "apt-get -y" in target.fleet.log_of(target.name))
    time.sleep(5)
    connections(target)
    _, said = first.communicate(timeout=DEADLINE)
    assert first.returncode == 3, said
    assert "the connection was lost" in said
    completes(target)


def fails(target: Target, *says: str) -> None:
    done = target.fleet.invoke(*target.words, timeout=DEADLINE)
    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = [
        line for line in done.stderr.splitlines() if line.startswith("error: ") and says[0] in line
    ]
    assert all(word in line for word in says), line


def wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(DEADLINE):
        try:
            if reached():
                return
        except (ValueError, ProvisioningError):
            pass  # no log yet, or a machine that does not answer
        time.sleep(1)
    pytest.fail("what was waited for did not come")

"""A patched kernel on hosts that boot by themselves: tried once, kept only when it is good."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from provisioning import config
from provisioning.vm import disk, image, machines
from tests.kernels import chosen_series, sources_of
from tests.vm.fleet import Fleet, state_of

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

    def stands(self) -> dict[str, str]:
        done = self.fleet.invoke("status", "--host", self.name, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = json.loads(done.stdout)
        return dict(row)


@pytest.fixture(params=chosen_series())
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    series = request.param
    name = f"tests-kernel-{series}-{os.getpid()}"
    words = ("build-kernel", "--kernel", series, "--source", sources_of(series), "--config", "host")
    base = disk.of_host()
    try:
        machine = machines.up(base / image.KERNEL, name, base=base)
        yield Target(machine, Fleet.of_one(machine, config.cache_dir()), (*words, "--host", name))
    finally:
        machines.down(name)


#: Options that make a kernel of no use, by what it does then.
BAD = {
    "panics": 'CONFIG_CMDLINE_BOOL=y\nCONFIG_CMDLINE="rdinit=/no/such/init"\n',
    "has no network": "# CONFIG_VIRTIO_NET is not set\n",
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


def test_there_and_back(target: Target) -> None:
    """From the stock kernel to verified, by one command, and all the way back."""
    stock, before = target.release(), state_of(target.machine)
    done = target.fleet.invoke(*target.words, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    ours = target.release()
    assert f"{ours} verified, and the default" in done.stdout
    assert ours.startswith(target.words[2] + ".") and "-gs-" in ours
    assert target.stands()["gs"] == "builtin"

    done = target.fleet.invoke(*target.words, timeout=DEADLINE)
    assert done.returncode == 0 and "nothing to do; verified" in done.stdout, (
        done.stdout + done.stderr
    )

    done = target.fleet.invoke("rollback", "--host", target.name, timeout=DEADLINE)
    assert done.returncode == 0 and f"back on {stock}" in done.stdout, done.stdout + done.stderr
    assert target.release() == stock

    done = target.fleet.invoke("uninstall", "--host", target.name, timeout=DEADLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state_of(target.machine) == before


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
    assert "gs-oom-trial" not in left.stdout and "next_entry" not in left.stdout
    assert f"gnulinux-{stock}-advanced" in left.stdout
    return done.stderr


#: Each takes minutes: one of them every time, the others with GS_BAD_KERNELS.
thorough = pytest.mark.skipif("GS_BAD_KERNELS" not in os.environ, reason="GS_BAD_KERNELS: minutes")


@pytest.mark.parametrize("bad", ["has no network", pytest.param("panics", marks=thorough)])
def test_a_bad_kernel(target: Target, tmp_path: Path, bad: str) -> None:
    """The machine comes back by itself, on the kernel before."""
    fragment = tmp_path / "bad.config"
    fragment.write_text(BAD[bad])
    said = refused(target, "--fragment", str(fragment), trial=45)
    assert "did not stay up, or had no network" in said


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
    for _ in range(DEADLINE):
        if "Run /bin/cat as init process" in target.machine.console_log.read_text(errors="replace"):
            time.sleep(5)
            machines.power_cycle(target.name)
            return
        time.sleep(1)


@thorough
def test_a_kernel_that_hangs_with_a_watchdog(target: Target) -> None:
    unit = "/etc/systemd/system/stops-init.service"
    script = f'printf "%s" "$1" >{unit}; systemctl enable --quiet stops-init'
    assert target.machine.run(["sh", "-c", script, "sh", STOPS_INIT]).returncode == 0
    refused(target, trial=1200)

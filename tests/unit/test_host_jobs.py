"""The script by which long programs run on hosts, here on this one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from provisioning.builder import Order, from_json, to_json
from provisioning.config import REPO
from provisioning.kernel.build import KernelPackages
from provisioning.kernel.versions import Seed

SCRIPT = REPO / "provisioning/hosts/job.sh"

#: Prints, waits until it is told to go on, and prints again.
WAITS = ["sh", "-c", "echo one; echo two >&2; until [ -e go ]; do sleep 0.1; done; echo three >&2"]


def job(*words: str | Path) -> str:
    command = ["sh", SCRIPT.read_text(), "job.sh", *map(str, words)]
    done = subprocess.run(
        [command[0], "-c", *command[1:]], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def more(folder: Path, size: int = 0) -> tuple[str, int, str]:
    head, _, text = job("more", folder, str(size)).partition("\n")
    stands, new = head.split()
    return stands, int(new), text


def until(folder: Path, wanted: str) -> str:
    """All of the log, when the job stands so."""
    for _ in range(100):
        stands, _, text = more(folder)
        if stands == wanted:
            return text
        time.sleep(0.1)
    pytest.fail(f"the job never was {wanted}")


# systemd's unit would outlive what these tests can see of it.
pytestmark = pytest.mark.skipif(
    os.geteuid() == 0 and Path("/run/systemd/system").exists(), reason="it would start a unit"
)


def test_it_is_followed_and_found(tmp_path: Path) -> None:
    assert job("start", tmp_path, *WAITS) == "started\n"
    assert job("start", tmp_path, *WAITS) == "found\n"
    assert more(tmp_path) == ("runs", 4, "two\n")
    (tmp_path / "go").touch()
    until(tmp_path, "0")
    assert more(tmp_path, 4) == ("0", 10, "three\n")
    assert job("out", tmp_path) == "one\n"
    assert more(tmp_path, 10) == ("0", 10, "")


def test_another_one_begins_anew(tmp_path: Path) -> None:
    job("start", tmp_path, "sh", "-c", "echo wrong >&2; exit 7")
    assert until(tmp_path, "7") == "wrong\n"
    job("start", tmp_path, "sh", "-c", "echo right >&2")
    assert until(tmp_path, "0") == "right\n"


def test_one_that_is_killed_with_its_machine(tmp_path: Path) -> None:
    job("start", tmp_path, *WAITS)
    os.killpg(os.getpgid(int((tmp_path / "pid").read_text())), signal.SIGKILL)
    until(tmp_path, "lost")
    assert job("start", tmp_path, "true") == "started\n"
    until(tmp_path, "0")


def test_it_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    job("start", tmp_path, *WAITS)
    group = os.getpgid(int((tmp_path / "pid").read_text()))
    job("stop", tmp_path)
    until(tmp_path, "lost")
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(group, 0)
            time.sleep(0.1)
    job("stop", tmp_path)
    job("stop", tmp_path / "none")


def test_of_two_that_start_at_once_one_is_found(tmp_path: Path) -> None:
    command = ["sh", "-c", SCRIPT.read_text(), "job.sh", "start", str(tmp_path), *WAITS]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(one.communicate(timeout=60)[0] for one in both)
    assert said == ["found\n", "started\n"]
    assert more(tmp_path)[0] == "runs"
    (tmp_path / "go").touch()
    assert until(tmp_path, "0") == "two\nthree\n"


def test_a_status_that_could_not_be_written(tmp_path: Path) -> None:
    """As on a full disk."""
    job("start", tmp_path, "true")
    until(tmp_path, "0")
    (tmp_path / "status").write_text("")
    assert more(tmp_path)[0] == "lost"


def test_an_order_and_what_came_of_it() -> None:
    order = Order("6.1", "debian", "distro", seed=Seed("CONFIG_X=y\n", "ext4\n"), jobs=3)
    assert Order.from_json(order.to_json()) == order
    assert Order.from_json(Order("5.4", "x", "host").to_json()).seed is None
    for headers in (None, Path("/b.deb")):
        built = KernelPackages(Path("/a.deb"), headers, "6.1.1-gs-0")
        assert from_json(to_json(built)) == built

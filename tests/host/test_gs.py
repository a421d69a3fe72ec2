"""What makes a host good: gs is in its kernel, and a handler runs before a kill."""

from __future__ import annotations

import shlex
import uuid

import pytest
from testinfra.host import Host

from tests.guest import splats

#: ABI that the library speaks.
ABI = "1"

SCOPE = "systemd-run --quiet --collect --scope -p MemoryMax=64M -p MemorySwapMax=0"

#: With version 1 of memory cgroups systemd knows no limit for swap.
NO_SWAP = """\
group=$(sed -n s/.*:memory://p /proc/self/cgroup)
[ -z "$group" ] || echo 0 >"/sys/fs/cgroup/memory$group/memory.swappiness"
"""


def features_of(host: Host) -> dict[str, str]:
    lines = host.file("/proc/graceful_shutdown_features").content_string.splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_gs_is_in_the_kernel(host: Host) -> None:
    features = features_of(host)
    assert features["abi"] == ABI
    assert features["attachment"] in ("builtin", "module")
    assert features["static_usermodehelper"] == "0"
    assert host.sysctl("vm.graceful_shutdown_enabled") == 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("graceful_shutdown", 0o666),
        ("graceful_shutdown_events", 0o400),
        ("graceful_shutdown_features", 0o444),
    ],
)
def test_its_files_are_as_they_should_be(host: Host, name: str, mode: int) -> None:
    file = host.file(f"/proc/{name}")
    assert file.exists
    assert (file.user, file.mode) == ("root", mode)


def test_the_kernel_has_nothing_to_complain_of(host: Host) -> None:
    assert splats.report(host.check_output("dmesg").splitlines()) == ""


def test_a_handler_runs_before_the_kill(host: Host, tools: str) -> None:
    """A real OOM, in a memory cgroup of its own."""
    saved = f"{tools}/{uuid.uuid4().hex}"
    script = (
        f"{NO_SWAP}echo 1000 >/proc/self/oom_score_adj && "
        f'echo "$$ grace_ms=8000 {tools}/write_file {saved}" >/proc/graceful_shutdown && '
        f"exec {tools}/oom_condition_creator --now"
    )
    done = host.run(f"{SCOPE} sh -c {shlex.quote(script)}; echo ended $?")
    assert done.stdout.endswith("ended 137\n"), done.stdout + done.stderr
    told = dict(line.split("=", 1) for line in host.check_output(f"cat {saved}").splitlines())
    assert (told["victim_alive"], told["GS_CONSTRAINT"]) == ("1", "memcg")
    events = host.run("timeout 2 cat /proc/graceful_shutdown_events").stdout.splitlines()
    ours = [line for line in events if f" pid={told['GS_PID']} " in line]
    assert [line.split(" event=")[1].split()[0] for line in ours] == ["grace", "done", "kill"]

"""Inside the guest: lets two real OOMs happen to a registered program and writes down what was.

Usage: demo.py OUT. Writes OUT/story.json; judges nothing: that is done outside, where a broken
guest cannot help it.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REGISTRY = Path("/proc/graceful_shutdown")
EVENTS = "/proc/graceful_shutdown_events"
CGROUPS = Path("/sys/fs/cgroup")
LIMIT = 64 << 20
#: Seconds from Enter to the death of the victim; emulated, 512 MB take about ten, and minutes where
#: systemd's daemons fight for the last pages on a busy host.
DEADLINE = 400.0


def main(out: Path) -> int:
    """Both scenes, one after the other."""
    # Or this program meets the OOM before the victim does, which then takes what is set aside.
    ctypes.CDLL(None).mlockall(1 | 2)  # MCL_CURRENT | MCL_FUTURE
    out.mkdir(parents=True, exist_ok=True)
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    scenes = [
        play("memcg", out, oom_score_adj=0, limit=LIMIT),
        play("global", out, oom_score_adj=1000, limit=None),
    ]
    (out / "story.json").write_text(json.dumps(scenes, indent=1))
    return 0


def play(name: str, out: Path, oom_score_adj: int, limit: int | None) -> dict[str, object]:
    """One OOM: in a memory cgroup of its own with a limit, or of the whole machine."""
    saved = out / f"{name}-saved.txt"
    saved.unlink(missing_ok=True)
    group = make_group(f"gs-demo-{name}", limit)
    command = ["python3", "-m", "gs", "run", "/gs/bin/oom_condition_creator"]
    command += ["--on-oom", f"/gs/bin/write_file {saved}"]
    before = last_seq()
    began = time.monotonic()
    victim = subprocess.Popen(
        command,
        cwd="/gs",
        env={**os.environ, "PYTHONPATH": "/gs"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: enter(group, oom_score_adj),
    )
    assert victim.stdin and victim.stdout and victim.stderr
    ready = [victim.stdout.readline().decode() for _ in range(2)]
    registration = registration_of(victim.pid)
    status: int | None = None
    try:
        victim.stdin.write(b"\n")
        victim.stdin.close()
        status = victim.wait(timeout=DEADLINE * slower())
    except (subprocess.TimeoutExpired, BrokenPipeError):
        victim.kill()
        victim.wait()
    lines = events_of(victim.pid, before)
    scene = {
        "name": name,
        "command": command[2:],
        "pid": victim.pid,
        "printed": "".join(ready),
        "errors": victim.stderr.read().decode(errors="replace"),
        "registration": registration,
        "status": status,
        "seconds": time.monotonic() - began,
        "events": lines,
        "saved": saved.read_text() if saved.exists() else None,
        "log": kernel_log(victim.pid),
    }
    group.rmdir()
    return scene


def slower() -> float:
    """Times as long as usual that this kernel may take; who started the machine says so."""
    words = Path("/proc/cmdline").read_text().split()
    return float(dict(word.partition("=")[::2] for word in words).get("gs.slower", "1"))


def make_group(name: str, limit: int | None) -> Path:
    """A memory cgroup; what is OOM-killed in it belongs to no unit of systemd."""
    group = CGROUPS / name
    group.mkdir(exist_ok=True)
    if limit is not None:
        (group / "memory.max").write_text(str(limit))
    return group


def enter(group: Path, oom_score_adj: int) -> None:
    """In the child, before exec."""
    (group / "cgroup.procs").write_text("0")
    Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj))


def registration_of(pid: int) -> str | None:
    """The line of the registry as the kernel shows it."""
    lines = REGISTRY.read_text().splitlines() if REGISTRY.exists() else []
    return next((line for line in lines if line.split()[0] == str(pid)), None)


def event_lines() -> list[str]:
    """All records that the kernel has kept, oldest first."""
    try:
        stream = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    data = b""
    try:
        while block := os.read(stream, 1 << 16):
            data += block
    except BlockingIOError:
        pass
    finally:
        os.close(stream)
    return data.decode(errors="replace").splitlines()


def words(line: str) -> dict[str, str]:
    """key=value words of a record, values as they stand."""
    return dict(word.partition("=")[::2] for word in line.split())


def last_seq() -> int:
    """The number of the newest record, -1 if there is none."""
    lines = event_lines()
    return int(words(lines[-1])["seq"]) if lines else -1


def events_of(pid: int, after: int) -> list[str]:
    """The process's records behind that number; waits a little for the last one, the kill."""
    for _ in range(50):
        about = [words(line) | {"line": line} for line in event_lines()]
        ours = [w for w in about if int(w["seq"]) > after and w.get("pid") == str(pid)]
        if any(w["event"] == "kill" for w in ours):
            break
        time.sleep(0.1)
    return [w["line"] for w in ours]


def kernel_log(pid: int) -> list[str]:
    """The kernel's own lines about the kill."""
    log = subprocess.run(["dmesg"], stdout=subprocess.PIPE, check=True).stdout.decode(
        errors="replace"
    )
    return [line for line in log.splitlines() if f"Killed process {pid} " in line]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

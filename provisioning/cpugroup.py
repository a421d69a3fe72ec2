"""How much of a processor a command may have, and all that it starts: a cpu cgroup."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from provisioning.commands import Word
from provisioning.errors import HostFailed

#: Microseconds in which a group may use up its part, and then waits; with the usual 100 ms it waits
#: for long.
_PERIOD = 10_000

#: Seconds for the last of its processes to be gone.
_ENDING = 10.0

_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


class CpuGroup:
    """One at this path; ``limit`` may be set again and again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def before(self) -> Sequence[Word]:
        """What is put before a command that is to run in it."""
        return ("sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', self._path)

    def limit(self, part: float | None) -> None:
        """So much of one processor; None: as much as there is. cpu.max of version 2 of cgroups,
        cpu.cfs_quota_us of version 1."""
        quota = None if part is None else round(part * _PERIOD)
        if _is_v2():
            (self._path / "cpu.max").write_text(f"{quota or 'max'} {_PERIOD}")
        else:
            (self._path / "cpu.cfs_period_us").write_text(f"{_PERIOD}")
            (self._path / "cpu.cfs_quota_us").write_text(f"{quota or -1}")


@contextmanager
def made(name: str) -> Iterator[CpuGroup]:
    """For the length of the block, which ends what runs in it. HostFailed if it cannot be made."""
    path = (_V2 if _is_v2() else _V1) / name
    try:
        if _is_v2():
            (_V2 / "cgroup.subtree_control").write_text("+cpu")
        path.mkdir(exist_ok=True)
    except OSError as error:
        hint = "measure as root, and not in a container"
        raise HostFailed(f"no cpu cgroup {path} can be made", str(error), hint) from None
    try:
        yield CpuGroup(path)
    finally:
        _remove(path)


def _is_v2() -> bool:
    controllers = _V2 / "cgroup.controllers"
    return controllers.exists() and "cpu" in controllers.read_text().split()


def _remove(path: Path) -> None:
    """A group with processes in it is busy."""
    deadline = time.monotonic() + _ENDING
    while True:
        try:
            path.rmdir()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostFailed(f"the cpu cgroup {path} is not empty", str(error)) from None
            time.sleep(0.1)

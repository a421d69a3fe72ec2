"""What both backends on memory cgroups share: a limit to watch, and two guards that watch it.

A guard is a process of ours beside the program (gs.guard); what it does to a group is the few
lines that differ between the versions.
"""

from __future__ import annotations

import os

from .. import cgroup, procfile
from ..errors import GsError, NotSupported, PermissionDenied, UsageError
from ..paths import KernelFiles
from . import Armed, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..cgroup import Group, Hierarchy
    from ..procfile import Entry

#: Of the limit, what is kept for the time that a handler takes, and at least so many bytes.
_RESERVED_PART, _RESERVED_LEAST = 8, 8 << 20


def reserve_of(limit: int) -> int:
    """Bytes below a limit that are kept for the handler's time; of a tiny limit one half."""
    return min(max(limit // _RESERVED_PART, _RESERVED_LEAST), limit // 2)


class WatchedGroup:
    """A memory cgroup as its guards see it; ``notice`` is the descriptor that tells of an OOM."""

    #: What poll(2) is asked of ``notice``.
    events = 0

    def __init__(self, path: str) -> None:
        self.path = path
        self.notice = -1

    def arm(self) -> None:
        """Learn of an OOM from now on, and hold the program when it comes. OSError."""
        raise NotImplementedError

    def acknowledge(self) -> None:
        """Be told of the next one."""
        raise NotImplementedError

    def is_out_of_memory(self) -> bool:
        """Whether it is time for a handler."""
        raise NotImplementedError

    def hold(self) -> None:
        """A grace begins: let the program take as little as can be until it is released."""

    def is_relieved(self) -> bool:
        """Whether there is enough memory again, as far as can be seen at this moment."""
        raise NotImplementedError

    def release(self) -> None:
        """Let the program go on, and the kernel decide as if nobody watched. Never fails: the
        group may be gone."""
        raise NotImplementedError

    def kills(self) -> int:
        """How many of its processes the OOM killer has killed; on version 2 of the groups below,
        too."""
        raise NotImplementedError

    def ooms(self) -> int:
        """How many times its own limit was met with nothing left to reclaim."""
        raise NotImplementedError

    def usage(self) -> int:
        """Bytes that are charged to it."""
        raise NotImplementedError

    def limit(self) -> int:
        """Bytes that may be."""
        raise NotImplementedError

    def figures(self) -> dict[str, int | None]:
        """Its figures in a kill record, in kB."""
        raise NotImplementedError

    def _write(self, name: str, value: str) -> None:
        cgroup.write_file(f"{self.path}/{name}", value)

    def _number(self, name: str) -> int | None:
        return cgroup.read_number(f"{self.path}/{name}")

    def _kb(self, name: str) -> int | None:
        value = self._number(name)
        return None if value is None else value // 1024


class GuardedBackend(Backend):
    """A way to learn of the OOM of one memory cgroup from outside of it."""

    #: The version of the memory controller.
    version = 0

    def watched(self, path: str) -> WatchedGroup:
        """The group at this path, not armed."""
        raise NotImplementedError

    def is_there(self) -> bool:
        where = cgroup.hierarchy()
        return where is not None and where.version == self.version

    def unusable(self) -> GsError | None:
        return self._no_controller() or _no_place() or _no_record()

    def unusable_in_scope(self) -> GsError | None:
        """Why it could not be taken in a group that was delegated to this user either, or None."""
        return self._no_controller() or _no_record()

    def _no_controller(self) -> GsError | None:
        where = cgroup.hierarchy()
        what = f"no backend {self.name}"
        if where is None:
            return cgroup.not_mounted(what)
        if where.version != self.version:
            return NotSupported(what, f"the memory controller is of version {where.version}")
        return None

    def keys(self) -> tuple[str, ...]:
        return ("grace_ms", "signal", "scope")

    def describe(self) -> str:
        return f"{self.name} (guards beside the program)"

    def limit(self) -> int:
        """The nearest limit above this process, less what is in use there and what its handler
        needs: the program gets a group of its own below it, which must be full first."""
        where = cgroup.require()
        found = cgroup.nearest_limit(where)
        if found is None:
            raise NotSupported("no limit to watch", "give --memory-max")
        path, limit = found
        left = limit - _unreclaimable(path, where)
        return max(left - reserve_of(limit), cgroup.SMALLEST_LIMIT)

    def check(self, entry: Entry) -> None:
        ceiling = KernelFiles().read_sysctl("max_grace_ms") or procfile.MAX_GRACE_MS
        if entry.grace_ms is not None and entry.grace_ms > ceiling:
            raise UsageError(
                f"a grace time of {entry.grace_ms} ms", f"at most {ceiling} ms are taken"
            )

    def arm(self, entry: Entry, group: Group | None) -> Armed:
        from .. import guard, runfile

        assert group is not None
        disarm_abandoned()
        guard.occupy_streams()
        try:
            run = runfile.create(self.name, group.path, entry)
        except OSError as error:
            raise _cannot_write(error) from None
        try:
            guard.start(run, self.watched(group.path), group.where)
        except BaseException:
            run.remove()
            raise
        finally:
            run.close()
        return _Guarded()


class _Guarded(Armed):
    """The guards end by themselves when the process that they were started for has ended."""

    def disarm(self) -> None:
        pass  # the process ends next, and its group with it

    def close(self) -> None:
        pass


def _no_place() -> GsError | None:
    """What keeps a group for the program from being made, or None."""
    try:
        cgroup.find_place(cgroup.require())
    except GsError as error:
        return error
    return None


def _no_record() -> GsError | None:
    """What keeps a run from being written down, or None."""
    from .. import runfile

    error = runfile.refusal()
    return None if error is None else _cannot_write(error)


def _cannot_write(error: OSError) -> GsError:
    hint = "in a systemd unit: RuntimeDirectory=gs"
    if os.geteuid() != 0:
        hint = (
            "set XDG_RUNTIME_DIR to a directory of yours; in a systemd unit: RuntimeDirectory=NAME"
            " and Environment=XDG_RUNTIME_DIR=/run/NAME"
        )
    kind = PermissionDenied if isinstance(error, PermissionError) else NotSupported
    return kind("cannot write down the run", str(error), hint)


def _unreclaimable(path: str, where: Hierarchy) -> int:
    stat = cgroup.read_table(f"{path}/memory.stat")
    total = "total_" if where.version == 1 else ""
    cache = sum(stat.get(f"{total}{kind}_file", 0) for kind in ("active", "inactive"))
    return max((cgroup.read_number(f"{path}/{where.usage_file}") or 0) - cache, 0)


def disarm_abandoned() -> list[str]:
    """Disarm the groups whose guards are dead, and remove those that are empty; their paths."""
    from .. import runfile
    from ..handler import end_orphans
    from . import named

    paths = []
    for run in runfile.abandoned():
        backend = named(run.backend)
        if isinstance(backend, GuardedBackend):
            backend.watched(run.group).release()
        end_orphans(run.group)
        if not cgroup.members(run.group):
            cgroup.remove(run.group)
        # What still runs there goes on with nothing but the kernel's own decision.
        run.remove()
        paths.append(run.group)
    return paths

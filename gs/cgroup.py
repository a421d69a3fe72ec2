"""Memory control groups, v1 and v2: a group of its own with a limit for one program.

As much as `gs run` needs. A group is called gs-run-<pid> after the process that it was made for.
Where no guard waits for its end, empty ones are swept away by the next that makes one.
"""

from __future__ import annotations

import errno
import os
import time

from .errors import GsError, NotSupported, PermissionDenied, UsageError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

PREFIX = "gs-run-"
#: That of a handler: after it the rest of the run's name, a dot, and the victim's number.
HANDLER_PREFIX = "gs-handler-"
#: Of who had to move one down.
_HOME = "gs-home"
#: Below this a program cannot even be started.
SMALLEST_LIMIT = 1 << 20

#: Version 1 writes "no limit" as the most that fits, in whole pages.
_UNLIMITED = 1 << 62

#: Their engines mount it so unless they are told otherwise.
_FOR_CONTAINERS = (
    "mount it writable; a container needs: docker run --privileged, or podman run --security-opt"
    " unmask=/sys/fs/cgroup; or run gs-oom on the host"
)

_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


class Hierarchy(Record):
    """The memory controller as this process sees it: its version (1 or 2), the directory where
    its hierarchy is mounted, and the directory of a process's own group, mostly this one's."""

    __slots__ = ("mount", "own", "version")

    def __init__(self, version: int, mount: str, own: str) -> None:
        self.version = version
        self.mount = mount
        self.own = own

    @property
    def limit_file(self) -> str:
        """The name of the file that holds a group's limit."""
        return "memory.max" if self.version == 2 else "memory.limit_in_bytes"

    @property
    def usage_file(self) -> str:
        """The name of the file that says what is charged to a group."""
        return "memory.current" if self.version == 2 else "memory.usage_in_bytes"

    @property
    def swap_file(self) -> str:
        """The name of the file that limits swap, on version 1 together with memory; a kernel that
        does not account for swap has none."""
        return "memory.swap.max" if self.version == 2 else "memory.memsw.limit_in_bytes"


def hierarchy(proc: str = "/proc", pid: str = "self") -> Hierarchy | None:
    """The memory controller's hierarchy as a process stands in it, v1 where that has the
    controller; None without a memory controller.

    Source: <proc>/<pid>/cgroup and <proc>/self/mountinfo.
    """
    groups = groups_of(pid, proc)
    for mount, root, options in _mounts(f"{proc}/self/mountinfo"):
        version = 1 if options is not None else 2
        if version == 1 and "memory" not in (options or ()):
            continue
        if version == 2 and ("memory" in groups or "memory" not in _controllers(mount)):
            continue
        path = groups.get("memory" if version == 1 else "")
        if path is not None:
            return Hierarchy(version, mount, _below(mount, root, path))
    return None


def groups_of(pid: str, proc: str = "/proc") -> dict[str, str]:
    """Controller to the path of the process's group; the unified hierarchy is called ""."""
    groups = {}
    for line in read_file(f"{proc}/{pid}/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = group
    return groups


def _mounts(path: str) -> Iterator[tuple[str, str, list[str] | None]]:
    """Mount point, root within the hierarchy, and controllers (None: v2) of each cgroup mount."""
    for line in read_file(path).splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), (right.split(" ") + ["", "", ""])[:3]
        if kind in ("cgroup", "cgroup2"):
            controllers = None if kind == "cgroup2" else options.split(",")
            yield _plain(fields[4]), _plain(fields[3]), controllers


def _plain(path: str) -> str:
    for escaped, char in _ESCAPES:
        path = path.replace(escaped, char)
    return path


def _below(mount: str, root: str, path: str) -> str:
    """The directory of a group, where only a part of the hierarchy may be mounted."""
    if root != "/" and (path + "/").startswith(root + "/"):
        path = path[len(root) :]
    return (mount + path).rstrip("/")


def _controllers(group: str) -> list[str]:
    return read_file(f"{group}/cgroup.controllers").split()


def read_file(path: str) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def write_file(path: str, value: str) -> None:
    """Write a value in one go; OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write(value)


def read_number(path: str) -> int | None:
    """A file's one number; None for `max`, for what version 1 has instead, and without the file."""
    text = read_file(path).strip()
    value = int(text) if text.isdigit() else None
    return None if value is None or value >= _UNLIMITED else value


def read_table(path: str) -> dict[str, int]:
    """A file of one `key number` a line, such as memory.stat."""
    rows = (line.split() for line in read_file(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


# ---------------------------------------------------------------------------- one group


class Group:
    """A memory cgroup of our own. Made with its limits set, and empty."""

    def __init__(self, path: str, where: Hierarchy) -> None:
        self.path = path
        self.where = where

    def enter(self) -> None:
        """Move the calling process in."""
        try:
            write_file(f"{self.path}/cgroup.procs", "0")
        except OSError as error:
            raise _failed(f"cannot enter {self.path}", error) from None

    def leave_and_remove(self) -> None:
        """Move the calling process back to where it was, and remove the group."""
        try:
            write_file(f"{self.where.own}/cgroup.procs", "0")
            os.rmdir(self.path)
        except OSError:
            pass  # it is empty once this process has ended; the next one made sweeps it away


def find_place(where: Hierarchy) -> str:
    """The directory in which :func:`make` would make a group; nothing is changed.

    Raises NotSupported or PermissionDenied where that would fail, as far as can be told before.
    """
    place = parent_for_child(where, change=False)
    number = refusal(place)
    if number:
        error = OSError(number, os.strerror(number))
        raise _failed(f"cannot make a memory cgroup in {place}", error)
    return place


def refusal(directory: str) -> int:
    """The errno of making a directory there, 0 if nothing speaks against it."""
    if os.access(directory, os.W_OK):
        return 0
    try:
        read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EROFS if read_only else errno.EACCES


def parent_for_child(where: Hierarchy, change: bool = True) -> str:
    """The directory in which a group of ours can be made without escaping any limit.

    v1: the own group. v2: the own group if it may have children with memory limits, else its
    parent, if the own group has no limit that would be escaped so, else the own group if this
    process is alone in it. With ``change`` the root is asked to hand the controller on where it
    does not do so yet, and who is alone makes room by moving one down.
    """
    if where.version == 1 or _may_have_children(where.own, where.mount, change):
        return where.own
    alone = _is_alone(where.own)
    try:
        parent = _parent_without_escape(where)
        if os.access(parent, os.W_OK) or not alone:
            return parent
    except NotSupported:
        if not alone:
            raise
    if change:
        _make_room(where.own)
    return where.own


def _is_alone(group: str) -> bool:
    """Whether this process is the only one in a group of its own, as in a delegated scope."""
    if read_file(f"{group}/cgroup.procs").split() != [str(os.getpid())]:
        return False
    return "memory" in _controllers(group) and os.access(f"{group}/cgroup.subtree_control", os.W_OK)


def _make_room(group: str) -> None:
    """Move this process one down: a group with processes in it hands no controllers on."""
    home = f"{group}/{_HOME}"
    try:
        if not os.path.isdir(home):
            os.mkdir(home)
        write_file(f"{home}/cgroup.procs", "0")
        write_file(f"{group}/cgroup.subtree_control", "+memory")
    except OSError as error:
        raise _failed(f"cannot make room in {group}", error) from None


def _parent_without_escape(where: Hierarchy) -> str:
    parent = os.path.dirname(where.own)
    if len(parent) < len(where.mount) or "memory" not in _enabled(parent):
        raise _no_room(where.own, "processes and limited groups cannot stand side by side there")
    for limit in ("memory.max", "memory.high", "memory.swap.max"):
        if read_file(f"{where.own}/{limit}").strip() not in ("", "max"):
            raise _no_room(where.own, f"its own {limit} would be escaped")
    return parent


def _may_have_children(group: str, mount: str, change: bool) -> bool:
    """Only the root may hold processes and hand controllers on; it does so when asked to."""
    if "memory" in _enabled(group):
        return True
    if group != mount or os.path.exists(f"{group}/cgroup.type"):
        return False
    try:
        if change:
            write_file(f"{group}/cgroup.subtree_control", "+memory")
    except OSError as error:
        raise _failed(f"cannot hand the memory controller on in {group}", error) from None
    return True


def _enabled(group: str) -> list[str]:
    return read_file(f"{group}/cgroup.subtree_control").split()


def _no_room(group: str, why: str) -> NotSupported:
    return NotSupported(
        f"cannot make a memory cgroup in {group}",
        why,
        "start it as: systemd-run --scope -p MemoryMax=SIZE gs-oom run ... without --memory-max",
    )


def make(
    memory_max: int,
    swap_max: int | None = 0,
    where: Hierarchy | None = None,
    must_limit_swap: bool = False,
) -> Group:
    """A new group that holds ``memory_max`` bytes, and ``swap_max`` bytes of swap beside them
    (None: as much as there is; so too where swap cannot be limited, unless it must be).

    Raises UsageError, NotSupported, PermissionDenied.
    """
    check_limit(memory_max)
    where = where or require()
    parent = parent_for_child(where)
    sweep(parent)
    path = f"{parent}/{PREFIX}{os.getpid()}"
    if os.path.exists(path):
        # Left by a process that had this number before and whose children still run.
        path = f"{path}-{os.urandom(3).hex()}"
    try:
        os.mkdir(path)
    except OSError as error:
        raise _failed(f"cannot make a memory cgroup in {parent}", error) from None
    try:
        if must_limit_swap:
            check_swap(path, where)
        _set_limits(path, where, memory_max, swap_max)
    except OSError as error:
        os.rmdir(path)
        raise _failed(f"cannot limit {path}", error) from None
    except GsError:
        os.rmdir(path)
        raise
    return Group(path, hierarchy() or where)  # it may have moved


def check_limit(memory_max: int) -> None:
    """UsageError for a limit in which nothing can run."""
    if memory_max < SMALLEST_LIMIT:
        raise UsageError(f"a memory limit of {memory_max} bytes", "nothing can run in less than 1M")


def limits_swap(group: str, where: Hierarchy) -> bool:
    """Whether swap can be limited in a group, or in one that is made in it; also where nothing
    tells: in a root of version 2 that has no groups."""
    for path in _with_children(group):
        if os.path.exists(f"{path}/{where.limit_file}"):
            return os.path.exists(f"{path}/{where.swap_file}")
    return True


def _with_children(group: str) -> Iterator[str]:
    yield group
    try:
        yield from [entry.path for entry in os.scandir(group) if entry.is_dir()]
    except OSError:
        pass  # it is still to be made


def check_swap(group: str, where: Hierarchy) -> None:
    """NotSupported where swap cannot be limited there."""
    if not limits_swap(group, where):
        raise NotSupported(
            f"cannot limit swap in {group}",
            "this kernel does not account for it",
            "boot it with swapaccount=1",
        )


def has_swap() -> bool:
    """Whether this machine swaps to anything."""
    return read_file("/proc/swaps").count("\n") > 1


def not_mounted(what: str) -> NotSupported:
    """That something cannot be had because there is no hierarchy, and how there would be one."""
    return NotSupported(
        what,
        "the memory controller is not mounted, or not in this kernel",
        "mount it with: mount -t cgroup2 none /sys/fs/cgroup",
    )


def require() -> Hierarchy:
    """The hierarchy, or NotSupported."""
    where = hierarchy()
    if where is None:
        raise not_mounted("no memory cgroup can be made")
    return where


def _set_limits(path: str, where: Hierarchy, memory_max: int, swap_max: int | None) -> None:
    write_file(f"{path}/{where.limit_file}", str(memory_max))
    if swap_max is None:
        return
    if limits_swap(path, where):
        value = swap_max if where.version == 2 else memory_max + swap_max
        write_file(f"{path}/{where.swap_file}", str(value))
    elif where.version == 1 and not swap_max:
        # Swap is not accounted for on this machine: do not use it is as near as it gets.
        write_file(f"{path}/memory.swappiness", "0")


def _failed(what: str, error: OSError) -> GsError:
    if isinstance(error, PermissionError):
        return PermissionDenied(what, str(error.strerror), "run it as root, or in a delegated one")
    if error.errno == errno.EROFS:
        return NotSupported(what, "/sys/fs/cgroup is read-only", _FOR_CONTAINERS)
    return NotSupported(what, str(error.strerror), "`gs-oom doctor` says what is mounted here")


def nearest_limit(where: Hierarchy) -> tuple[str, int] | None:
    """The first group with a finite limit from a process's own upwards, and that limit."""
    path = where.own
    while path.startswith(where.mount):
        limit = read_number(f"{path}/{where.limit_file}")
        if limit is not None:
            return path, limit
        path = os.path.dirname(path)
    return None


# ---------------------------------------------------------------------------- who is in a group


def members(path: str) -> list[int]:
    """The processes in a group and in the groups below it; none if it is not there."""
    pids = []
    for directory, _, _ in os.walk(path):
        pids += [int(word) for word in read_file(f"{directory}/cgroup.procs").split()]
    return pids


def kill_members(path: str) -> bool:
    """Send SIGKILL to all in a group, and those below it; whether there was anybody."""
    pids = members(path)
    if not pids:
        return False
    try:
        write_file(f"{path}/cgroup.kill", "1")  # version 2, from Linux 5.14
    except OSError:
        for pid in pids:
            try:
                os.kill(pid, 9)
            except OSError:
                pass  # it has just ended
    return True


def remove(path: str) -> bool:
    """Remove a group and those below it, which nobody may be in; whether it is gone."""
    for directory, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            pass
    return not os.path.exists(path)


def remove_when_empty(path: str) -> bool:
    """The same, with some patience for those who are still on their way out."""
    for _ in range(100):
        if remove(path):
            return True
        time.sleep(0.02)
    return False


def killed_together(where: Hierarchy) -> list[str]:
    """Those groups around a process, from its own upwards, whose members are OOM-killed as one."""
    found, path = [], where.own
    while len(path) > len(where.mount):
        if read_file(f"{path}/memory.oom.group").strip() == "1":
            found.append(path)
        path = os.path.dirname(path)
    return found


# ---------------------------------------------------------------------------- the ones before


def stale(parent: str) -> list[str]:
    """Groups of ours in ``parent`` whose process is gone, that nobody is in, and nobody watches."""
    from .runfile import lasts

    try:
        names = sorted(name for name in os.listdir(parent) if name.startswith(PREFIX))
    except OSError:
        return []
    paths = []
    for name in names:
        pid = name[len(PREFIX) :].partition("-")[0]
        # A group whose maker still runs may be about to be entered. Ours is not made yet.
        done = pid == str(os.getpid()) or not os.path.exists(f"/proc/{pid}")
        # Guards look into a group after its end, for what it was that ended it.
        if done and not lasts(pid) and not read_file(f"{parent}/{name}/cgroup.procs"):
            paths.append(f"{parent}/{name}")
    return paths


def sweep(parent: str) -> None:
    """Remove the stale groups; one that is not empty after all stays."""
    for path in stale(parent):
        try:
            os.rmdir(path)
        except OSError:
            pass


def places(where: Hierarchy) -> list[str]:
    """The directories in which groups of ours can stand: see :func:`parent_for_child`."""
    return [where.own] if where.own == where.mount else [where.own, os.path.dirname(where.own)]


def sweep_everywhere() -> None:
    """Remove the stale groups wherever this process could have made them."""
    where = hierarchy()
    for place in places(where) if where else ():
        sweep(place)

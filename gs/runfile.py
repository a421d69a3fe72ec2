"""One file for each guarded run: which group it watches, and for whom.

Its guards hold a lock on it as long as one of them lives. Where nobody holds the lock nobody
watches any more, and what was armed has to be disarmed by whoever comes by.
"""

from __future__ import annotations

import errno
import fcntl
import os

from . import cgroup, procfile
from .paths import run_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .procfile import Entry

_PREFIX = "run-"


class RunFile:
    """The file of one run: the backend's name, the group, and the line of the registry that says
    the same. Who made it holds its lock, and so do the processes that inherit it."""

    def __init__(self, path: str, fd: int, backend: str, group: str, entry: Entry) -> None:
        self.path = path
        self.fd = fd
        self.backend = backend
        self.group = group
        self.entry = entry

    @property
    def directory(self) -> str:
        """That of all these files, and of the events."""
        return os.path.dirname(self.path)

    def exists(self) -> bool:
        """Whether the run is not over yet."""
        return os.path.exists(self.path)

    def remove(self) -> None:
        """The run is over."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """Let go of the lock, which others may still hold."""
        os.close(self.fd)


def create(backend: str, group: str, entry: Entry) -> RunFile:
    """Write the file of a new run, which is seen only when it is locked; OSError."""
    directory = run_directory()
    os.makedirs(directory, 0o755, exist_ok=True)
    text = f"{backend}\n{procfile.escape(group)}\n{procfile.format_command(entry)}\n"
    hidden = f"{directory}/.{_PREFIX}{entry.pid}"
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, os.fsencode(text))
        path = _publish(hidden, f"{directory}/{_PREFIX}{entry.pid}")
    except OSError:
        os.close(fd)
        raise
    finally:
        os.unlink(hidden)
    return RunFile(path, fd, backend, group, entry)


def refusal() -> OSError | None:
    """Why :func:`create` would fail, as far as can be told before; nothing is changed."""
    directory = place = run_directory()
    while not os.path.exists(place):
        place = os.path.dirname(place) or "."
    number = cgroup.refusal(place) if os.path.isdir(place) else errno.ENOTDIR
    return OSError(number, os.strerror(number), directory) if number else None


def _publish(hidden: str, path: str) -> str:
    """Give the file its name: another one where the same process is in a run already."""
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        try:
            os.link(hidden, path + suffix)
            return path + suffix
        except FileExistsError:
            pass
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _open(path: str) -> RunFile | None:
    """The file as it stands, not locked; None if it is not there, or no such file."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    lines = os.fsdecode(os.read(fd, 4 * procfile.LINE_MAX)).splitlines()
    try:
        backend, group, command = lines
        entry = procfile.parse_command(command, procfile.INT_MAX)
        assert isinstance(entry, procfile.Entry)
        return RunFile(path, fd, backend, procfile.unescape(group), entry)
    except (ValueError, AssertionError):
        os.close(fd)
        return None


def names() -> list[str]:
    """Of the files of all runs that are not over; for those who may look but not write."""
    try:
        return sorted(name for name in os.listdir(run_directory()) if name.startswith(_PREFIX))
    except OSError:
        return []


def _all() -> Iterator[RunFile]:
    directory = run_directory()
    for name in names():
        found = _open(f"{directory}/{name}")
        if found is not None:
            yield found
            found.close()


def _is_free(run: RunFile) -> bool:
    try:
        fcntl.flock(run.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    # Whoever held it until now may have ended the run in the meantime.
    return run.exists()


def lasts(pid: int | str) -> bool:
    """Whether a run of this process is not over yet."""
    return any(f"{name}-".startswith(f"{_PREFIX}{pid}-") for name in names())


def guarded() -> list[Entry]:
    """What is registered with guards that live."""
    return [entry for _, entry in guarded_groups()]


def guarded_groups() -> list[tuple[str, Entry]]:
    """The same, each with the directory of the group that is guarded."""
    return [(run.group, run.entry) for run in _all() if not _is_free(run)]


def abandoned() -> Iterator[RunFile]:
    """The runs whose guards are dead; each is locked as long as it is the current one."""
    for run in _all():
        if _is_free(run):
            yield run

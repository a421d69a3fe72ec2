"""Where things are: the kernel's files, and what is found by searching PATH."""

from __future__ import annotations

import os

from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

#: Names the directory where the proc file system is mounted, if that is not /proc.
PROCFS_VARIABLE = "GS_PROCFS"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def procfs() -> str:
    """Where the proc file system is mounted."""
    return os.environ.get(PROCFS_VARIABLE) or "/proc"


class KernelFiles(Record):
    """The kernel's files; each can be another file, such as a recorded one."""

    __slots__ = ("events", "features", "registry", "sysctl")

    def __init__(
        self,
        registry: str | None = None,
        events: str | None = None,
        features: str | None = None,
        sysctl: str | None = None,
    ) -> None:
        proc = procfs()
        self.registry = registry or f"{proc}/graceful_shutdown"
        self.events = events or f"{proc}/graceful_shutdown_events"
        self.features = features or f"{proc}/graceful_shutdown_features"
        self.sysctl = sysctl or f"{proc}/sys/vm"

    def read_sysctl(self, name: str) -> int | None:
        """A whole number from vm.graceful_shutdown_<name>, or None where it is not there."""
        try:
            with open(f"{self.sysctl}/graceful_shutdown_{name}", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return None


def candidates(name: str) -> Iterator[str]:
    """Every path that ``name`` may stand for: itself if it has a slash, else one for each
    directory of PATH, existing or not, as execvp(3) looks for them."""
    if "/" in name:
        yield name
    elif name:
        for directory in (os.environ.get("PATH") or DEFAULT_PATH).split(":"):
            yield f"{directory or '.'}/{name}"


def find_program(name: str) -> str | None:
    """The first file that can be executed, else the first that at least exists, else None."""
    existing = None
    for path in candidates(name):
        if not os.path.isfile(path):
            continue
        if os.access(path, os.X_OK):
            return path
        existing = existing or path
    return existing


def absolute(path: str) -> str:
    """The path from the root, not otherwise changed: ``..`` may cross a symbolic link."""
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path if path.startswith("/") else f"{os.getcwd().rstrip('/')}/{path}"


# ---------------------------------------------------------------------------- files of ours

#: Names the directory of what a guarded run leaves for others to read, if that is another one.
RUN_DIRECTORY_VARIABLE = "GS_RUN_DIRECTORY"


#: Set in a scope that was made for gs, so that one that does not help is not asked for again.
SCOPE_MARK = "GS_SCOPED"


def run_directory() -> str:
    """Where guarded runs and their events are written down: /run/gs, of a user $XDG_RUNTIME_DIR/gs.

    It need not exist.
    """
    chosen = os.environ.get(RUN_DIRECTORY_VARIABLE)
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return "/run/gs"
    return (os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}") + "/gs"

"""Where things lie and what the user's environment says; reads no files."""

from __future__ import annotations

import os
from pathlib import Path

#: The checkout.
REPO: Path = Path(__file__).resolve().parent.parent

#: Kernel series that we carry patches for, the home series first.
SERIES: tuple[str, ...] = ("5.4", "5.10", "6.1", "6.12")

#: The date of all that is packed, in seconds since 1970: the same sources give the same file.
EPOCH = "1767225600"

#: Beyond this many bytes the cache drops what was not used for longest.
CACHE_LIMIT = 20 * 10**9

#: Where the password is that sudo asks for on a host; Invoke's own name for it.
SUDO_PASSWORD = "INVOKE_SUDO_PASSWORD"


def cache_dir() -> Path:
    """``${GS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/gs}``; made by whoever writes into it."""
    own = os.environ.get("GS_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "gs"


def jobs() -> int:
    """How many compilers may run at once: GS_JOBS, else the processors we may use."""
    asked = os.environ.get("GS_JOBS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def source_from_environment(series: str) -> str | None:
    """The source tree or tarball that the tester supplied, e.g. GS_KERNEL_SOURCE_5_4."""
    return os.environ.get("GS_KERNEL_SOURCE_" + series.replace(".", "_")) or None


def sudo_password() -> str:
    """What sudo is to be told where it asks, or nothing."""
    return os.environ.get(SUDO_PASSWORD, "")

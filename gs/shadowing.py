"""Two programs of one name: finding a Ghostscript behind our `gs`, and saying who hides whom."""

from __future__ import annotations

import os

from .paths import DEFAULT_PATH

_NAME = "gs"


def is_called_gs(program: str) -> bool:
    """Whether the command was called by the name that Ghostscript has too."""
    return os.path.basename(program) == _NAME


def programs_on_path() -> list[str]:
    """Every executable `gs` on PATH, in PATH's order, each file once."""
    found: dict[str, str] = {}
    for directory in (os.environ.get("PATH") or DEFAULT_PATH).split(":"):
        path = f"{directory or '.'}/{_NAME}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def is_ours(path: str) -> bool:
    """Whether a `gs` is this program: ours are Python's, a Ghostscript never is."""
    try:
        with open(path, "rb") as file:
            first = file.readline(4096)
            second = file.readline(4096)
    except OSError:
        return False
    # pip writes `#!/bin/sh` and an exec on the second line where the path is long or has spaces.
    return first.startswith(b"#!") and (b"python" in first or b"python" in second)


def ghostscript(program: str) -> str | None:
    """The first `gs` behind ours on PATH that is not ours too; None if there is none."""
    behind = not os.path.dirname(program)
    own = os.path.realpath(program)
    paths = programs_on_path()
    behind = behind or own not in map(os.path.realpath, paths)
    for path in paths:
        if os.path.realpath(path) == own:
            behind = True
        elif behind and not is_ours(path):
            return path
    return None

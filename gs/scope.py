"""A user under systemd has no memory cgroup that he may make others in, but may have one made."""

from __future__ import annotations

import os
import sys

from .paths import SCOPE_MARK, find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping


def is_available() -> bool:
    """Whether :func:`enter` would not come back, as far as can be told before."""
    return _command() is not None


def enter() -> None:
    """Become the same command in a delegated scope of its own, in the same process; comes back
    where that is not to be had."""
    command = _command()
    if command is not None:
        with open("/proc/self/cmdline", "rb") as file:
            words = file.read().split(b"\0")[1:-1]
        try:
            os.execv(command[0], [*map(os.fsencode, command), os.fsencode(sys.executable), *words])
        except OSError:
            pass  # then without


def _command() -> list[str] | None:
    """What is to be written before this command; None where that cannot be, or does not help."""
    from .backends.cgroup2 import Cgroup2Backend

    command = scoped_command(os.environ, os.geteuid())
    if command is None or Cgroup2Backend().unusable_in_scope() is not None:
        return None
    return command if _works([*command, "true"]) else None


def _works(command: list[str]) -> bool:
    """Whether it ends well. From the exec of one that does not, there would be no way back."""
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=silent)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False


def scoped_command(environment: Mapping[str, str], uid: int) -> list[str] | None:
    """What is written before a command to have it in a scope; None where that cannot be."""
    systemd_run = find_program("systemd-run")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    reachable = os.path.exists(f"{runtime}/systemd/private") or os.path.exists(f"{runtime}/bus")
    if uid == 0 or SCOPE_MARK in environment or systemd_run is None or not (runtime and reachable):
        return None
    options = ["--user", "--scope", "--collect", "--quiet", "-p", "Delegate=yes"]
    return [systemd_run, *options, f"--setenv={SCOPE_MARK}=1", "--"]

"""The tree of errors of gs; the only place that ties a failure to its wording and exit code."""

from __future__ import annotations

#: Exit codes of `gs run` before PROG began, as env(1) and timeout(1) have them.
RUN_FAILED, RUN_NOT_EXECUTABLE, RUN_NOT_FOUND = 125, 126, 127


class GsError(Exception):
    """gs could not do what was asked: what failed, why, and what to do about it.

    ``str()`` is always one line. ``exit_code`` is what the command exits with, except in
    `gs run`, where everything that fails before PROG begins is 125, 126 or 127.
    """

    exit_code = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        line = self.what
        if self.why:
            line += f": {self.why}"
        if self.hint:
            line += f"; {self.hint}"
        return " ".join(line.split())


class UsageError(GsError, ValueError):
    """The request is wrong in itself, wherever it is made."""

    exit_code = 2


class NotSupported(GsError):
    """This machine, or this kernel, does not offer what was asked."""

    exit_code = 3


class RegistryFull(GsError):
    """The kernel holds as many registrations as vm.graceful_shutdown_max_entries allows."""

    exit_code = 3


class MalformedLine(GsError, ValueError):
    """A line is not of the grammar; ``errno_name`` is what the kernel would answer to it."""

    exit_code = 3

    def __init__(self, what: str, why: str = "", hint: str = "", errno_name: str = "EINVAL"):
        super().__init__(what, why, hint)
        self.errno_name = errno_name


class NoSuchProcess(GsError):
    """There is no such process, it cannot be registered, or it has no registration."""

    exit_code = 4


class PermissionDenied(GsError):
    """The caller may not do this."""

    exit_code = 5


class InvalidHandler(GsError):
    """The handler does not exist, cannot be executed, or cannot be written down."""

    exit_code = 6


class ProgramNotExecutable(GsError):
    """`gs run` found PROG, but it cannot be executed."""

    exit_code = RUN_NOT_EXECUTABLE


class ProgramNotFound(GsError):
    """`gs run` did not find PROG."""

    exit_code = RUN_NOT_FOUND

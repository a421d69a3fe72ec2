"""The tree of errors and their exit codes; the only place that knows how a failure is worded."""

from __future__ import annotations

from pathlib import Path

from gs.errors import GsError

#: What to do where a file cannot be written.
MAKE_ROOM = "make room there, or set GS_CACHE to another place"

#: Lines of a log that a failure report quotes.
TAIL_LINES = 15


class ProvisioningError(GsError):
    """Something failed that the user must hear about: what, why, what to do, in one line.

    ``log`` is the file with everything that was printed.
    """

    def __init__(self, what: str, why: str = "", hint: str = "", *, log: Path | None = None):
        super().__init__(what, why, hint)
        self.log = log


class UsageError(ProvisioningError):
    """The request itself is wrong, or asks for what is not there yet."""

    exit_code = 2


class HostFailed(ProvisioningError):
    """A machine (this one or a remote one) could not do what was asked."""

    exit_code = 3


class MissingPackages(HostFailed):
    """This machine lacks programs; the hint holds the line that installs them."""


class CommandFailed(HostFailed):
    """A program ended with a status other than 0, or by a signal."""

    def __init__(
        self, what: str, why: str = "", hint: str = "", *, log: Path | None = None, output: str = ""
    ):
        super().__init__(what, why, hint, log=log)
        self.output = output


class ConnectionLost(HostFailed):
    """A host that was reached does not answer any more; what was started there may go on."""


class DiskFull(HostFailed):
    """A program found no room for what it writes. No CommandFailed: nobody can word it better."""


class CommandTimedOut(CommandFailed):
    """A program was killed because its time was over."""


class PatchConflict(ProvisioningError):
    """A patch of ours does not fit the source tree."""

    exit_code = 4


class BuildFailed(ProvisioningError):
    """The kernel could not be configured or compiled."""

    exit_code = 5


class DownloadFailed(ProvisioningError):
    """Sources could not be fetched, or are not what was signed."""

    exit_code = 6


class VMLost(ProvisioningError):
    """A virtual machine did not come up, or went away."""

    exit_code = 7


class Interrupted(ProvisioningError):
    """The user (Ctrl-C) or the system (SIGTERM) stopped the work."""

    exit_code = 130


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log; an unreadable log has none."""
    try:
        return log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def report(error: ProvisioningError) -> str:
    """The whole failure report: the one line, then the end of the log and where the log is."""
    parts = [f"error: {error}"]
    if error.log is not None:
        parts += [f"  | {line}" for line in tail(error.log)]
        parts.append(f"  whole log: {error.log}")
    return "\n".join(parts)

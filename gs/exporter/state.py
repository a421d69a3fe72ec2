"""What outlives the exporter: positions and counts in one file, written as one.

Since both change together, a record is counted once however the exporter ends: what was read after
the last writing is read again.
"""

from __future__ import annotations

import fcntl
import json
import os

from ..errors import GsError, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = "exporter.json"
_LOCK = "exporter.lock"
#: Another layout is not read.
_VERSION = 1


def default_directory() -> str:
    """systemd's choice for the unit, else gs-oom-exporter in /var/lib, of a user ~/.local/state."""
    chosen = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return "/var/lib/gs-oom-exporter"
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return f"{base}/gs-oom-exporter"


def boot_id() -> str:
    """That of the running kernel; random(4)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class StateFile:
    """The file in its directory, for one exporter at a time.

    Opening raises PermissionDenied or GsError where the directory cannot be used, GsError where
    another exporter has it.
    """

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/{_NAME}"
        try:
            os.makedirs(directory, 0o755, exist_ok=True)
            self._lock = os.open(
                f"{directory}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except PermissionError:
            raise PermissionDenied(
                f"cannot write to {directory}", "it is another user's", "give --state DIR"
            ) from None
        except OSError as error:
            raise GsError(
                f"cannot use {directory}", error.strerror or "", "give --state DIR"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise GsError(
                f"{directory} is in use", "another gs-oom exporter runs", "give another --state DIR"
            ) from None

    def close(self) -> None:
        """Let another have it."""
        os.close(self._lock)

    def load(self) -> dict[str, Any] | None:
        """What was written last; None if there is nothing, or nothing that can be used."""
        try:
            with open(self.path, encoding="utf-8") as file:
                data = json.load(file)
        except (OSError, ValueError):
            return None
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            return None
        return data

    def save(self, data: dict[str, Any]) -> None:
        """Write it in the place of the last; a reader sees the one or the other. OSError."""
        part = f"{self.path}.part"
        with open(part, "w", encoding="utf-8") as file:
            # A process's name may be no UTF-8; json writes the surrogates as escapes.
            json.dump({"version": _VERSION, **data}, file)
        os.replace(part, self.path)

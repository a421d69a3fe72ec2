"""What a check of `gs doctor` looks at, and what it says: Machine, Finding, and the four levels."""

from __future__ import annotations

import os

from .paths import KernelFiles
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

GOOD, NOTE, WARNING, BAD = "good", "note", "warning", "bad"

#: In the directory of a recorded machine: what its programs printed, by their command lines.
OUTPUTS = "/outputs"


class Finding(Record):
    """One thing that was found: which check, how grave (good, note, warning, bad), what it means,
    and the command or the step that mends it (empty if there is nothing to mend)."""

    __slots__ = ("check", "level", "mend", "text")

    def __init__(self, check: str, level: str, text: str, mend: str = "") -> None:
        self.check = check
        self.level = level
        self.text = text
        self.mend = mend


class Machine:
    """Where a check looks: below the root directory of this machine, or of a recorded one (a
    directory with copies of its files), and at its kernel's files."""

    def __init__(self, root: str = "", files: KernelFiles | None = None) -> None:
        self.root = root
        self.files = files or KernelFiles()
        self._has_scope: bool | None = None

    def read(self, path: str) -> str | None:
        """A file's text, or None if it is not there or not readable."""
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def list(self, path: str) -> list[str]:
        """The names in a directory; none if it is not there."""
        try:
            return sorted(os.listdir(self.root + path))
        except OSError:
            return []

    def processes(self) -> Iterator[tuple[str, str]]:
        """Number and name of each process; the kernel cuts names at 15 characters."""
        for pid in filter(str.isdigit, self.list("/proc")):
            yield pid, (self.read(f"/proc/{pid}/comm") or "").rstrip("\n")

    def has_scope(self) -> bool:
        """Whether `gs run` could go on in a systemd user scope; tried once, and only here."""
        from . import scope

        if self._has_scope is None:
            self._has_scope = not self.root and scope.is_available()
        return self._has_scope

    def ask(self, *words: str) -> str | None:
        """What a program prints that changes nothing; None if it is not there or fails."""
        if self.root:
            return self.read(f"{OUTPUTS}/{' '.join(words)}")
        import subprocess

        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=10,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout

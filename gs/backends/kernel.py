"""The backend of a patched kernel: the real OOM decision, and nothing of ours stays resident."""

from __future__ import annotations

import os

from ..errors import GsError, NoSuchProcess, NotSupported
from ..paths import KernelFiles
from ..registry import (
    UNPRIVILEGED,
    RegistryFile,
    check_entry,
    features,
    keys_of,
    not_allowed,
)
from . import Armed, Backend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..cgroup import Group
    from ..procfile import Entry

CAP_SYS_ADMIN = 21


class KernelBackend(Backend):
    """/proc/graceful_shutdown and its companions."""

    name = "kernel"
    promise = "the real OOM decision, memcg and global; nothing of ours stays resident"

    def __init__(self, files: KernelFiles | None = None) -> None:
        self._files = files or KernelFiles()

    def is_there(self) -> bool:
        return os.path.exists(self._files.features)

    def unusable(self) -> GsError | None:
        try:
            found = features(self._files)
            RegistryFile(self._files).close()
        except GsError as error:
            return error
        if found.get("static_usermodehelper") == "1":
            return NotSupported(
                "this kernel takes no handler",
                "it was built with STATIC_USERMODEHELPER",
                "boot a kernel without it",
            )
        if self._files.read_sysctl("enabled") == 0:
            return NotSupported(
                "no handler would run",
                "vm.graceful_shutdown_enabled is 0",
                "sysctl -w vm.graceful_shutdown_enabled=1",
            )
        # The file opens for everybody; who opened it is judged at the first write.
        if not may_register(self._files):
            return not_allowed("cannot register a handler", self._files)
        return None

    def keys(self) -> tuple[str, ...]:
        return keys_of(features(self._files))

    def describe(self) -> str:
        found = features(self._files)
        return f"{self.name} ({found.get('attachment', '?')}, abi {found['abi']})"

    def check(self, entry: Entry) -> None:
        check_entry(entry, self._files)

    def arm(self, entry: Entry, group: Group | None) -> Armed:
        return _Registered(self._files, entry)


class _Registered(Armed):
    """Keeps the registry open, as its opener, so that it can be taken back as another user."""

    def __init__(self, files: KernelFiles, entry: Entry) -> None:
        self._pid = entry.pid
        self._file = RegistryFile(files)
        try:
            self._file.register(entry)
        except GsError:
            self._file.close()
            raise

    def disarm(self) -> None:
        try:
            self._file.unregister(self._pid)
        except NoSuchProcess:
            pass  # somebody else took it back already
        self._file.close()

    def close(self) -> None:
        self._file.close()


def may_register(files: KernelFiles) -> bool:
    """Whether this process may register itself, as far as can be told before it tries."""
    return files.read_sysctl(UNPRIVILEGED) == 1 or _is_admin()


def _is_admin() -> bool:
    """Whether it has CAP_SYS_ADMIN; in which user namespace, the kernel alone can say."""
    try:
        with open(f"/proc/{os.getpid()}/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1)
    except OSError:
        pass
    return os.geteuid() == 0

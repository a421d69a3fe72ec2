"""Where a kernel log comes from: a file, standard input, the journal, or the kernel itself."""

from __future__ import annotations

import errno
import os
import subprocess

from ..errors import GsError, NotSupported, PermissionDenied
from ..eventstream import EventStream
from ..paths import KernelFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from ..eventstream import OomEvent

KMSG = "/dev/kmsg"
_BLOCK = 1 << 20
#: The kernel gives one record a read, and none is longer (CONSOLE_EXT_LOG_MAX).
_RECORD = 8192
_JOURNAL = ("journalctl", "-k", "-q", "--no-pager", "-o", "short-monotonic")


def of_file(path: str) -> Iterator[bytes]:
    """A file's blocks; "-" is standard input. GsError where it cannot be read."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            yield from iter(lambda: file.read(_BLOCK), b"")
    except FileNotFoundError:
        raise GsError(f"cannot read {path}", "there is no such file") from None
    except PermissionError:
        raise PermissionDenied(
            f"cannot read {path}", "permission denied", "run it as root"
        ) from None
    except OSError as error:
        raise GsError(f"cannot read {path}", error.strerror or "") from None


def of_journal() -> Iterator[bytes]:
    """What the journal has of the kernel's log since the boot."""
    try:
        process = subprocess.Popen(
            _JOURNAL, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError:
        raise NotSupported("no journal here", "there is no journalctl", "give a FILE") from None
    with process:
        assert process.stdout is not None and process.stderr is not None
        yield from iter(lambda: process.stdout.read(_BLOCK), b"")  # type: ignore[union-attr]
        said = process.stderr.read().decode(errors="replace")
    if process.returncode:
        raise NotSupported("cannot read the journal", said, "run it as root, or give a FILE")


def of_kernel() -> Iterator[bytes]:
    """What the running kernel still holds, record by record, up to now."""
    try:
        fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotSupported(f"no {KMSG} here", "a container has none", "give a FILE") from None
    except PermissionError:
        raise PermissionDenied(
            f"cannot read {KMSG}", "it is for root alone (kernel.dmesg_restrict)", "run it as root"
        ) from None
    try:
        while True:
            try:
                yield os.read(fd, _RECORD)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EPIPE:  # overwritten before it was read: go on behind it
                    raise GsError(f"cannot read {KMSG}", error.strerror or "") from None
    finally:
        os.close(fd)


def events_of_machine() -> list[OomEvent]:
    """What gs has logged here; none where it cannot be told, which is no error."""
    try:
        with EventStream(follow=False) as stream:
            return stream.available()
    except GsError:
        return []


def events_of_file(path: str) -> list[OomEvent]:
    """A log of events as `gs watch --raw` prints it; GsError where it is none."""
    if not os.path.exists(path):
        raise GsError(f"cannot read {path}", "there is no such file")
    with EventStream(follow=False, files=KernelFiles(events=path)) as stream:
        return stream.available()

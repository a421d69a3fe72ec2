"""OomEvent, and following the kernel's stream of them."""

from __future__ import annotations

import os
import select
import time

from . import procfile
from .errors import GsError, NotSupported, PermissionDenied
from .paths import KernelFiles
from .registry import NO_KERNEL_HINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Mapping

    from .procfile import Value

_CHUNK = 65536
_POLL_MAX_MS = 2**31 - 1


class OomEvent:
    """One record of the stream; its keys are those of the kernel's ABI.

    ``event["rss_kb"]`` is one value (KeyError if this kind has no such key), ``event.get(key)``
    the same with None. Numbers are int, in the unit that the key's ending names; None is what
    the kernel cannot tell. A stream that fell behind gets a record of event ``lost``.
    """

    __slots__ = ("data",)

    def __init__(self, data: Mapping[str, Value]) -> None:
        self.data: dict[str, Value] = dict(data)

    @classmethod
    def parse(cls, line: str) -> OomEvent:
        """From a line of the stream; MalformedLine if it is none."""
        return cls(procfile.parse_event(line))

    @property
    def line(self) -> str:
        """The line of the stream."""
        return procfile.format_event(self.data)

    @property
    def seq(self) -> int:
        """The number of the record; the kernel leaves none out."""
        return self._number("seq")

    @property
    def time(self) -> float:
        """Seconds on CLOCK_BOOTTIME."""
        return self._number("time_ns") / 1e9

    @property
    def event(self) -> str:
        """grace, done, timeout, failed, averted, gone, kill, or lost."""
        return str(self.data["event"])

    @property
    def pid(self) -> int | None:
        """The victim; None for ``lost``."""
        value = self.data.get("pid")
        return value if isinstance(value, int) else None

    @property
    def comm(self) -> str | None:
        """The victim's name; None for ``lost``."""
        value = self.data.get("comm")
        return value if isinstance(value, str) else None

    def get(self, key: str, default: Value = None) -> Value:
        """The value of a key, or ``default`` where this record has no such key."""
        return self.data.get(key, default)

    def __getitem__(self, key: str) -> Value:
        return self.data[key]

    def _number(self, key: str) -> int:
        value = self.data[key]
        assert isinstance(value, int)  # the parser let no other through
        return value

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, OomEvent) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.line)

    def __repr__(self) -> str:
        return f"OomEvent({self.line!r})"


class EventStream:
    """An open stream of events: an iterator, an asynchronous iterator, a context manager.

    Iterating ends ``timeout`` seconds after the opening (None: never), or when nothing is left and
    ``follow`` is false; it can be started again, and goes on where it was. Each stream has its own
    position and begins with the oldest record that the kernel kept. Source:
    /proc/graceful_shutdown_events.

    Opening raises NotSupported without a patched kernel, PermissionDenied for who is not root, and
    GsError. Iterating, and :meth:`available`, raise MalformedLine at a record that is not of the
    ABI; the next call goes on behind it.
    """

    def __init__(
        self,
        follow: bool = True,
        timeout: float | None = None,
        files: KernelFiles | None = None,
    ) -> None:
        self._follow = follow
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._fd = _open((files or KernelFiles()).events)
        self._rest = b""
        self._ready: list[str] = []
        self._ended = False

    def fileno(self) -> int:
        """The open file; readable in the sense of poll(2) when there is a record."""
        return self._fd

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def available(self) -> list[OomEvent]:
        """Every event that is there now, without waiting; MalformedLine at a bad record."""
        while self._read():
            pass
        lines, self._ready = self._ready, []
        return [OomEvent.parse(line) for line in lines]

    def __iter__(self) -> Iterator[OomEvent]:
        return self

    def __next__(self) -> OomEvent:
        while True:
            event = self._next_ready()
            if event is not None:
                return event
            if self._finished() or not self._wait():
                raise StopIteration

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> OomEvent:
        while True:
            event = self._next_ready()
            if event is not None:
                return event
            if self._finished() or not await self._wait_in_loop():
                raise StopAsyncIteration

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_ready(self) -> OomEvent | None:
        if not self._ready:
            self._read()
        return OomEvent.parse(self._ready.pop(0)) if self._ready else None

    def _finished(self) -> bool:
        return self._ended or not self._follow

    def _read(self) -> bool:
        """Take what the file has; false if it had nothing, or has ended."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        # The kernel's file never ends; a recorded one does, and a pipe whose writer has gone.
        self._ended = not data
        lines, self._rest = procfile.split_lines(self._rest + data)
        self._ready += lines
        return bool(data)

    def _time_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _wait(self) -> bool:
        """Until there is something to read; false when the time is over."""
        left = self._time_left()
        if left is not None and left <= 0:
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        # poll(2) takes an int of milliseconds; who comes back early is asked again.
        milliseconds = None if left is None else min(left * 1000 + 1, _POLL_MAX_MS)
        return bool(poll.poll(milliseconds)) or milliseconds == _POLL_MAX_MS

    async def _wait_in_loop(self) -> bool:
        import asyncio

        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._fd, lambda: None if readable.done() else readable.set_result(None))
        try:
            left = self._time_left()
            await asyncio.wait_for(readable, None if left is None else max(left, 0))
        except asyncio.TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)
        return True


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotSupported(
            f"this kernel has no {path}", "it is not patched", NO_KERNEL_HINT
        ) from None
    except PermissionError:
        raise PermissionDenied(
            f"cannot read {path}", "it is for root alone", "run it as root"
        ) from None
    except OSError as error:
        raise GsError(f"cannot read {path}", error.strerror or "") from None


def events(
    follow: bool = True,
    timeout: float | None = None,
    *,
    files: KernelFiles | None = None,
) -> EventStream:
    """What the OOM killer does on this machine, from the oldest record that the kernel kept.

    With ``follow`` the iteration waits for more, at most until ``timeout`` seconds from now (None:
    for ever); without, it ends with the last record there is. The stream has ``fileno()`` for
    poll(2), can be used with ``async for``, and is closed by ``with`` or ``close()``.
    Source: /proc/graceful_shutdown_events.

    Raises NotSupported, PermissionDenied, and MalformedLine at a record that is not of the ABI.
    """
    return EventStream(follow, timeout, files)

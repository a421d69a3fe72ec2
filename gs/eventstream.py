"""OomEvent, and following the streams of them: the kernel's, and that of guarded runs."""

from __future__ import annotations

import os
import select
import sys
import time

from . import _sys, cgroup, eventlog, procfile
from .errors import GsError, MalformedLine, NotSupported, PermissionDenied
from .paths import KernelFiles, run_directory
from .registry import NO_KERNEL_HINT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator, List, Mapping, Union

    from .procfile import Value

    #: What a source gives: events, and in the place of each bad record the error to raise there.
    Records = List[Union["OomEvent", MalformedLine]]

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
    position and begins with the oldest record that was kept. Sources, each with numbers of its own:
    /proc/graceful_shutdown_events, and the log of guarded runs, /run/gs/events (of a user
    $XDG_RUNTIME_DIR/gs/events). With ``files`` only what they name is read, with ``directory`` only
    the log in it.

    Opening raises NotSupported where there can be neither, PermissionDenied where there is but the
    kernel's and the caller may not read it, and GsError; where the log is left to him, ``left_out``
    is that error, else None. Iterating, and :meth:`available`, raise MalformedLine at a record
    of the kernel's that is not of the ABI; the next call goes on behind it. Lines of the log that
    are none are left out: ``skipped`` is how many of them there were so far.
    """

    def __init__(
        self,
        follow: bool = True,
        timeout: float | None = None,
        files: KernelFiles | None = None,
        directory: str | None = None,
    ) -> None:
        self._follow = follow
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._sources: list[_Source]
        self.left_out: PermissionDenied | None = None
        if directory is None:
            self._sources, self.left_out = _open_sources(files)
        else:
            self._sources = [_open_log(directory)]
        self._ready: Records = []
        self._bell: _Bell | None = None

    def fileno(self) -> int:
        """A descriptor that is readable in the sense of poll(2) when there is a record, also one
        that was read from its file already; -1 of a closed stream."""
        if not self._sources:
            return -1
        if self._bell is None:
            self._bell = _Bell(self._sources)
        self._fill()
        return self._bell.fd

    @property
    def skipped(self) -> int:
        """How many lines of the log of guarded runs were no records."""
        return sum(source.skipped for source in self._sources)

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        sources, self._sources = self._sources, []
        for source in sources:
            source.close()
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def available(self) -> list[OomEvent]:
        """Every event that is there now, without waiting; MalformedLine at a bad record."""
        while self._read():
            pass
        events = []
        while self._ready:
            events.append(self._take())
        return events

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
        self._fill()
        return self._take() if self._ready else None

    def _fill(self) -> None:
        """Have something ready if there is anything. What else the files hold is seen when that is
        used up; of what comes later they tell themselves."""
        while not self._ready and self._read():
            pass  # what came was no whole record, or none at all
        if self._bell is not None:
            self._bell.set(bool(self._ready))

    def _take(self) -> OomEvent:
        """The first of what is ready; MalformedLine where that is a bad record."""
        first = self._ready.pop(0)
        if self._bell is not None:
            self._fill()
        if isinstance(first, MalformedLine):
            raise first
        return first

    def _finished(self) -> bool:
        # A recorded stream ends, and then nothing more is waited for.
        return not self._follow or any(source.ended for source in self._sources)

    def _read(self) -> bool:
        """Take what the files have, in the order of time; false if there was nothing."""
        taken = [source.read() for source in self._sources]
        news = [record for records in taken if records for record in records]
        if sum(map(bool, taken)) > 1:
            news.sort(key=_time_of)
        self._ready += news
        return any(records is not None for records in taken)

    def _time_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _wait(self) -> bool:
        """Until there is something to read; false when the time is over."""
        left = self._time_left()
        if left is not None and left <= 0:
            return False
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        # poll(2) takes an int of milliseconds; who comes back early is asked again.
        milliseconds = None if left is None else min(left * 1000 + 1, _POLL_MAX_MS)
        return bool(poll.poll(milliseconds)) or milliseconds == _POLL_MAX_MS

    async def _wait_in_loop(self) -> bool:
        import asyncio

        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        fd = self.fileno()
        loop.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
        try:
            left = self._time_left()
            await asyncio.wait_for(readable, None if left is None else max(left, 0))
        except asyncio.TimeoutError:
            return False
        finally:
            loop.remove_reader(fd)
        return True


# ---------------------------------------------------------------------------- where they come from


class _Source:
    """An open file of records; ``fd`` is readable when there is more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ended = False
        self.skipped = 0
        self._rest = b""

    def read(self) -> Records | None:
        """What came, None if nothing did."""
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return None
        # The kernel's file never ends; a recorded one does, and a pipe whose writer has gone.
        self.ended = not data
        lines, self._rest = procfile.split_lines(self._rest + data)
        return [_parse(line) for line in lines] if data else None

    def close(self) -> None:
        os.close(self.fd)


class _Log(_Source):
    """The log of guarded runs, and the one that was renamed before; it never ends. ``fd`` tells of
    every change in the directory, in which there may be no log yet."""

    def __init__(self, directory: str) -> None:
        super().__init__(_sys.watch_directory(directory))
        self._path = f"{directory}/{eventlog.NAME}"
        self._file = _open_or_none(f"{directory}/{eventlog.OLD_NAME}")
        #: Up to where it was read.
        self._position = 0

    def read(self) -> Records | None:
        try:
            os.read(self.fd, _CHUNK)
        except BlockingIOError:
            pass
        while True:
            # Looked for first: to one that has been renamed by then nobody writes any more.
            following = self._following()
            lines = () if self._file is None else self._whole_lines(self._file)
            if not lines and following is None:
                return None
            if lines:
                if following is not None:
                    os.close(following)
                return self._without_bad(lines)
            self._close_file()
            self._file, self._position = following, 0

    def _whole_lines(self, file: int) -> Iterable[str]:
        """Those that came. One that is not whole yet is read again: it may be taken back."""
        data = os.pread(file, _CHUNK, self._position)
        lines, rest = procfile.split_lines(data)
        self._position += len(data) - len(rest)
        return lines

    def _without_bad(self, lines: Iterable[str]) -> Records:
        """A line that a full disk has cut once must not keep anybody from all others."""
        records = [_parse(line) for line in lines]
        good: Records = [one for one in records if not isinstance(one, MalformedLine)]
        self.skipped += len(records) - len(good)
        return good

    def _following(self) -> int | None:
        """The current log, where that is another file by now."""
        following = _open_or_none(self._path)
        if following is None or self._file is None:
            return following
        if os.path.sameopenfile(self._file, following):
            os.close(following)
            return None
        return following

    def close(self) -> None:
        super().close()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open_or_none(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _open_sources(files: KernelFiles | None) -> tuple[list[_Source], PermissionDenied | None]:
    """What can be read, and why the kernel's file cannot although it is there."""
    sources: list[_Source] = []
    missing: NotSupported | PermissionDenied | None = None
    try:
        sources.append(_Source(_open((files or KernelFiles()).events)))
    except (NotSupported, PermissionDenied) as error:
        missing = error
    # Without a memory controller nobody can have guards.
    if files is None and cgroup.hierarchy() is not None:
        try:
            os.makedirs(run_directory(), 0o755, exist_ok=True)
            sources.append(_Log(run_directory()))
        except OSError:
            pass  # a user without a directory of his own, who has no guarded runs either
    if missing is not None and not sources:
        raise missing
    return sources, missing if isinstance(missing, PermissionDenied) else None


def _open_log(directory: str) -> _Source:
    try:
        return _Log(directory)
    except OSError as error:
        raise NotSupported(f"no runs with guards in {directory}", error.strerror or "") from None


class _Bell:
    """A descriptor, ``fd``, that is readable when one of the sources is, and while it is set."""

    def __init__(self, sources: Iterable[_Source]) -> None:
        self._epoll = select.epoll()
        self._flag = _sys.eventfd()
        self._is_set = False
        self._epoll.register(self._flag, select.EPOLLIN)
        for source in sources:
            try:
                self._epoll.register(source.fd, select.EPOLLIN)
            except PermissionError:
                pass  # a recorded file, of which all is there from the beginning
        self.fd = self._epoll.fileno()

    def set(self, yes: bool) -> None:
        """Whether it is to be readable whatever the sources are."""
        if yes and not self._is_set:
            os.write(self._flag, (1).to_bytes(8, sys.byteorder))
        elif self._is_set and not yes:
            os.read(self._flag, 8)
        self._is_set = yes

    def close(self) -> None:
        self._epoll.close()
        os.close(self._flag)


def _parse(line: str) -> OomEvent | MalformedLine:
    try:
        return OomEvent.parse(line)
    except MalformedLine as error:
        return error


def _time_of(record: OomEvent | MalformedLine) -> int:
    value = 0 if isinstance(record, MalformedLine) else record["time_ns"]
    return value if isinstance(value, int) else 0


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
    """What the OOM killer does on this machine, from the oldest record that was kept; of a machine
    whose kernel does not tell, what it does to guarded runs.

    With ``follow`` the iteration waits for more, at most until ``timeout`` seconds from now (None:
    for ever); without, it ends with the last record there is. The stream has ``fileno()`` for
    poll(2), can be used with ``async for``, and is closed by ``with`` or ``close()``.
    Source: /proc/graceful_shutdown_events, /run/gs/events.

    Raises NotSupported, PermissionDenied, and MalformedLine at a record that is not of the ABI.
    """
    return EventStream(follow, timeout, files)

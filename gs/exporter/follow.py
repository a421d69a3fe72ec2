"""Following the sources: reads what is new, counts it, and keeps counts and positions together."""

from __future__ import annotations

import os
import select
import sys
import threading
import time

from .. import cgroup, procfile, runfile
from ..errors import GsError, MalformedLine, NotSupported, PermissionDenied
from ..eventstream import EventStream, OomEvent
from ..paths import KernelFiles, run_directory
from .counts import Counts
from .merge import Merger
from .sources import GUARDS, KERNEL, LOG, Log, Stream
from .state import StateFile, boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Union

    Source = Union[Stream, Log]

#: Seconds between two writings of the state while nobody asks for the figures, and at most between
#: two looks at what is not told by a descriptor: a module that was loaded, a log that appeared.
_INTERVAL = 5.0
_JUST_NOW_NS = 1_000_000_000
#: Between two readings at least: the kernel log may have thousands of lines a second for others.
_PAUSE = 0.1


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Follower:
    """The counts of this machine, as they were kept and as they go on; for any number of threads.

    Raises PermissionDenied where the kernel tells but not this user, NotSupported where nobody
    tells anything, and what :class:`StateFile` raises.
    """

    def __init__(self, directory: str) -> None:
        self._file = StateFile(directory)
        self._lock = threading.Lock()
        self._sources: list[Source] = []
        self._positions: dict[str, Any] = {}
        self._log_read_ns = 0
        self._saved_at = 0.0
        self._complained = False
        self._dirty = True  # where it begins, even if nothing happens
        self.counts, self._merger = Counts(), Merger()
        try:
            self._restore(self._file.load())
            self._open_sources()
            if not self._sources:
                self._refuse()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ what others ask

    def catch_up(self, patience: bool = True) -> None:
        """Read and count all that is there now, and keep it. ``patience``: a kill that guards may
        still tell of, too, may wait for that."""
        with self._lock:
            self._read_all(patience)
            self._save()

    def snapshot(self) -> Snapshot:
        """What is to be exported at this moment, all of the same moment."""
        with self._lock:
            self._read_all(patience=True)
            self._save_if_possible()
            return Snapshot(self.counts.copy(), self.readable(), _registrations())

    def readable(self) -> dict[str, bool]:
        """Which sources are read."""
        names = {source.name for source in self._sources}
        return {name: name in names for name in (KERNEL, GUARDS, LOG)}

    def follow(self, stop: int, seconds: float | None = None) -> bool:
        """Until the descriptor ``stop`` is readable, which is true, or for so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while until is None or time.monotonic() < until:
            with self._lock:
                self._read_all(patience=True)
                if time.monotonic() - self._saved_at >= _INTERVAL:
                    self._save_if_possible()
                fds = [source.fileno() for source in self._sources]
            wait = _INTERVAL if until is None else min(_INTERVAL, until - time.monotonic())
            if stop in _readable([stop], _PAUSE) or stop in _readable([*fds, stop], wait):
                return True
        return False

    def close(self) -> None:
        """Let go of everything; what was counted since the last writing is read again next time."""
        for source in self._sources:
            source.close()
        self._sources = []
        self._file.close()

    # ------------------------------------------------------------------ kept

    def _restore(self, data: dict[str, Any] | None) -> None:
        if data is None:
            return
        try:
            self.counts = Counts.from_json(data["counts"])
            if data["boot_id"] == boot_id():
                self._merger = Merger.from_json(data["merger"])
                self._positions = dict(data["positions"])
                self._log_read_ns = int(data["log_read_ns"])
            else:
                # Numbers begin with 1 at each boot: what is missing before the oldest is lost.
                self._positions = {
                    KERNEL: {"seq": 0, "time_ns": 0},
                    GUARDS: {"seq": 0, "time_ns": 0},
                    LOG: {"seq": -1, "accounted": 0, "groups": {"counts": {}}},
                }
        except (KeyError, TypeError, ValueError) as error:
            raise GsError(
                f"{self._file.path} is damaged", str(error), "remove it to begin anew"
            ) from None

    def _save_if_possible(self) -> None:
        """A full disk is no reason to tell nothing; it is tried again."""
        try:
            self._save()
        except OSError as error:
            if not self._complained:
                print(f"gs-oom: cannot write {self._file.path}: {error.strerror}", file=sys.stderr)
            self._complained = True

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if not self._dirty:
            return
        for source in self._sources:
            self._positions[source.name] = source.position
        self._file.save(
            {
                "boot_id": boot_id(),
                "positions": self._positions,
                "log_read_ns": self._log_read_ns,
                "counts": self.counts.as_json(),
                "merger": self._merger.as_json(),
            }
        )
        self._dirty = False

    # ------------------------------------------------------------------ the sources

    def _open_sources(self) -> None:
        """Those that are there and not open yet."""
        names = {source.name for source in self._sources}
        if KERNEL not in names:
            self._open_stream(KERNEL)
        if GUARDS not in names:
            self._open_stream(GUARDS)
        if LOG not in names:
            try:
                self._sources.append(Log.open(self._positions.get(LOG)))
            except OSError:
                pass  # a container has none; a user may not read it
        for source in self._sources:
            self.counts.lost.setdefault(source.name, 0)

    def _open_stream(self, name: str) -> None:
        try:
            if name == KERNEL:
                stream = EventStream(follow=False, files=KernelFiles())
            else:
                _make_run_directory()
                stream = EventStream(follow=False, directory=run_directory())
        except NotSupported:
            return
        self._sources.append(Stream(name, stream, self._positions.get(name)))

    def _refuse(self) -> None:
        if os.path.exists("/dev/kmsg"):
            raise PermissionDenied(
                "cannot read /dev/kmsg", "the kernel log is not for this user", "run it as root"
            )
        raise NotSupported(
            "nothing tells of the OOM killer here",
            "there is no /proc/graceful_shutdown_events, no /dev/kmsg and no run with guards",
            "run it on the host",
        )

    # ------------------------------------------------------------------ reading

    def _read_all(self, patience: bool) -> None:
        self._open_sources()
        # The kernel log first: it says where the victims were of whom the kernel tells next.
        for source in sorted(self._sources, key=lambda one: one.name != LOG):
            if isinstance(source, Log):
                self._read_log(source)
            else:
                self._read_stream(source)
            self._take_losses(source)
        held = self._merger.overdue(_now_ns(), *(() if patience else (0,)))
        for name, event in held:
            self._count(name, event)
        self.counts.expire(time.time())

    def _read_log(self, log: Log) -> None:
        told_by_kernel = self.readable()[KERNEL]
        for event in log:
            self._dirty = True
            if not told_by_kernel:
                self._take(LOG, event)
        if told_by_kernel:
            log.forget_losses()  # nothing that the kernel does not tell as well
            return
        self._log_read_ns = _now_ns()
        for memcg, count in log.lost_in_groups().items():
            self.counts.count_lost_in(memcg, count)

    def _read_stream(self, stream: Stream) -> None:
        for event in stream:
            self._dirty = True
            # Before there was the kernel's stream its log has told of this kill.
            if stream.name == KERNEL and event.event == "kill" and self._is_old(event):
                continue
            self._take(stream.name, self._placed(event) if stream.name == KERNEL else event)

    def _is_old(self, event: OomEvent) -> bool:
        time_ns = event["time_ns"]
        return isinstance(time_ns, int) and time_ns <= self._log_read_ns

    def _placed(self, event: OomEvent) -> OomEvent:
        """With the victim's own cgroup: the kernel's record has that whose limit was reached."""
        if event.event != "kill":
            return event
        place = None
        for log in [source for source in self._sources if isinstance(source, Log)]:
            place = log.place_of(event.pid)
            if place is None and _now_ns() - event.time * 1e9 < _JUST_NOW_NS:
                self._read_log(log)  # it may have come since the log was read
                place = log.place_of(event.pid)
        if place is None:
            return event
        return OomEvent({**event.data, "memcg": place, "limit_memcg": event.get("memcg")})

    def _take(self, name: str, event: OomEvent) -> None:
        for source, one in self._merger.take(name, event, _now_ns()):
            self._count(source, one)

    def _count(self, name: str, event: OomEvent) -> None:
        self._dirty = True
        age = max(_now_ns() / 1e9 - event.time, 0.0)
        self.counts.count(name, event, time.time() - age)

    def _take_losses(self, source: Source) -> None:
        if source.lost:
            self._dirty = True
            self.counts.count_lost(source.name, source.lost)
            source.lost = 0


class Snapshot:
    """Counts that change no more, which sources are read, and how many processes are registered."""

    def __init__(self, counts: Counts, readable: dict[str, bool], registrations: int) -> None:
        self.counts = counts
        self.readable = readable
        self.registrations = registrations


def _readable(fds: Iterable[int], seconds: float) -> list[int]:
    """Which of the descriptors are, at most after so long."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(seconds, 0.0) * 1000)]


def _make_run_directory() -> None:
    """Where there was no guarded run yet, so that it can be watched."""
    try:
        os.makedirs(run_directory(), 0o755, exist_ok=True)
    except OSError:
        pass  # it is looked for again


def _registrations() -> int:
    """The kernel's, by its own count, and those of runs with guards."""
    try:
        features = procfile.parse_features(cgroup.read_file(KernelFiles().features))
        entries = int(features.get("entries", "0"))
    except (MalformedLine, ValueError):
        entries = 0
    return entries + len(runfile.names())

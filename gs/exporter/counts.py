"""What was counted since the first start, and the last kill of each container."""

from __future__ import annotations

import os
from collections import OrderedDict

from .. import container
from .figures import figures_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple

    from ..eventstream import OomEvent
    from .figures import Figures

    #: Of a container and a command.
    Pair = Tuple[str, str]

EVENTS = ("grace", "done", "timeout", "failed", "averted", "gone", "kill")
CONSTRAINTS = ("none", "memcg", "cpuset", "mempolicy")
OUTCOMES = ("none", "done", "timeout", "failed", "signal")
RESULTS = ("done", "timeout", "failed")

#: Upper bounds of the histogram, in seconds: a small C program to the longest grace.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: Containers whose last kill is kept, and for how many seconds.
MAX_LAST = 200
LAST_AGE = 24 * 3600.0
#: Pairs of a container and a command that are counted by themselves; what else there is counts
#: for this one.
MAX_PAIRS = 1000
OVERFLOW = ("overflow", "overflow")
#: Graces of which it is remembered that their handler's result has been counted.
_MAX_ENDED = 1024


class LastKill:
    """The figures of one kill, and when it was, in seconds since 1970."""

    __slots__ = ("at", "figures")

    def __init__(self, at: float, figures: Figures) -> None:
        self.at = at
        self.figures = figures


class Counts:
    """Everything that is exported but the gauges of this moment."""

    def __init__(self) -> None:
        self.events: dict[Pair, int] = {(e, c): 0 for e in EVENTS for c in CONSTRAINTS}
        self.results = dict.fromkeys(RESULTS, 0)
        self.kills = dict.fromkeys(OUTCOMES, 0)
        self.lost: dict[str, int] = {}
        #: How many handlers took at most so long; the last is those beyond all bounds.
        self.durations = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.of_container: dict[Pair, int] = {}
        #: The least recently killed first.
        self.last: OrderedDict[Pair, LastKill] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def count(self, source: str, event: OomEvent, at: float) -> None:
        """One record that is no ``lost``; ``at``: when it was, in seconds since 1970."""
        key = (event.event, _label(event.get("constraint")))
        self.events[key] = self.events.get(key, 0) + 1
        if event.event == "kill":
            self._count_kill(event, at)
        elif event.event == "grace":
            self._ended.pop(f"{source} {event.pid}", None)
        elif event.event in RESULTS:
            self._count_result(f"{source} {event.pid}", event)

    def count_lost(self, source: str, count: int) -> None:
        """So many records of a source were overwritten before they were read."""
        self.lost[source] = self.lost.get(source, 0) + count

    def count_lost_in(self, memcg: str, count: int) -> None:
        """So many of the lost ones were kills of nobody knows what in that cgroup."""
        self._count_in((_label(container.name_of(memcg)), ""), count)

    def _count_in(self, pair: Pair, count: int) -> None:
        known = pair in self.of_container or len(self.of_container) < MAX_PAIRS
        counted = pair if known else OVERFLOW
        self.of_container[counted] = self.of_container.get(counted, 0) + count

    def _count_result(self, grace: str, event: OomEvent) -> None:
        # What a handler left behind may be killed at the deadline after it was done itself.
        if event.event == "timeout" and grace in self._ended:
            return
        self._ended[grace] = None
        while len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)
        self.results[event.event] += 1
        elapsed = event.get("elapsed_us")
        if isinstance(elapsed, int):
            seconds = elapsed / 1e6
            bucket = sum(seconds > bound for bound in BUCKETS)
            self.durations[bucket] += 1
            self.seconds += seconds

    def _count_kill(self, event: OomEvent, at: float) -> None:
        outcome = _label(event.get("outcome")) or "none"
        self.kills[outcome] = self.kills.get(outcome, 0) + 1
        memcg = event.get("memcg")
        owner = container.name_of(memcg) if isinstance(memcg, str) else ""
        pair = (_label(owner), _label(event.comm))
        self._count_in(pair, 1)
        self.last[pair] = LastKill(at, figures_of(event.data))
        self.last.move_to_end(pair)
        while len(self.last) > MAX_LAST:
            self.last.popitem(last=False)

    def expire(self, now: float) -> None:
        """Forget last kills that are too old."""
        old = [pair for pair, kill in self.last.items() if now - kill.at > LAST_AGE]
        for pair in old:
            del self.last[pair]

    def copy(self) -> Counts:
        """One that later records do not change."""
        other = Counts()
        other.events, other.results = dict(self.events), dict(self.results)
        other.kills, other.lost = dict(self.kills), dict(self.lost)
        other.durations, other.seconds = list(self.durations), self.seconds
        other.of_container, other.last = dict(self.of_container), self.last.copy()
        return other

    # ------------------------------------------------------------------ kept over a restart

    def as_json(self) -> dict[str, Any]:
        """All of it, for :meth:`from_json`."""
        return {
            "events": [[*key, count] for key, count in self.events.items()],
            "results": self.results,
            "kills": self.kills,
            "lost": self.lost,
            "durations": self.durations,
            "seconds": self.seconds,
            "of_container": [[*pair, count] for pair, count in self.of_container.items()],
            "last": [[*pair, kill.at, kill.figures] for pair, kill in self.last.items()],
            "ended": list(self._ended),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Counts:
        """What :meth:`as_json` gave; KeyError, TypeError or ValueError for anything else."""
        counts = cls()
        counts.events.update({(event, place): count for event, place, count in data["events"]})
        counts.results.update(data["results"])
        counts.kills.update(data["kills"])
        counts.lost.update(data["lost"])
        if len(data["durations"]) == len(counts.durations):
            counts.durations = list(data["durations"])
            counts.seconds = float(data["seconds"])
        counts.of_container = {(owner, comm): n for owner, comm, n in data["of_container"]}
        for owner, comm, at, figures in data["last"]:
            counts.last[owner, comm] = LastKill(float(at), dict(figures))
        counts._ended.update(dict.fromkeys(data["ended"]))
        return counts


def _label(value: object) -> str:
    """Text for the exposition, which is UTF-8; a process may call itself any bytes."""
    return os.fsencode(str(value)).decode("utf-8", "replace") if value is not None else ""

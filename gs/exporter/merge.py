"""One kill, one record: what the guards of a run tell of a kill and what the kernel tells of the
same one are put together.

The guards know what came of the handler, the kernel knows the figures. Their process numbers may
be of different namespaces; the name of the group that was made for the run is the same.
"""

from __future__ import annotations

from .. import cgroup
from ..eventstream import OomEvent
from .sources import GUARDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Tuple

    Told = Tuple[str, OomEvent]

#: For so long, in nanoseconds, a kill in such a group waits for the other to tell of it.
PATIENCE_NS = 15_000_000_000
_MAX_TOLD = 256


class Merger:
    """Holds back what may be told once more. Times are of CLOCK_BOOTTIME, in nanoseconds."""

    def __init__(self) -> None:
        #: Kills that the kernel told and the guards did not yet, and when they came here.
        self._held: list[tuple[int, str, OomEvent]] = []
        #: Groups of kills that were let go without the other's word, and when.
        self._told: list[tuple[int, str, str]] = []

    def take(self, source: str, event: OomEvent, now_ns: int) -> list[Told]:
        """What is to be counted by now because of this record: none, itself, or one of both."""
        group = _run_group(event)
        if event.event != "kill" or not group:
            return [(source, event)]
        if source == GUARDS:
            return self._take_guards(group, event, now_ns)
        if self._was_told(group, GUARDS):
            return []
        if event.get("handler") is not None or event.get("outcome") != "none":
            return [(source, event)]  # it was registered with the kernel, and has no guards
        self._held.append((now_ns, source, event))
        return []

    def _take_guards(self, group: str, event: OomEvent, now_ns: int) -> list[Told]:
        for held in self._held:
            _, source, kernels = held
            if _run_group(kernels) == group:
                self._held.remove(held)
                return [(source, _together(event, kernels))]
        if self._was_told(group, "kernel"):
            return []
        self._remember(now_ns, group, GUARDS)
        return [(GUARDS, event)]

    def overdue(self, now_ns: int, patience_ns: int = PATIENCE_NS) -> list[Told]:
        """Those that have waited for too long; with a patience of 0 all of them."""
        due = [held for held in self._held if now_ns - held[0] >= patience_ns]
        self._held = [held for held in self._held if now_ns - held[0] < patience_ns]
        for _, _, event in due:
            self._remember(now_ns, _run_group(event), "kernel")
        self._told = [told for told in self._told if now_ns - told[0] < 4 * PATIENCE_NS]
        return [(source, event) for _, source, event in due]

    def _remember(self, now_ns: int, group: str, teller: str) -> None:
        self._told = [*self._told, (now_ns, group, teller)][-_MAX_TOLD:]

    def _was_told(self, group: str, teller: str) -> bool:
        for told in self._told:
            if told[1:] == (group, teller):
                self._told.remove(told)
                return True
        return False

    # ------------------------------------------------------------------ kept over a restart

    def as_json(self) -> dict[str, Any]:
        """All of it, for :meth:`from_json`."""
        held = [[at, source, event.data] for at, source, event in self._held]
        return {"held": held, "told": self._told}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Merger:
        """What :meth:`as_json` gave; KeyError, TypeError or ValueError for anything else."""
        merger = cls()
        merger._held = [(int(at), str(source), OomEvent(d)) for at, source, d in data["held"]]
        merger._told = [(int(at), str(group), str(by)) for at, group, by in data["told"]]
        return merger


def _run_group(event: OomEvent) -> str:
    """The name of the run's group whose limit was reached; empty if it was no such group's."""
    memcg = event.get("limit_memcg", event.get("memcg"))
    if not isinstance(memcg, str) or event.get("constraint") != "memcg":
        return ""
    name = memcg.rpartition("/")[2]
    return name if name.startswith(cgroup.PREFIX) else ""


def _together(guards: OomEvent, kernels: OomEvent) -> OomEvent:
    """The kernel's figures where it has them, and the guards' word on the handler."""
    known = {key: value for key, value in kernels.data.items() if value is not None}
    words = {key: guards.get(key) for key in ("outcome", "handler")}
    return OomEvent({**guards.data, **known, **words})

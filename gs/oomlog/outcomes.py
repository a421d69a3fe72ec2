"""What came of a victim's handler: finding, in a gs event log, the kill that a report tells of.

A number alone is no proof, since numbers are used again: name, owner and size must be the same too,
and the time where both clocks can be compared. Where two kills would do, none is taken.
"""

from __future__ import annotations

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

    from ..eventstream import OomEvent
    from .facts import Report

#: Seconds by which printk's clock and CLOCK_BOOTTIME may differ without a suspend in between: both
#: run from the boot on, and only the latter's rate is corrected (by far less than this share).
_APART, _DRIFT = 5.0, 1e-4
#: How much the victim may still grow or shrink between the two records.
_SAME_SIZE = 0.05

_OUTCOMES = ("done", "timeout", "failed", "averted", "gone")


class Handling(Record):
    """How a registered victim was treated before its kill.

    ``handler`` is None where it had none, ``outcome`` as in the record of the kill (none, done,
    timeout, failed, signal), ``elapsed_us`` how long its handler took, ``exit_status`` in the form
    of wait(2); ``seq`` the number of the kill's record.
    """

    __slots__ = ("elapsed_us", "errno", "exit_status", "handler", "outcome", "seq")

    def __init__(
        self,
        handler: str | None,
        outcome: str | None,
        seq: int,
        elapsed_us: int | None = None,
        exit_status: int | None = None,
        errno: int | None = None,
    ) -> None:
        self.handler = handler
        self.outcome = outcome
        self.seq = seq
        self.elapsed_us = elapsed_us
        self.exit_status = exit_status
        self.errno = errno


def match(reports: Iterable[Report], events: Iterable[OomEvent]) -> None:
    """Give each report the handling of its victim, where the events tell of one, beyond doubt."""
    kills: dict[tuple[int | None, str | None], list[tuple[OomEvent, OomEvent | None]]] = {}
    latest: dict[int | None, OomEvent] = {}
    for event in events:
        if event.event in _OUTCOMES:
            latest[event.pid] = event
        elif event.event == "kill":
            kills.setdefault((event.pid, event.comm), []).append(
                (event, latest.pop(event.pid, None))
            )
    if not kills:
        return
    for report in reports:
        found = [
            pair for kill in report.kills[:1] for pair in kills.get((kill.pid, kill.comm), ())
            if _fits(report, pair[0])
        ]  # fmt: skip
        if len(found) == 1:
            report.handling = _handling(*found[0])


def _fits(report: Report, event: OomEvent) -> bool:
    """Whether an event of this process can be the report's kill."""
    kill = report.kills[0]
    for mine, its in ((report.constraint, event.get("constraint")), (kill.uid, event.get("uid"))):
        if mine is not None and its not in (None, mine):
            return False
    if not _is_same_size(kill.total_vm_kb, event.get("total_vm_kb")):
        return False
    if report.seconds is None:
        return True
    return abs(event.time - report.seconds) < _APART + _DRIFT * report.seconds


def _is_same_size(one: int | None, other: object) -> bool:
    if one is None or not isinstance(other, int):
        return True
    return abs(one - other) <= _SAME_SIZE * one


def _handling(kill: OomEvent, before: OomEvent | None) -> Handling:
    return Handling(
        _text(kill.get("handler")),
        _text(kill.get("outcome")),
        kill.seq,
        _number(before, "elapsed_us"),
        _number(before, "exit_status"),
        _number(before, "errno"),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(event: OomEvent | None, key: str) -> int | None:
    value = None if event is None else event.get(key)
    return value if isinstance(value, int) else None

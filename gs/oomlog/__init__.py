"""What a kernel log tells of its OOMs: who asked, which limit, who was chosen and why.

One direction: bytes → lines (:mod:`lines`) → a report for each OOM (:mod:`reports`, by the grammar
in :mod:`messages`) → the kernel's choice weighed again (:mod:`badness`) → what is worth knowing
(:mod:`hints`, :mod:`outcomes`) → incidents and words (:mod:`incidents`, :mod:`words`). What a log
does not hold is None, and is never guessed.
"""

from __future__ import annotations

from . import badness, hints, incidents, lines, outcomes, reports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

    from ..eventstream import OomEvent
    from .incidents import Explanation

__all__ = ["explain"]


def explain(blocks: Iterable[bytes], events: Iterable[OomEvent] = ()) -> Explanation:
    """Everything that a kernel log tells of its OOMs, and a gs event log of their handlers.

    ``blocks``: the log in pieces of any size. Never fails on what it reads.
    """
    collector = reports.Collector()
    for report in lines.feed(blocks, collector):
        badness.judge(report)
    outcomes.match(collector.reports, events)
    for report in collector.reports:
        report.hints = hints.of(report)
    return incidents.Explanation(collector.reports, collector.refusals)

"""What a kernel log tells of its OOMs: who asked, which limit, who was chosen and why.

One direction: bytes → :mod:`lines` → :mod:`messages` → a report for each OOM (:mod:`collector`,
:mod:`telling`, :mod:`facts`) → the kernel's choice weighed again (:mod:`badness`) → what is worth
knowing (:mod:`composition`, :mod:`hints`, :mod:`outcomes`) → :mod:`incidents` → :mod:`words`.
What a log does not hold is None, and is never guessed.
"""

from __future__ import annotations

from . import badness, collector, hints, incidents, lines, outcomes

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
    found = collector.Collector()
    for report in lines.feed(blocks, found):
        badness.judge(report)
    outcomes.match(found.reports, events)
    for report in found.reports:
        report.hints = hints.of(report)
    return incidents.Explanation(found.reports, found.refusals)

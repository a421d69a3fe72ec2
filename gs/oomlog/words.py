"""An explanation for people: a paragraph for each incident, a block for its fullest report, a line
for each repetition."""

from __future__ import annotations

from ..victims import NEVER
from . import composition, incidents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .facts import Counter, Kill, Report, Task
    from .incidents import Explanation, Incident

_UNKNOWN = "not in the log"

#: Rows of the table of candidates, and lines of repetitions; --json has all that was kept.
_ROWS, _REPEATS = 8, 10


def lines(explanation: Explanation) -> Iterator[str]:
    """The text, line by line; names in it are as the log has them, control characters and all."""
    for incident in explanation.incidents:
        if incident.number > 1:
            yield ""
        yield from _incident(incident)
    if explanation.refusals:
        if explanation.incidents:
            yield ""
        yield from _refusals(explanation)
    if not explanation.incidents and not explanation.refusals:
        yield "no OOM in this log"


def _incident(incident: Incident) -> Iterator[str]:
    report = incident.fullest
    count = len(incident.reports)
    host = f" on {report.host}" if report.host else ""
    times = f", {count} times" if count > 1 else ""
    yield f"incident {incident.number}{host}: out of memory in {incident.domain}{times}"
    if count > 1:
        yield _row("when", f"{incident.reports[0].when} to {incident.reports[-1].when}")
        killed = ", ".join(f"{n} × {name}" for name, n in incident.victims().items())
        yield _row("killed", killed or _UNKNOWN)
        yield f"  the fullest report of them, number {report.number}:"
    yield from _report(report)
    if count > 1:
        yield "  all of them:"
        yield from _repeats(incident)


def _row(name: str, text: str) -> str:
    return f"  {name:<9} {text}"


def _report(report: Report) -> Iterator[str]:
    yield _row("when", report.when)
    yield _row("asker", _asker(report))
    yield _row("limit", _limit(report))
    yield _row("memory", _memory(report))
    yield _row("chosen", _chosen(report))
    yield from _candidates(report)
    yield _row("killed", "; ".join(map(_kill, report.kills)) or _outcome(report))
    yield _row("handler", _handler(report))
    for hint in report.hints:
        yield _row("hint", hint.text)


def _asker(report: Report) -> str:
    if report.asker_comm is None:
        return f"{_UNKNOWN}: its beginning is cut off, or the kernel kept it back (10 in 5 s)"
    pid = "its number is not in the log" if report.asker_pid is None else report.asker_pid
    words = [f"{report.asker_comm} ({pid})"]
    words.append(f"{report.gfp_flags or report.gfp_mask}, order {report.order}")
    if report.asker_adj is not None:
        words.append(f"oom_score_adj {report.asker_adj}")
    words.append(f"kernel {report.kernel or _UNKNOWN}")
    return ", ".join(words)


def _limit(report: Report) -> str:
    if report.scope is None:
        return _UNKNOWN
    if not report.is_memcg:
        if report.constraint is None:
            return f"the machine's memory; whether a cpuset or a policy confined it is {_UNKNOWN}"
        return f"none but that of {incidents.domain(report)}"
    if "memory" not in report.counters:
        return f"of {report.memcg or 'a memory cgroup'}; how large is {_UNKNOWN}"
    return "; ".join(f"{name} {_counter(one)}" for name, one in report.counters.items())


def _counter(counter: Counter) -> str:
    limit = f"{counter.limit_kb} kB" if counter.is_limited else "no limit"
    return f"{counter.usage_kb} kB of {limit}, reached {counter.failcnt} times"


def _memory(report: Report) -> str:
    made_of = composition.of(report)
    if made_of is None:
        return _UNKNOWN
    parts = ", ".join(f"{part.name} {part.kb}" for part in made_of.parts)
    return f"{made_of.total_kb} kB: {parts}"


def _chosen(report: Report) -> str:
    judgement = report.judgement
    assert judgement is not None
    if report.chosen_pid is None:
        who = "nobody" if report.outcome == "no-victim" else _UNKNOWN
    else:
        who = f"{report.chosen_comm} ({report.chosen_pid})"
    verdict = {True: "as expected", False: "NOT as expected", None: "cannot be judged"}
    text = f"{who}: {verdict[judgement.agrees]}, {judgement.why}"
    if judgement.score_agrees is not None:
        agrees = "agrees" if judgement.score_agrees else "does NOT agree"
        text += f"; the kernel's score of {report.score} {agrees} with the list"
    return text


_TASK = "            {:>8} {:<15} {:>6} {:>5}  {:>10} {:>10} {:>8}  {}"


def _candidates(report: Report) -> Iterator[str]:
    judgement = report.judgement
    assert judgement is not None
    if not report.tasks:
        return
    total = judgement.total_pages
    yield _TASK.format("PID", "COMMAND", "UID", "ADJ", "RSS kB", "SWAP kB", "TABLES", "WEIGHT")
    for task in report.tasks[:_ROWS]:
        yield _task(task, report, judgement.page_kb)
    rest = judgement.candidates + judgement.never - len(report.tasks[:_ROWS])
    more = f"{rest} more; " if rest > 0 else ""
    worth = f"worth {_range(total)} pages" if total else f"worth what is {_UNKNOWN}"
    yield f"            {more}weights are pages; an oom_score_adj of 1000 is {worth}"


def _task(task: Task, report: Report, page_kb: int) -> str:
    killed = {kill.pid for kill in report.kills}
    weight = "?" if task.points is None else _range(task.points)
    if task.adj == NEVER:
        weight = "never chosen"
    elif report.killed_before.get(task.tgid) == task.comm:
        weight += " (killed before)"
    elif {task.pid, task.tgid} & killed:
        weight += " killed"
    tables = task.pages - task.rss - task.swapents
    figures = (n * page_kb for n in (task.rss, task.swapents, tables))
    return _TASK.format(task.pid, task.comm, task.uid, task.adj, *figures, weight)


def _range(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"


def _kill(kill: Kill) -> str:
    figures = (("anon", kill.anon_kb), ("file", kill.file_kb), ("shmem", kill.shmem_kb))
    text = ", ".join(f"{name} {kb}" for name, kb in figures if kb is not None)
    reaped = {None: "", True: ", taken back at once", False: ", NOT taken back at once"}
    return f"{kill.comm} ({kill.pid}), {text} kB{reaped[kill.reaped]}"


def _outcome(report: Report) -> str:
    return {
        "no-victim": "nobody: there was none who may be killed",
        "exiting": "nobody: the chosen was ending already",
        "panic": f"nobody: the machine panicked ({report.panic})",
    }.get(report.outcome or "", _UNKNOWN)


def _handler(report: Report) -> str:
    handling = report.handling
    if handling is None:
        return f"{_UNKNOWN}, nor in an event log of gs"
    if handling.handler is None and handling.outcome in (None, "none"):
        return "none was registered"
    text = f"{handling.handler or 'a signal'}: {handling.outcome}"
    if handling.elapsed_us is not None:
        text += f" after {handling.elapsed_us / 1e6:.3f} s"
    if handling.exit_status:
        text += f", exit status {handling.exit_status}"
    if handling.errno:
        text += f", errno {handling.errno}"
    return text


def _repeats(incident: Incident) -> Iterator[str]:
    for report in incident.reports[:_REPEATS]:
        killed = ", ".join(f"{kill.comm} ({kill.pid})" for kill in report.kills)
        asker = report.asker_comm or "asker not in the log"
        yield f"    {report.number:>4}  {report.when}  {asker} → {killed or _outcome(report)}"
    if len(incident.reports) > _REPEATS:
        yield f"          and {len(incident.reports) - _REPEATS} more"


def _refusals(explanation: Explanation) -> Iterator[str]:
    yield "refused, not killed: the overcommit limit (vm.overcommit_memory, vm.overcommit_ratio)"
    for one in explanation.refusals[:_REPEATS]:
        size = "size not in the log" if one.bytes is None else f"{one.bytes} bytes"
        times = f", {one.count} times" if one.count > 1 else ""
        yield f"  {one.comm} ({one.pid}): {size}{times}"
    if len(explanation.refusals) > _REPEATS:
        yield f"  and {len(explanation.refusals) - _REPEATS} more"

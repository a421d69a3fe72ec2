"""Reports that repeat each other: OOMs of one domain, one soon after the other, as one incident;
and all of it as plain data, for JSON."""

from __future__ import annotations

from . import composition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from .facts import Counter, Kill, Refusal, Report, Task

    Data = dict[str, Any]

#: Seconds without an OOM after which the next one of the same domain is another incident.
_QUIET = 600.0


class Incident:
    """OOMs of one domain: a memory cgroup's limit, or the machine's memory."""

    def __init__(self, number: int, first: Report) -> None:
        self.number = number
        self.reports = [first]

    @property
    def domain(self) -> str:
        """In words, of which memory there was too little."""
        return domain(self.reports[0])

    @property
    def fullest(self) -> Report:
        """The report with the most in it."""
        return max(self.reports, key=lambda report: report.lines)

    def goes_on_with(self, report: Report) -> bool:
        """Whether this report is a repetition, and not of another time or boot."""
        last = self.reports[-1]
        if last.seconds is None or report.seconds is None:
            return True
        return 0 <= report.seconds - last.seconds <= _QUIET

    def victims(self) -> dict[str, int]:
        """How many processes of each name were killed."""
        names: dict[str, int] = {}
        for report in self.reports:
            for kill in report.kills:
                names[kill.comm] = names.get(kill.comm, 0) + 1
        return names

    def as_dict(self) -> Data:
        """As data."""
        first, last = self.reports[0], self.reports[-1]
        return {
            "number": self.number,
            "host": first.host or None,
            "scope": first.scope,
            "memcg": first.memcg,
            "count": len(self.reports),
            "first": time_of(first),
            "last": time_of(last),
            "victims": self.victims(),
            "reports": [report.number for report in self.reports],
        }


def domain(report: Report) -> str:
    """In words, of which memory there was too little."""
    if report.is_memcg:
        return f"memory cgroup {report.memcg or '(path not in the log)'}"
    if report.scope is None:
        return "a domain that is not in the log"
    if report.constraint == "cpuset":
        return f"{_nodes(report.mems_allowed)} (cpuset {report.cpuset})"
    if report.constraint == "mempolicy":
        return f"{_nodes(report.nodemask)} (memory policy)"
    return "the whole machine"


def _nodes(mask: str | None) -> str:
    return f"NUMA node{'' if (mask or '').isdigit() else 's'} {mask}"


def time_of(report: Report) -> Data:
    """Both clocks, as far as the log has them."""
    return {"seconds": report.seconds, "stamp": report.stamp or None}


def group(reports: list[Report]) -> list[Incident]:
    """The incidents, by the time of their first report."""
    incidents: list[Incident] = []
    latest: dict[tuple[str, str], Incident] = {}
    for report in reports:
        key = (report.host, domain(report))
        incident = latest.get(key)
        if incident is not None and incident.goes_on_with(report):
            incident.reports.append(report)
            continue
        latest[key] = Incident(len(incidents) + 1, report)
        incidents.append(latest[key])
    return incidents


class Explanation:
    """Everything that a log tells: ``reports`` in their order, ``incidents``, and ``refusals``,
    which are allocations that failed for the overcommit limit, and kill nobody."""

    def __init__(
        self, reports: list[Report], refusals: Mapping[tuple[str, int, str], Refusal]
    ) -> None:
        self.reports = reports
        self.incidents = group(reports)
        self.refusals = list(refusals.values())

    def as_dict(self) -> Data:
        """As data; what is not in the log is None."""
        return {
            "incidents": [incident.as_dict() for incident in self.incidents],
            "reports": [as_dict(report) for report in self.reports],
            "refusals": [
                {"pid": one.pid, "comm": one.comm, "bytes": one.bytes, "count": one.count}
                for one in self.refusals
            ],
        }


# ---------------------------------------------------------------------------- a report as data


def as_dict(report: Report) -> Data:
    """Sizes in the unit that a key's ending names, else in pages."""
    made_of = composition.of(report)
    assert report.judgement is not None
    return {
        "number": report.number,
        "host": report.host or None,
        "time": time_of(report),
        "missing": missing(report),
        "kernel": report.kernel,
        "asker": {
            "comm": report.asker_comm,
            "pid": report.asker_pid,
            "gfp_mask": report.gfp_mask,
            "gfp_flags": report.gfp_flags,
            "order": report.order,
            "oom_score_adj": report.asker_adj,
        },
        "scope": report.scope,
        "constraint": report.constraint,
        "nodemask": report.nodemask,
        "cpuset": report.cpuset,
        "mems_allowed": report.mems_allowed,
        "memcg": _memcg(report),
        "memory": made_of
        and {
            "total_kb": made_of.total_kb,
            "parts": [{"name": part.name, "kb": part.kb} for part in made_of.parts],
        },
        "chosen": {
            "pid": report.chosen_pid,
            "comm": report.chosen_comm,
            "uid": report.chosen_uid,
            "score": report.score,
        },
        "outcome": report.outcome,
        "panic": report.panic,
        "killed": [_kill(kill) for kill in report.kills],
        "group": report.group,
        "candidates": [_task(task) for task in report.tasks],
        "judgement": report.judgement.as_dict(),
        "handling": report.handling and report.handling.as_dict(),
        "hints": [{"kind": hint.kind, "text": hint.text, **hint.figures} for hint in report.hints],
    }


def missing(report: Report) -> list[str]:
    """What a kernel prints of such an OOM, and this log does not have."""
    lacks = {
        "asker": report.asker_comm is None,
        "asker's pid": report.asker_pid is None,
        "domain": report.scope is None,
        "constraint": report.scope is not None and report.constraint is None,
        "limit": report.is_memcg and "memory" not in report.counters,
        "memory": composition.of(report) is None,
        "tasks": not report.has_list,
        "victim": report.chosen_pid is None and report.outcome != "no-victim",
        "kill": report.outcome is None,
    }
    return [name for name, lacking in lacks.items() if lacking]


def _memcg(report: Report) -> Data | None:
    if not report.is_memcg:
        return None
    counters = {name: _counter(report.counters.get(name)) for name in
                ("memory", "swap", "memory+swap", "kmem")}  # fmt: skip
    return {"path": report.memcg, "task_path": report.task_memcg, **counters}


def _counter(counter: Counter | None) -> Data | None:
    """``limit_kb`` is None where there is no limit."""
    if counter is None:
        return None
    limit = counter.limit_kb if counter.is_limited else None
    return {"usage_kb": counter.usage_kb, "limit_kb": limit, "failcnt": counter.failcnt}


def _kill(kill: Kill) -> Data:
    return {
        "pid": kill.pid,
        "comm": kill.comm,
        "uid": kill.uid,
        "total_vm_kb": kill.total_vm_kb,
        "anon_kb": kill.anon_kb,
        "file_kb": kill.file_kb,
        "shmem_kb": kill.shmem_kb,
        "pgtables_kb": kill.pgtables_kb,
        "oom_score_adj": kill.adj,
        "reaped": kill.reaped,
    }


def _task(task: Task) -> Data:
    return {
        "pid": task.pid,
        "tgid": task.tgid,
        "comm": task.comm,
        "uid": task.uid,
        "oom_score_adj": task.adj,
        "total_vm": task.total_vm,
        "rss": task.rss,
        "anon": task.anon,
        "file": task.file,
        "shmem": task.shmem,
        "swapents": task.swapents,
        "pgtables_bytes": task.pgtables_bytes,
        "nr_ptes": task.nr_ptes,
        "nr_pmds": task.nr_pmds,
        "points": task.points,
    }

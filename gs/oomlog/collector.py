"""Grouping lines into reports: their beginnings and ends, machine by machine, with other lines
between them, and with either end cut off."""

from __future__ import annotations

from . import messages, telling
from .facts import Refusal, Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .lines import Line

#: So many lines after the last that belonged to it a report is over, although no kill was seen.
_PATIENCE = 1000

#: So many kills are remembered for what the log tells later of their victims.
_REMEMBERED = 256


class _Host:
    """What is remembered of one machine from line to line."""

    def __init__(self) -> None:
        self.open: Report | None = None
        self.idle = 0
        self.last: Report | None = None
        self.swap_kb: int | None = None
        self.killed: dict[int, Report] = {}

    def remember(self, report: Report) -> None:
        """The last kill of this report."""
        pid = report.kills[-1].pid
        self.killed.pop(pid, None)
        self.killed[pid] = report
        if len(self.killed) > _REMEMBERED:
            del self.killed[next(iter(self.killed))]


class Collector:
    """Takes lines in their order; ``reports`` are complete up to the one that is open."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.refusals: dict[tuple[str, int, str], Refusal] = {}
        self._hosts: dict[str, _Host] = {}
        self._open = 0

    @property
    def is_open(self) -> bool:
        """Whether the next line may belong to a report, whatever is in it."""
        return self._open > 0

    def take(self, line: Line) -> Report | None:
        """One line; gives the report that ended before it or with it, if one did."""
        host = self._hosts.get(line.host)
        if host is None:
            host = self._hosts[line.host] = _Host()
        found = messages.classify(line.text, host.open)
        if found is None:
            if host.open is not None:
                host.idle += 1
                if host.idle > _PATIENCE:
                    return self._close(host)
            return None
        host.idle = 0
        kind, match = found
        if kind in messages.ASIDE:
            return self._aside(kind, match, line, host)
        ended = None
        if host.open is not None and messages.begins_another(kind, match, host.open):
            ended = self._close(host)
        report = self._report_of(kind, match, line, host)
        report.lines += 1
        telling.tell(kind, match, report)
        if kind == "killed":
            host.remember(report)
        if kind in messages.LAST and host.open is not None:
            ended = self._close(host)  # (none of these begins another)
        return ended

    def finish(self) -> Iterator[Report]:
        """No more lines come."""
        for host in self._hosts.values():
            if host.open is not None:
                yield self._close(host)

    def _report_of(self, kind: str, match: messages.Match, line: Line, host: _Host) -> Report:
        if host.open is not None:
            return host.open
        last = host.last
        if last is not None and messages.continues(kind, match, last):
            return last
        report = Report(line)
        report.swap_known_kb = host.swap_kb
        report.killed_before = {
            pid: kill.comm for pid, one in host.killed.items() for kill in one.kills
            if kill.pid == pid
        }  # fmt: skip
        host.open = report
        self._open += 1
        return report

    def _close(self, host: _Host) -> Report:
        report = host.open
        assert report is not None
        host.open, host.last, host.idle = None, report, 0
        self._open -= 1
        report.number = len(self.reports) + 1
        self.reports.append(report)
        return report

    def _aside(self, kind: str, match: messages.Match, line: Line, host: _Host) -> Report | None:
        """What is told of a machine, or of a process, outside of reports."""
        if kind == "boot":
            ended = self._close(host) if host.open is not None else None
            self._hosts[line.host] = _Host()
            return ended
        if kind == "swap on":
            host.swap_kb = (host.swap_kb or 0) + int(match[1])
        elif kind == "reaper":
            pid = int(match[2])
            report = host.open or host.killed.get(pid)
            for kill in report.kills if report else ():
                if kill.pid == pid:
                    kill.reaped = match[1] == "reaped process"
        elif kind == "refusal":
            size = None if match[3] is None else int(match[3])
            pid, comm = int(match[1]), match[2]
            known = self.refusals.get((line.host, pid, comm))
            if known is None:
                self.refusals[line.host, pid, comm] = Refusal(pid, comm, size)
            else:
                known.bytes = size
                known.count += 1
        return None

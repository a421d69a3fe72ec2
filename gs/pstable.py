"""The report of `gs ps` for people: a table that fits the terminal, and what an OOM would do."""

from __future__ import annotations

from functools import lru_cache

from .printable import printable, shell_word
from .proctree import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence

    from .choice import Choice, Snapshot
    from .ps import Report, Row

_HEAD = ("PID", "SCORE", "ADJ", "RSS", "SWAP", "USED", "LIMIT", "GRP", "REG", "CGROUP", "COMMAND")
#: Where those two stand that may be cut, and the least that is left of them.
_CGROUP, _COMMAND = _HEAD.index("CGROUP"), _HEAD.index("COMMAND")
_LEAST_CGROUP, _LEAST_COMMAND = 8, 12
_LEFT = (_CGROUP, _COMMAND)
_CUT = ".."
_UNITS = "KMGTP"


def text(said: Report, width: int | None = None) -> str:
    """All of it; lines of the table are cut to ``width`` columns, or not at all."""
    lines = [*_table(said, width), "", *_choices(said)]
    if said.findings:
        lines += ["", "daemons that stand before the hog:"]
        for one in said.findings:
            lines.append(f"  {printable(one.text)}")
            if one.mend:
                lines.append(f"    -> {one.mend}")
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=None)
def size(kb: int | None) -> str:
    """Kilobytes in at most five columns; a dash for what is not known."""
    if kb is None:
        return "-"
    value = float(kb)
    for unit in _UNITS:
        if value < 1000:
            return f"{value:.1f}{unit}" if value < 10 and unit != "K" else f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.0f}E"


# ---------------------------------------------------------------------------- the table


def _table(said: Report, width: int | None) -> Iterator[str]:
    groups = {path: _group_cells(said.snapshot, path) for path in {row.path for row in said.rows}}
    cells = [_HEAD, *(_cells(said, row, groups[row.path]) for row in said.rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    widths[_COMMAND] = 0
    if width is not None:
        fixed = sum(widths[:_CGROUP]) + len(_HEAD) - 1
        left = max(width - fixed, _LEAST_CGROUP + _LEAST_COMMAND)
        widths[_CGROUP] = min(widths[_CGROUP], max(left // 2, _LEAST_CGROUP))
        widths[_COMMAND] = max(left - widths[_CGROUP], _LEAST_COMMAND)
    for row in cells:
        yield " ".join(map(_fitted, range(len(_HEAD)), row, widths)).rstrip()


def _fitted(column: int, cell: str, width: int) -> str:
    if column not in _LEFT:
        return cell.rjust(width)
    if width and len(cell) > width:
        # Of a path the end tells most, of a command its beginning.
        end = column == _CGROUP
        cell = _CUT + cell[len(_CUT) - width :] if end else cell[: width - len(_CUT)] + _CUT
    return cell.ljust(width)


def _cells(said: Report, row: Row, of_group: Sequence[str]) -> tuple[str, ...]:
    one = row.process
    score = "-" if row.why_exempt else str(one.score)
    return (
        str(one.pid),
        score,
        str(one.adj),
        size(one.rss_kb),
        size(one.swap_kb),
        *of_group,
        (row.covered or "-") if said.is_registry_known or row.covered else "?",
        "-" if row.path is None else printable(row.path),
        _command(row),
    )


def _group_cells(snapshot: Snapshot, path: str | None) -> tuple[str, str, str]:
    """Use, limit (with a ^: that of a group above) and memory.oom.group."""
    group = None if path is None else snapshot.groups.get(path)
    if group is None or path is None:
        return "-", "-", "-"
    near = snapshot.limit_of(path)
    limit = "-"
    if near is not None and near.limit is not None:
        limit = size(near.limit >> 10) if near is group else "^" + size(near.limit >> 10)
    together = "-" if group.kills_all is None else str(int(group.kills_all))
    return size(None if group.usage is None else group.usage >> 10), limit, together


def _command(row: Row) -> str:
    branch = "" if row.depth == 0 else "  " * (row.depth - 1) + "\\_ "
    if row.command:
        return branch + " ".join(map(shell_word, row.command))
    name = printable(row.process.comm)
    # As ps(1) does it: what has no command line stands in brackets.
    return branch + (name if row.command is None else f"[{name}]")


# ---------------------------------------------------------------------------- the choice


def _choices(said: Report) -> Iterator[str]:
    yield "would be chosen now, in pages (rss + swap + page tables + adj x total / 1000):"
    for one in said.choices:
        yield f"  {_place(said.snapshot, one)}: {_who(one)}"
        for line in _more(said.snapshot, one):
            yield f"      {printable(line)}"


def _place(snapshot: Snapshot, one: Choice) -> str:
    if one.group is None:
        return f"machine ({size(one.total * PAGE >> 10)} of memory and swap)"
    limit = snapshot.groups[one.group].limit
    return f"{printable(one.group)} (limit {size(None if limit is None else limit >> 10)})"


def _who(one: Choice) -> str:
    if one.pid is None:
        return one.why
    return f"{one.pid} ({printable(one.comm)})"


def _more(snapshot: Snapshot, one: Choice) -> Iterator[str]:
    if one.pid is not None:
        yield one.why
        if one.together is not None:
            yield f"memory.oom.group of {one.together}: {_all_of(len(one.killed))} killed"
        elif len(one.killed) > 1:
            others = ", ".join(str(pid) for pid in one.killed if pid != one.pid)
            yield f"killed with it, for they share its memory: {others}"
        following = snapshot.by_pid.get(one.runner_up or 0)
        if following is not None:
            points = snapshot.points(following, one.total)
            yield f"next: {following.pid} ({following.comm}) with {points}"
    yield from one.notes


def _all_of(count: int) -> str:
    return "the 1 process in it is" if count == 1 else f"all {count} processes in it are"

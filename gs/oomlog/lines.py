"""Lines of a kernel log, whoever wrote them down: finding those that matter, and taking off time,
host and priority.

dmesg (also -T, -x, -d, -e, --time-format iso), journalctl (short, short-precise, short-iso,
short-full, short-unix, short-monotonic), rsyslog and RFC 5424, `<priority>` prefixes, records of
/dev/kmsg (kernel's Documentation/ABI/testing/dev-kmsg), and CONFIG_PRINTK_CALLER.
"""

from __future__ import annotations

import re

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator

    from .collector import Collector
    from .facts import Report

#: One of these is in each line with which anything of interest can begin. Searched for as bytes,
#: which takes a hundredth of the time that reading each line would.
MARKERS = (
    b"invoked oom-killer",
    b"oom-kill:",
    b"oom_score_adj name",
    b"Task in /",
    b"memory: usage ",
    b"Memory cgroup stats",
    b"ut of memory",
    b"Killed process",
    b"oom_reaper: ",
    b"OOM victim",
    b"memory.oom.group",
    b"deadlocked on memory",
    b"no reclaimable memory",
    b"__vm_enough_memory",
    b"k swap on ",
    b"Linux version ",
)

#: A longer line is read no further: no writer makes such of the kernel's records of about 1 KB.
_LONGEST = 65536
#: The same for one message.
_LONGEST_MESSAGE = 2048


class Line(Record):
    """One message of the kernel: its text, when it was logged, and of which machine.

    ``seconds``: since the boot (printk's clock), None if not told. ``stamp``: the wall-clock time
    as it is written there, or empty. ``host``: as syslog names it, or empty.
    """

    __slots__ = ("host", "seconds", "stamp", "text")

    def __init__(self, text: str, seconds: float | None, stamp: str, host: str) -> None:
        self.text = text
        self.seconds = seconds
        self.stamp = stamp
        self.host = host

    @property
    def is_bare(self) -> bool:
        """Whether nothing was written before the message."""
        return self.seconds is None and not self.stamp and not self.host

    def in_place_of(self, other: Line) -> Line:
        """This text, with the time and the host of another message."""
        return Line(self.text, other.seconds, other.stamp, other.host)


_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_CLOCK = r"\d\d:\d\d:\d\d(?:[.,]\d+)?"

_RECORD = re.compile(r"(\d{1,4}),\d+,(\d{1,20}),[^;]{0,200};")
_PREFIX = re.compile(
    rf"""
    (?:[a-z]{{3,9}}\ *:[a-z]{{3,7}}\ *:\ )?                        # dmesg -x
    (?:<(?P<priority>\d{{1,4}})>(?:1\ )?)?
    (?:(?P<stamp>
          \d{{4}}-\d\d-\d\d[T ]{_CLOCK}(?:Z|\ ?[+-]\d\d:?\d\d)?
        | (?:{_DAY}\ )?(?:\d{{4}}\ )?{_MONTH}\ [ \d]?\d\ (?:\d{{4}}\ )?{_CLOCK}
        | {_DAY}\ \d{{4}}-\d\d-\d\d\ {_CLOCK}(?:\ [A-Z]{{3,5}})?
        | \d{{10}}\.\d{{6}}
        | \[\ *(?P<monotonic>\d{{1,12}}\.\d{{1,9}})\](?=\ [\w.-]+\ kernel:)
      )\s+)?
    (?:(?P<host>[\w.:-]{{1,255}})\ (?P<program>[\w./@-]{{1,64}})
        (?:\[\d+\]:|:|\ (?:\d+|-)\ \S+\ (?:-|\[[^]]*\]))(?:\ |$))?  # the last: RFC 5424
    (?:<\d{{1,4}}>)?
    (?:\[\ *(?P<seconds>\d{{1,12}}\.\d{{3,9}})(?:\ <[^>]{{1,40}}>)?\]
        | \[(?P<human>[^][]{{3,40}}\ \d\d:\d\d:\d\d\ \d{{4}}           # dmesg -T, any language
             | {_MONTH}\ ?\d{{1,2}}\ \d\d:\d\d)\]                     # dmesg -e, the first
        | \[\ *\+\d+\.\d+\])?                                      # ... and the next
    (?:\s?\[\ *[TC]\d+\])?
    [ ]?(?P<text>.*)
    """,
    re.VERBOSE | re.DOTALL,
)
_KERNEL = "kernel"

#: How a row of the list of tasks begins.
_ROW = re.compile(rb"\[ *\d+\] ")
_AS_ZEROS = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else byte for byte in range(256))

#: Priority and facility in one number: above 7 it is not the kernel's own, but written to /dev/kmsg
#: by a program.
_FACILITY_KERNEL = 8


def parse(raw: bytes) -> list[Line]:
    """The messages in one line of a log: one, several where a writer put them into one line, or
    none where it is another program's."""
    text = raw[:_LONGEST].decode("utf-8", "surrogateescape").rstrip("\r\n")
    record = _RECORD.match(text)
    if record:
        if int(record[1]) >= _FACILITY_KERNEL:
            return []
        line = Line(text[record.end() :], int(record[2]) / 1e6, "", "")
        return _split(line, r"\x0a")
    match = _PREFIX.match(text)
    if match is None:  # it cannot be: everything may be missing
        return []
    # (syslog's priority of a kernel's message is below 8, too.)
    if match["priority"] and int(match["priority"]) >= _FACILITY_KERNEL:
        return []
    host = match["host"] or ""
    if host and match["program"] != _KERNEL:
        # Without a time before it, two words and a colon may be the message itself.
        if match["stamp"]:
            return []
        host, body = "", text[match.start("host") :]
    else:
        body = match["text"]
    seconds = match["seconds"] or match["monotonic"]
    stamp = match["human"] or ("" if match["monotonic"] else match["stamp"]) or ""
    return _split(Line(body, float(seconds) if seconds else None, stamp, host), "#012")


def _split(line: Line, newline: str) -> list[Line]:
    pieces = line.text.split(newline) if newline in line.text else [line.text]
    return [Line(p[:_LONGEST_MESSAGE], line.seconds, line.stamp, line.host) for p in pieces]


# ---------------------------------------------------------------------------- the way through


def feed(blocks: Iterable[bytes], collector: Collector) -> Iterator[Report]:
    """Give a collector the lines that matter, and yield each report as soon as it is complete.

    Every line is read while a report is open; between reports only those with a marker.
    """
    reader = _Reader()
    for block in _whole_lines(blocks):
        finder = _Finder(block)
        position = 0
        while position < len(block):
            if not collector.is_open:
                found = finder.next(position)
                if found < 0:
                    break
                position = block.rfind(b"\n", 0, found) + 1
                reader.skip()
            end = block.find(b"\n", position)
            end = len(block) if end < 0 else end
            for line in reader.read(block[position:end]):
                report = collector.take(line)
                if report is not None:
                    yield report
            position = end + 1
    yield from collector.finish()


class _Reader:
    """Lines as they are, but for those that go on with a message of several lines: the journal and
    dmesg write time and host once."""

    def __init__(self) -> None:
        self._before: list[Line] | None = None
        #: What stood before the message in the line before, with its digits as zeros.
        self._head = b""
        self._host = b""

    def skip(self) -> None:
        """Some lines were not read."""
        self._before = None
        self._head = b""

    def read(self, raw: bytes) -> list[Line]:
        """The messages in a line."""
        if self._head and _ROW.match(raw, len(self._head)):
            head = raw[: len(self._head)]
            # Nearly all lines of a large report are such rows; only their text is of interest.
            if head.translate(_AS_ZEROS) == self._head and self._host in head and self._before:
                text = raw[len(head) :].decode("utf-8", "surrogateescape")
                return [Line(text[:_LONGEST_MESSAGE], None, "", "").in_place_of(self._before[0])]
        found = parse(raw)
        self._remember_head(raw, found)
        if self._before is not None and found and found[0].is_bare:
            return [line.in_place_of(one) for one in self._before[-1:] for line in found]
        self._before = found
        return found

    def _remember_head(self, raw: bytes, found: list[Line]) -> None:
        self._head = b""
        if len(found) == 1 and not found[0].is_bare:
            text = found[0].text.encode("utf-8", "surrogateescape")
            if raw.endswith(text):
                self._head = raw[: len(raw) - len(text)].translate(_AS_ZEROS)
                self._host = found[0].host.encode("utf-8", "surrogateescape")


def _whole_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, cut behind newlines."""
    rest = b""
    for block in blocks:
        whole, newline, tail = block.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = tail
        else:
            rest += tail
        if len(rest) > 16 * _LONGEST:  # no log has such lines
            yield rest
            rest = b""
    if rest:
        yield rest


class _Finder:
    """Where the next marker is in a block; each marker is searched for once."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._at = dict.fromkeys(MARKERS, -1)

    def next(self, position: int) -> int:
        """The first marker's place from there on, -1 if there is none."""
        for marker, at in list(self._at.items()):
            if at < position:
                at = self._block.find(marker, position)
                if at < 0:
                    del self._at[marker]
                else:
                    self._at[marker] = at
        return min(self._at.values(), default=-1)

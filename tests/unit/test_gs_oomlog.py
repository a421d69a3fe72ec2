"""`gs explain`: right on recorded logs and on older formats, whoever wrote them down; silent where
a log is silent; and not to be ended by any input.

data/oomlogs/recorded holds what kernels printed that tests/guest/test_explain.py booted;
data/oomlogs/written was written after the formats of older kernels. What is expected of each is in
the JSON file beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gs.eventstream import OomEvent
from gs.oomlog import explain, lines, words
from tests.unit.gs_support import REPO, gs

DATA = Path(__file__).parent / "data" / "oomlogs"
LOGS = sorted(DATA.glob("*/*.log"))
RECORDED = [path for path in LOGS if path.parent.name == "recorded"]
WRITTEN = [path for path in LOGS if path.parent.name == "written"]

Data = dict[str, Any]


def told(log: bytes, *events: OomEvent) -> Data:
    """What is told of a log, as JSON has it; in words, too, which must not fail either."""
    explanation = explain([log], events)
    assert list(words.lines(explanation))
    return json.loads(json.dumps(explanation.as_dict()))  # type: ignore[no-any-return]


def value_at(report: Data, path: str) -> Any:
    """A value by its keys, with dots; of a list its items' values."""
    value: Any = report
    for key in path.split("."):
        value = [item[key] for item in value] if isinstance(value, list) else value[key]
    return value


def check(data: Data, expected: Data) -> None:
    """All that is expected is told."""
    assert len(data["reports"]) == len(expected["reports"])
    both = zip(data["reports"], expected["reports"])  # noqa: B905 - Python 3.9 runs this, too
    for report, wanted in both:
        found = {key: value_at(report, key) for key in wanted if key != "hints"}
        if "hints" in wanted:
            found["hints"] = sorted(hint["kind"] for hint in report["hints"])
        assert found == wanted
    assert [one["count"] for one in data["incidents"]] == expected["incidents"]


def expected_of(path: Path) -> Data:
    return json.loads(path.with_suffix(".json").read_text())  # type: ignore[no-any-return]


def name_of(path: Path) -> str:
    return path.stem


# ---------------------------------------------------------------------------- the logs


@pytest.mark.parametrize("path", LOGS, ids=name_of)
def test_what_is_expected_is_told(path: Path) -> None:
    check(told(path.read_bytes()), expected_of(path))


def test_there_are_enough_of_them_and_each_says_where_it_is_from() -> None:
    assert len(WRITTEN) >= 6
    kernels = {value_at(told(path.read_bytes())["reports"][0], "kernel") for path in RECORDED}
    assert {kernel.rsplit(".", 1)[0] for kernel in kernels} >= {"5.10", "6.1", "6.12"}
    for path in LOGS:
        start = "recorded" if path.parent.name == "recorded" else "written after"
        assert expected_of(path)["origin"].startswith(start)


# ---------------------------------------------------------------------------- who wrote it down


def messages(path: Path) -> Iterator[tuple[int, int, str]]:
    """Level, microseconds and text of a log of /dev/kmsg."""
    for record in path.read_text().splitlines():
        if not record.startswith(" "):  # the kernel's dictionary
            head, _, text = record.partition(";")
            level, _, usec = head.split(",")[:3]
            yield int(level), int(usec), text


def dressed(path: Path, style: str) -> bytes:
    """A recorded log as another program would have written it."""
    out = []
    for level, usec, text in messages(path):
        second = f"{usec / 1e6:.6f}"
        clock = f"12:{usec // 60_000_000 % 60:02}:{usec // 1_000_000 % 60:02}"
        head = {
            "dmesg": f"[{second:>12}] ",
            "dmesg -x": f"kern  :warn  : [{second:>12}] ",
            "dmesg --raw": f"<{level}>[{second:>12}] ",
            "dmesg -d": f"[{second:>12} <    0.000010>] ",
            "dmesg -T": f"[Fri Nov 10 {clock} 2023] ",
            "dmesg -T, in German": f"[Fr 10. Nov {clock} 2023] ",
            "dmesg -e": "[  +0.000010] " if out else f"[Nov10 {clock[:5]}] ",
            "dmesg iso": f"2023-11-10T{clock},{usec % 1_000_000:06}+01:00 ",
            "caller": f"[{second:>12}][   T61] ",
            "journal short": f"Nov 10 {clock} node-1 kernel: ",
            "journal precise": f"Nov 10 {clock}.{usec % 1_000_000:06} node-1 kernel: ",
            "journal iso": f"2023-11-10T{clock}+0100 node-1 kernel: ",
            "journal full": f"Fri 2023-11-10 {clock} UTC node-1 kernel: ",
            "journal unix": f"{1699610000 + usec / 1e6:.6f} node-1 kernel: ",
            "journal monotonic": f"[{second:>12}] node-1 kernel: ",
            "syslog": f"Nov 10 {clock} node-1 kernel: [{second:>12}] ",
            "rsyslog": f"2023-11-10T{clock}.000000+00:00 node-1 kernel: [{second:>12}] ",
            "rfc 5424": f"<{level}>1 2023-11-10T{clock}Z node-1 kernel - - - [{second:>12}] ",
            "bare": "",
        }[style]
        if style in ("rsyslog", "rfc 5424"):
            out.append(head + text.replace("\\x0a", "#012"))
        elif style.startswith("dmesg"):
            out += [head + line for line in text.split("\\x0a")]
        else:
            out.append(head + text.replace("\\x0a", "\n" + " " * len(head)))
    return "\n".join(out).encode()


STYLES = (
    *("dmesg", "dmesg -x", "dmesg --raw", "dmesg -d", "dmesg -T", "dmesg -T, in German"),
    *(
        "dmesg -e",
        "dmesg iso",
        "caller",
        "journal short",
        "journal precise",
        "journal iso",
        "journal full",
    ),
    *("journal unix", "journal monotonic", "syslog", "rsyslog", "rfc 5424", "bare"),
)


@pytest.mark.parametrize("style", STYLES)
def test_the_same_is_told_of_every_style(style: str) -> None:
    for path in RECORDED:
        data = told(dressed(path, style))
        check(data, expected_of(path))
        time = data["reports"][0]["time"]
        assert (time["seconds"] is None) == (
            style in ("bare", "dmesg -e", "dmesg iso")
            or style.startswith("dmesg -T")
            or (style.startswith("journal") and style != "journal monotonic")
        )
        assert (time["stamp"] is None) == (style in STYLES[:4] + ("caller", "bare")) or style in (
            "journal monotonic",
            "dmesg -e",
        )  # whose minute is not on every line


def test_what_programs_write_is_not_the_kernels() -> None:
    lied = "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"
    for head in (
        "12,1,2,-;",
        "<14>",
        "Nov 10 12:00:00 node app[77]: ",
        "<30>Nov 10 12:00:00 n a: ",
    ):
        assert told(f"{head}{lied}\n".encode())["reports"] == []
    assert len(told(f"{lied}\n".encode())["reports"]) == 1


# ---------------------------------------------------------------------------- cut and mixed


FACTS = ("asker.pid", "kernel", "memcg.path", "chosen.pid", "outcome", "constraint", "scope")


def fact(report: Data, path: str) -> object:
    return None if path.startswith("memcg.") and not report["memcg"] else value_at(report, path)


@given(st.sampled_from(RECORDED), st.data())
@settings(max_examples=150, deadline=None)
def test_a_cut_log_tells_less_and_nothing_else(path: Path, data: st.DataObject) -> None:
    records = path.read_bytes().splitlines(keepends=True)
    first = data.draw(st.integers(0, len(records)))
    last = data.draw(st.integers(first, len(records)))
    whole = told(path.read_bytes())["reports"][0]
    for report in told(b"".join(records[first:last]))["reports"]:
        for name in FACTS:
            known = fact(report, name)
            assert known in (None, fact(whole, name)) or (name == "chosen.pid" and whole["group"])
        assert report["judgement"]["agrees"] in (None, whole["judgement"]["agrees"])


NOISE = (
    b"4,1,1,-;usb 1-1: new high-speed USB device number 5 using xhci_hcd\n",
    b'6,2,2,-;audit: type=1400 audit(1): apparmor="DENIED" comm="memory: usage" pid=1\n',
    b" SUBSYSTEM=usb\n",
    b"4,3,3,-;[drm] GPU HANG\n",
    b"\n",
    b"6,4,4,-;TCP: out of memory -- consider tuning tcp_mem\n",
)


@given(st.sampled_from(RECORDED), st.lists(st.tuples(st.integers(0, 99), st.sampled_from(NOISE))))
@settings(max_examples=100, deadline=None)
def test_other_lines_in_between_change_nothing(path: Path, noise: list[tuple[int, bytes]]) -> None:
    records = path.read_bytes().splitlines(keepends=True)
    for place, line in noise:
        records.insert(place, line)
    check(told(b"".join(records)), expected_of(path))


def test_blocks_may_be_cut_anywhere() -> None:
    log = RECORDED[0].read_bytes()
    for size in (1, 7, 100, 4096):
        blocks = [log[at : at + size] for at in range(0, len(log), size)]
        assert explain(blocks).as_dict() == explain([log]).as_dict()


# ---------------------------------------------------------------------------- the judgement


def memcg_log(*rows: str, kernel: str = "6.1.0-1", swap: str = "0") -> bytes:
    """An OOM of a group of 40 MB in which process 7 was killed."""
    lines_of = [
        "hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        f"CPU: 0 PID: 7 Comm: hog Not tainted {kernel} #1",
        "memory: usage 40960kB, limit 40960kB, failcnt 1",
        f"swap: usage 0kB, limit {swap}kB, failcnt 0",
        "[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name",
        *rows,
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        "oom_memcg=/a,task_memcg=/a,task=hog,pid=7,uid=1000",
        "Memory cgroup out of memory: Killed process 7 (hog) total-vm:8000kB, anon-rss:4000kB",
    ]
    return "".join(f"[  100.000000] {line}\n" for line in lines_of).encode()


HOG = "[      7]  1000     7     2000     1000    40960        0             0 hog"


def judged(*rows: str, **more: str) -> Data:
    return told(memcg_log(*rows, **more))["reports"][0]["judgement"]  # type: ignore[no-any-return]


def test_a_choice_that_the_list_does_not_explain_is_told() -> None:
    heavier = "[      8]  1000     8     2000     1500    40960        0             0 big one"
    found = judged(HOG, heavier)
    assert (found["agrees"], found["ahead"]) == (False, [8])
    assert found["why"] == "heavier and not chosen: big one (8)"
    exempt = heavier.replace("        0 big", "    -1000 big")
    assert judged(HOG, exempt)["agrees"] is True
    assert judged(HOG.replace("0 hog", "-1000 hog"))["agrees"] is False
    nearly = heavier.replace("1500", "1060")  # what counting late can explain
    assert judged(HOG, nearly)["agrees"] is True


def test_who_was_killed_before_is_passed_over() -> None:
    heavier = "[      8]  1000     8     2000     1500    40960        0             0 big"
    before = "Memory cgroup out of memory: Killed process 8 (big) total-vm:8000kB, anon-rss:4kB\n"
    data = told(f"[   99.000000] {before}".encode() + memcg_log(HOG, heavier))
    assert data["reports"][1]["judgement"]["agrees"] is True


def test_roots_lower_weight_before_4_17() -> None:
    """It may have the capability, so either weight explains the choice."""
    root = "[      8]     0     8     9000     8200    40960        0             0 root's"
    hog = HOG.replace(" 1000    40960", " 8000    40960")
    assert judged(hog, root, kernel="4.4.0-1")["agrees"] is True
    assert judged(hog, root, kernel="4.17.0-1")["agrees"] is False


def test_the_total_is_only_known_with_the_swap() -> None:
    """Of an adjusted process; the machine's swap may have been told at its boot."""
    other = "[      8]  1000     8     2000      100    40960        0           100 other"
    row = HOG.replace("1000    40960", "1200    40960")
    free = memcg_log(row, other, swap="9007199254740988")
    assert told(free)["reports"][0]["judgement"]["agrees"] is None
    swap = b"[    1.000000] Adding 4000k swap on /dev/vdb.  Priority:-2 extents:1 across:4000k\n"
    found = told(swap + free)["reports"][0]["judgement"]
    assert (found["agrees"], found["total_pages"]) == (True, [10240, 11240])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("oom_reaper: unable to reap pid:7 (hog)", "not-reaped"),
        ("Tasks in /a are going to be killed due to memory.oom.group set", "group"),
    ],
)
def test_what_is_told_after_the_kill(line: str, kind: str) -> None:
    report = told(memcg_log(HOG) + f"[  100.500000] {line}\n".encode())["reports"][0]
    assert kind in [hint["kind"] for hint in report["hints"]]


def test_a_panic_and_an_oom_by_hand() -> None:
    asker = "[1.000] x invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order={}, oom_score_adj=0\n"
    panic = (
        "[1.100] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled\n"
    )
    report = told((asker.format(0) + panic).encode())["reports"][0]
    assert report["outcome"] == "panic" and [h["kind"] for h in report["hints"]] == ["panic"]
    report = told(asker.format(-1).encode())["reports"][0]
    assert [hint["kind"] for hint in report["hints"]] == ["sysrq"]


def test_incidents_end_with_quiet_and_with_a_boot() -> None:
    def at(seconds: int) -> bytes:
        return memcg_log(HOG).replace(b"[  100.000000]", f"[{seconds:>5}.000000]".encode())

    counts = [one["count"] for one in told(at(100) + at(600) + at(1300) + at(50))["incidents"]]
    assert counts == [2, 1, 1]


# ---------------------------------------------------------------------------- any input


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_no_bytes_end_it(junk: bytes) -> None:
    told(junk)


@given(st.lists(st.sampled_from((*lines.MARKERS, b"\n", b";", b"[", b"9" * 30, b": ", b"\xff")),
                max_size=60))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_nothing_made_of_markers_ends_it(pieces: list[bytes]) -> None:
    told(b"".join(pieces))


@given(st.sampled_from(LOGS), st.data())
@settings(max_examples=300, deadline=None)
def test_no_damaged_log_ends_it(path: Path, data: st.DataObject) -> None:
    log = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(log)))
        size = data.draw(st.integers(0, 40))
        log[at : at + size] = data.draw(
            st.one_of(
                st.binary(max_size=20),
                st.sampled_from(
                    (
                        b"99999999999999999999999999",
                        b"-1",
                        b"",
                        b"\n",
                        b",",
                        b" ",
                        b"0",
                        "²".encode(),
                        "٣".encode(),
                        b"1" * 5000,
                    )
                ),
            )
        )
    told(bytes(log))


# ---------------------------------------------------------------------------- little work


def test_only_what_matters_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an OOM, the other lines of a large log are not looked at one by one."""
    read = []
    parse = lines.parse
    monkeypatch.setattr(lines, "parse", lambda raw: read.append(raw) or parse(raw))
    noise = b"Nov 10 12:00:00 node-1 kernel: [ 1.000000] eth0: link becomes ready\n" * 20_000
    log = noise + dressed(RECORDED[0], "syslog") + b"\n" + noise
    assert len(told(log)["reports"]) == 1
    assert len(read) < 200


# ---------------------------------------------------------------------------- handlers

KILL = (
    "seq=9 time_ns={time_ns} event=kill pid={pid} comm={comm} uid=0 constraint={constraint}"
    " memcg=/x handler=/save outcome={outcome} group=0 total_vm_kb={size}"
)


def events_for(report: Data, **changes: object) -> list[OomEvent]:
    """A handler's end, and the kill, of the process that a report tells of."""
    values: Data = {
        "pid": report["chosen"]["pid"], "comm": report["chosen"]["comm"], "outcome": "done",
        "constraint": report["constraint"], "size": report["killed"][0]["total_vm_kb"],
        "time_ns": int(report["time"]["seconds"] * 1e9),
        **changes,
    }  # fmt: skip
    done = "seq=8 time_ns={time_ns} event=done pid={pid} comm={comm} uid=0 constraint={constraint}"
    done += " memcg=/x exit_status=256 elapsed_us=1500"
    return [OomEvent.parse(done.format(**values)), OomEvent.parse(KILL.format(**values))]


def test_the_handlers_outcome_is_found_beyond_doubt() -> None:
    log = next(path for path in RECORDED if path.stem.endswith("-memcg")).read_bytes()
    report = told(log)["reports"][0]
    assert report["handling"] is None
    events = events_for(report)
    assert told(log, *events)["reports"][0]["handling"] == {
        "handler": "/save", "outcome": "done", "seq": 9, "elapsed_us": 1500, "exit_status": 256,
        "errno": None,
    }  # fmt: skip
    assert told(log, *events, *events)["reports"][0]["handling"] is None  # which of the two?
    for other in ({"pid": 1}, {"comm": "x"}, {"constraint": "none"}, {"time_ns": 1},
                  {"size": 1}):  # fmt: skip
        assert told(log, *events_for(report, **other))["reports"][0]["handling"] is None


# ---------------------------------------------------------------------------- the command


def test_the_command_reads_a_file_and_standard_input(tmp_path: Path) -> None:
    path = next(path for path in RECORDED if path.stem.endswith("-memcg"))
    done = gs("explain", str(path), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    check(json.loads(done.stdout), expected_of(path))
    piped = gs("explain", "-", within=("sh", "-c", f'exec "$@" < {path}', "sh"))
    assert piped.returncode == 0
    assert piped.stdout.startswith("incident 1: out of memory in memory cgroup /gs-test-")
    assert piped.stdout == gs("explain", str(path)).stdout


def test_a_log_without_an_oom_says_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("Nov 10 12:00:00 n kernel: [ 1.0] eth0: up\n")
    done = gs("explain", str(tmp_path / "log"))
    assert (done.returncode, done.stdout) == (0, "no OOM in this log\n")


def test_refusals_are_told_apart(tmp_path: Path) -> None:
    said = "__vm_enough_memory: pid: 7, comm: py, bytes: 4096 not enough memory for the allocation"
    older = "__vm_enough_memory: pid: 8, comm: a, b, no enough memory for the allocation"
    data = told(f"[  1.000000] {said}\n[  2.000000] {said}\n{older}\n".encode())
    assert data["refusals"] == [
        {"pid": 7, "comm": "py", "bytes": 4096, "count": 2},
        {"pid": 8, "comm": "a, b", "bytes": None, "count": 1},
    ]
    assert data["reports"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("explain", "/nowhere/log"), 1, "there is no such file"),
        (("explain", "/"), 1, "cannot read /"),
        (("explain", "x", "--journal"), 2, "give one of them"),
        (("explain", "/dev/null", "--events", "/nowhere"), 1, "there is no such file"),
        (("explain", "/dev/null", "--events", __file__), 3, "bad event record"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = gs(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_the_journal_is_asked_for_the_kernels_lines(tmp_path: Path) -> None:
    """A journalctl that stands in for the real one, which a container has not."""
    log = tmp_path / "log"
    log.write_bytes(dressed(RECORDED[0], "journal monotonic"))
    program = tmp_path / "journalctl"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *-k*short-monotonic*) exec cat {log};; esac\nexit 1\n'
    )
    program.chmod(0o755)
    done = gs("explain", "--journal", "--json", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, done.stderr) == (0, "")
    check(json.loads(done.stdout), expected_of(RECORDED[0]))
    program.write_text("#!/bin/sh\necho no journal files were found >&2; exit 1\n")
    done = gs("explain", "--journal", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert done.returncode == 3 and "no journal files" in done.stderr


def test_names_in_a_log_do_not_steer_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("Out of memory: Killed process 7 (\x1b[2Jx) total-vm:4kB, anon-rss:4kB\n")
    done = gs("explain", str(log))
    assert done.returncode == 0 and "\x1b" not in done.stdout and "\\x1b[2Jx" in done.stdout


def console_blocks() -> Iterator[tuple[str, str]]:
    """The logs that the docs show, and what they show of each."""
    for page in (REPO / "README.md", REPO / "docs" / "explain.md"):
        for block in page.read_text().split("```console\n$ gs-oom explain ")[1:]:
            name, _, output = block.partition("\n")
            yield name, output.partition("```")[0]


def test_the_docs_show_what_the_command_prints() -> None:
    blocks = list(console_blocks())
    assert len(blocks) >= 5
    for name, output in blocks:
        (path,) = DATA.glob(f"*/{name}")
        assert gs("explain", str(path)).stdout == output

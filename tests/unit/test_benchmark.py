"""The benchmark's arithmetic, its judgement, and what it tells."""

from __future__ import annotations

import json
import os
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, plot, report
from benchmarks.statistics import median_of, percentile, ratio_of_medians
from provisioning import bench, results
from provisioning.config import REPO
from provisioning.errors import UsageError
from provisioning.results import Results

pytestmark = pytest.mark.unit

ABOUT = {
    "series": "6.1",
    "release": "6.1.192-gs",
    "command": "./dev bench",
    "sources": "somewhere",
    "configuration": "guest",
    "machine": "QEMU",
    "host": "a host",
    "other_work": "0 %",
    "date": "2026-11-24",
}


def trial(kind: str, handler: str, way: str, ms: float, **more: Any) -> dict[str, Any]:
    row = {"round": 0, "place": 0, "kind": kind, "handler": handler, "way": way}
    return {**row, "ns": int(ms * 1e6), **more}


def handler_samples(oom_ms: float = 10.0, trials: int = 30) -> dict[str, Any]:
    """Every handler takes 10 ms alone."""
    rows = []
    for kind in figures.KINDS:
        for handler in figures.HANDLERS:
            for number in range(trials):
                rows.append(trial(kind, handler, "alone", 10 + number / 1000, minor=1, major=2))
                rows.append(trial(kind, handler, "oom", oom_ms + number / 1000, kill_ns=2_000_000))
    cuts = [{"kind": kind, "timeout_ns": 1, "kill_ns": 3_000_000} for kind in figures.KINDS]
    return {"trials": rows, "cuts": cuts}


def registry_samples() -> dict[str, Any]:
    kills = [
        {"many": many, "registered": registered, "ns": 1_000_000 + 100_000 * many}
        for many in (False, True)
        for registered in (False, True)
        for _ in range(100)
    ]
    return {
        "costs": [[1000, 1400, 2000, 3200]] * 30,
        "writes": {"add": [40_000_000] * 30, "remove": [51_000_000] * 30},
        "kills": kills,
    }


def phase_samples() -> dict[str, Any]:
    keys = ("first_run", "exec", "exit", "running", "runnable", "asleep")
    row = {**dict.fromkeys(keys, 1500.0), "faults": 30, "reads": 2, "processors": [0]}
    lost = {"kind": "memcg", "handler": "shm", "way": "oom", "problem": "x"}
    rows = [
        {"kind": kind, "handler": handler, "way": way, **row}
        for _ in range(3)
        for kind in figures.KINDS
        for handler in figures.HANDLERS
        for way in ("alone", "oom")
    ]
    return {"phases": [*rows, lost]}


def other_samples(ours: str = "patched", theirs: str = "unpatched") -> list[dict[str, Any]]:
    return [
        {
            "of": name,
            "plain": [1_000_000 + 10_000 * (name == ours)] * 50,
            "disabled": [2_000_000] * 50,
        }
        for _ in range(4)
        for name in (ours, theirs)
    ]


def module_samples(slower: float = 1.05) -> list[dict[str, Any]]:
    return [
        {
            "of": name,
            "trials": [
                {"kind": kind, "handler": handler, "way": "oom", "ns": 5e6 * factor}
                for kind in figures.KINDS
                for handler in figures.HANDLERS
                for _ in range(10)
            ],
        }
        for _ in range(3)
        for name, factor in (("module", slower), ("builtin", 1.0))
    ]


def everything() -> dict[str, Any]:
    return {
        "handlers": handler_samples(),
        "phases": phase_samples(),
        "registry": registry_samples(),
        "others": other_samples(),
        "module": module_samples(),
        "module-others": other_samples("module", "bare"),
    }


@lru_cache(maxsize=1)
def all_of_them() -> tuple[figures.Figure, ...]:
    return tuple(figures.all_figures(everything()))


# ---- statistics


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
def test_the_nearest_rank(part: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), part) == value


def test_the_99th_of_few_is_the_largest() -> None:
    assert percentile([3.0, 9.0, 1.0], 0.99) == 9.0


def test_an_interval_holds_its_value_and_is_the_same_each_time() -> None:
    samples = [1 + (7 * number % 30) / 10 for number in range(30)]
    first, second = median_of([samples]), median_of([samples])
    assert first == second
    assert min(samples) < first.low < first.value < first.high < max(samples)


def test_more_samples_make_it_narrower() -> None:
    few = [float(number % 10) for number in range(20)]
    wide, narrow = median_of([few]), median_of([few * 30])
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_ratio_of_medians() -> None:
    ratio = ratio_of_medians([[3.0] * 10], [[2.0] * 10])
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.5, 1.5)


def test_boots_that_differ_widen_the_interval() -> None:
    """Each boot agrees with itself: only drawing boots shows that they do not agree."""
    boots = [[1.0] * 50, [1.1] * 50, [1.2] * 50, [1.3] * 50]
    as_one = [[sample for boot in boots for sample in boot]]
    stock = [[1.0] * 200]
    grouped, flat = ratio_of_medians(boots, stock), ratio_of_medians(as_one, stock)
    assert grouped.value == flat.value
    assert grouped.high - grouped.low > 1.5 * (flat.high - flat.low)


# ---- figures


def test_each_handler_in_both_kinds_has_a_ratio_and_a_p99() -> None:
    ratios = list(figures.handler_ratios(handler_samples(oom_ms=11.0)))
    assert len(ratios) == 20
    assert all(figure.met for figure in ratios)
    assert ratios[0].value == pytest.approx(1.1, abs=0.01)
    assert [figure.goal for figure in ratios[:2]] == [1.15, 2.0]


def test_a_miss_is_a_miss() -> None:
    samples = {"handlers": handler_samples(oom_ms=11.8)}
    missed = [f for f in figures.all_figures(samples) if f.met is False]
    assert len(missed) == 10
    assert "MISSED" in report.table(figures.all_figures(samples))


def test_one_slow_trial_misses_the_p99_alone() -> None:
    samples = handler_samples()
    row = next(r for r in samples["trials"] if r["way"] == "oom")
    row["ns"] = 25_000_000
    missed = [figure for figure in figures.handler_ratios(samples) if figure.met is False]
    assert [figure.title for figure in missed] == ["memory cgroup: does nothing, p99"]


def test_a_lost_trial_meets_no_goal() -> None:
    samples = handler_samples()
    samples["trials"].append(
        {"kind": "global", "handler": "shm", "way": "oom", "problem": "no done"}
    )
    (figure,) = [f for f in figures.handler_ratios(samples) if f.lost]
    assert figure.title.startswith("whole machine: reads shared memory")
    assert figure.met is False
    assert "MISSED (1 lost)" in report.table([figure])


def test_without_a_single_result_the_figure_is_there_and_missed() -> None:
    samples = handler_samples()
    samples["trials"] = [
        {"kind": r["kind"], "handler": r["handler"], "way": r["way"], "problem": "x"}
        for r in samples["trials"]
    ]
    samples["cuts"] = [{"kind": "memcg", "problem": "x"}, {"kind": "global", "problem": "x"}]
    rows = figures.all_figures({"handlers": samples})
    assert len(rows) == 14
    assert not any(figure.met for figure in rows)
    assert report.table(rows)


@pytest.mark.parametrize(
    ("parts", "value", "met"),
    [
        (("a registration / a write",), 1.4, True),
        (("the same, with open",), 1.6, False),
        (("10,000 lines registered",), 40, True),
        (("10,000 lines removed",), 51, False),
        (("100,000 entries", "not registered"), 1.1, False),
        (("kills of others", "unpatched kernel: nothing registered"), 1.01, True),
        (("kills of others: module", "without it: nothing registered"), 1.01, True),
        (("module / built in", "reads shared memory"), 1.05, True),
        (("after the handler's end, longest", "whole"), 2.0, True),
        (("never ends, longest", "memory cgroup"), 3.0, True),
    ],
    ids=str,
)
def test_the_other_figures(parts: tuple[str, ...], value: float, met: bool) -> None:
    named = {f"{figure.section}: {figure.title}": figure for figure in all_of_them()}
    figure = named[min((n for n in named if all(p in n for p in parts)), key=len)]
    assert figure.value == pytest.approx(value)
    assert figure.met is met


def test_patched_over_unpatched_and_not_the_other_way_round() -> None:
    found = figures.other_kills(other_samples(), "patched", "unpatched")
    ratios = [figure for figure in found if figure.goal]
    assert [figure.value for figure in ratios] == pytest.approx([1.01, 1.0])
    assert all(figure.goal == 1.02 and figure.met and figure.samples == 200 for figure in ratios)


# ---- what is told


def test_the_table_ends_with_the_count_of_goals() -> None:
    rows = all_of_them()
    judged = [figure for figure in rows if figure.goal is not None]
    last = report.table(rows).splitlines()[-1]
    missed = sum(not figure.met for figure in judged)
    assert last == f"{len(judged) - missed} of {len(judged)} goals met, {missed} missed"
    assert missed


def test_the_page_has_every_figure_and_names_the_picture() -> None:
    samples, rows = everything(), all_of_them()
    page = report.markdown(dict.fromkeys(samples, ABOUT), rows, samples, "6.1.svg")
    assert all(f"| {figure.title} |" in page for figure in rows)
    assert "](6.1.svg)" in page
    assert page.count(" | 1.50 | 1.50 | 1.50 | 1.50 | 1.50 | 1.50 | 30 | 2 |") == 20
    assert page.count("MISSED") == sum(figure.met is False for figure in rows)


def test_the_picture_is_an_svg_with_a_dot_for_each_trial() -> None:
    text = plot.svg(handler_samples(trials=7), "a <title> & more")
    root = ElementTree.fromstring(text)
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == 2 + 10 * 2 * 7
    width = float(root.attrib["width"])
    assert all(0 <= float(node.attrib["cx"]) <= width for node in circles)


# ---- the machines


def test_an_order_knows_its_parts_and_its_place(tmp_path: Path) -> None:
    names = ["handlers", "phases", "registry", "others", "module", "module-others", "backends"]
    names += ["hosts"]
    assert [part.name for part in bench.Order().parts()] == names
    assert [part.name for part in bench.Order(only="others").parts()] == ["others"]
    assert bench.Order().folder() == bench.DOCS
    assert bench.Order(only="others").folder() is None
    assert bench.Order(only="others", output=str(tmp_path)).folder() == tmp_path


@pytest.mark.parametrize(("part", "asked", "in_one"), [("handlers", 30, 30), ("phases", 30, 5),
                         ("others", 30, 50), ("module", 30, 10), ("module", 31, 11)])  # fmt: skip
def test_trials_are_shared_out_over_the_boots(part: str, asked: int, in_one: int) -> None:
    assert bench.PARTS[part].trials(asked) == in_one


def test_a_backend_tells_of_the_trials_that_it_lost() -> None:
    done = {"handler": "nothing", "way": "oom", "ns": 20_000_000, "kill_ns": 1_000_000}
    alone = {"handler": "nothing", "way": "alone", "ns": 10_000_000}
    lost = {"handler": "nothing", "way": "oom", "problem": "no handler"}
    boots = [
        {"of": "kernel", "trials": [alone, done] * 3},
        {"of": "cgroup2", "trials": [alone, lost, alone, done]},
        {"of": "cgroup1", "trials": [alone, lost]},
    ]
    found = {figure.title: figure for figure in figures.by_backend(boots)}
    assert found["does nothing: alone"].value == 10
    assert found["does nothing, kernel: from the choice to its end, median"].value == 20
    assert found["does nothing, kernel: to the kill, longest"].lost == 0
    assert found["does nothing, cgroup2: to the kill, longest"].lost == 1
    assert found["does nothing, cgroup1: to the kill, longest"].value == float("inf")


def test_four_hosts_are_held_against_one() -> None:
    rows = [
        {"hosts": count, "part": part, "ns": ns * times * 1_000_000}
        for part, times in ((0.25, 2), (None, 1))
        for count, ns in ((1, 400), (4, 500), (1, 420), (4, 510))
    ]
    one, four, ratio, *shared = figures.hosts_at_once(rows)
    assert (one.value, four.value) == (820, 1010) and ratio.met
    assert ratio.title == "0.25 of a processor each: 4 at once / 1" and 1.2 < ratio.value < 1.25
    assert [figure.value for figure in shared[:2]] == [410, 505] and shared[2].goal is None


def test_a_module_that_is_slower_or_loses_a_trial_misses_the_goal() -> None:
    assert not any(figure.met for figure in figures.module_ratios(module_samples(1.2)))
    samples = module_samples()
    samples[0]["trials"] = samples[0]["trials"][:10]
    found = list(figures.module_ratios(samples))
    assert found[0].met and found[-1].value == float("inf") and not found[-1].met
    assert all(figure.value >= 1.05 for figure in found)


@pytest.mark.parametrize("order", [bench.Order(only="bogus"), bench.Order(trials=1)], ids=str)
def test_a_bad_order_is_refused(order: bench.Order) -> None:
    with pytest.raises(UsageError):
        order.parts()


def test_the_files_are_whole_and_can_be_read_again(tmp_path: Path) -> None:
    samples = everything()
    Results(samples, dict.fromkeys(samples, ABOUT)).write(tmp_path, "6.1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6.1.json", "6.1.md", "6.1.svg"]
    text = (tmp_path / "6.1.json").read_text()
    assert json.loads(text)["samples"] == samples
    assert max(map(len, text.splitlines())) < 2000


def test_parts_that_are_measured_one_at_a_time_add_up(tmp_path: Path) -> None:
    samples = everything()
    later = {**ABOUT, "date": "2026-11-25"}
    for name, about in (("handlers", ABOUT), ("others", ABOUT), ("handlers", later)):
        Results({name: samples[name]}, {name: about}).write(tmp_path, "6.1")
    found = results.read(tmp_path / "6.1.json")
    assert found.samples == {name: samples[name] for name in ("handlers", "others")}
    assert found.about == {"handlers": later, "others": ABOUT}
    page = (tmp_path / "6.1.md").read_text()
    assert "| | handlers | others |" in page and "| date | 2026-11-25 | 2026-11-24 |" in page
    assert all(f"| {figure.title} |" in page for figure in found.figures)


def test_a_bar_follows_the_lines_however_they_are_cut() -> None:
    steps: list[float] = []

    class Recorder:
        def update(self, amount: float = 1) -> None:
            steps.append(amount)

    @contextmanager
    def make(name: str, total: float, unit: str) -> Iterator[Recorder]:
        assert (name, total) == ("handlers", 20.0)
        yield Recorder()

    with bench._Watcher("handlers", make) as watcher:
        for piece in ("progr", "ess 1 20\nprogress 2 ", "20\nsomething else\n", "progress 5 20\n"):
            watcher(piece)
    assert steps == [1, 1, 3]


# ---- the trace

#: One handler's way, as Linux 6.1 tells it (shortened); times in seconds since boot.
TRACE = """\
# tracer: nop
  gs_launcher-90      [000] d..2.     9.000000: sched_switch: prev_comm=gs_launcher prev_pid=90 \
prev_prio=100 prev_state=S ==> next_comm=x next_pid=77 next_prio=120
           x-77      [001] d..3.    10.000100: sched_wakeup: comm=gs_launcher pid=90 prio=100 \
target_cpu=000
      <idle>-0       [000] d..2.    10.000300: sched_switch: prev_comm=swapper/0 prev_pid=0 \
prev_prio=120 prev_state=R ==> next_comm=gs_launcher next_pid=90 next_prio=100
  do_nothing-90      [000] .....    10.001000: sched_process_exec: filename=/x pid=90 old_pid=90
  do_nothing-90      [000] d..2.    10.001500: sched_switch: prev_comm=do_nothing prev_pid=90 \
prev_prio=120 prev_state=R+ ==> next_comm=y next_pid=9 next_prio=120
           y-9       [000] d..2.    10.001600: sched_switch: prev_comm=y prev_pid=9 prev_prio=120 \
prev_state=S ==> next_comm=do_nothing next_pid=90 next_prio=120
  do_nothing-90      [000] d....    10.001700: page_fault_user: address=0x1 ip=0x2 error_code=0x4
  do_nothing-90      [000] .....    10.001720: block_rq_issue: 254,0 RA 4096 () 1 + 8 none
           y-900     [000] d....    10.001750: page_fault_user: address=0x1 ip=0x2 error_code=0x4
  do_nothing-90      [000] d..2.    10.001800: sched_switch: prev_comm=do_nothing prev_pid=90 \
prev_prio=120 prev_state=D ==> next_comm=swapper/0 next_pid=0 next_prio=120
      <idle>-0       [001] d.h3.    10.002800: sched_wakeup: comm=do_nothing pid=90 prio=120 \
target_cpu=001
      <idle>-0       [001] d..2.    10.002900: sched_switch: prev_comm=swapper/1 prev_pid=0 \
prev_prio=120 prev_state=R ==> next_comm=do_nothing next_pid=90 next_prio=120
  do_nothing-90      [001] .....    10.003000: sched_process_exit: comm=do_nothing pid=90 prio=120
  do_nothing-90      [001] d..2.    10.003100: sched_switch: prev_comm=do_nothing prev_pid=90 \
prev_prio=120 prev_state=Z ==> next_comm=swapper/1 next_pid=0 next_prio=120
"""


def test_a_process_is_followed_through_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "tests" / "guest"))
    from benchmarks.guest.phases import phases
    from benchmarks.guest.trials import Ran

    ran = Ran(pid=90, begin_ns=10_000_000_000, end_ns=10_003_050_000)
    found = phases(TRACE.splitlines(), ran)
    assert found.first_run == pytest.approx(300)
    assert found.exec == pytest.approx(1000)
    assert found.exit == pytest.approx(3000)
    assert found.running == pytest.approx(1200 + 200 + 100)
    assert found.runnable == pytest.approx(200 + 100 + 100)
    assert found.asleep == pytest.approx(100 + 1000)
    assert (found.faults, found.reads, found.processors) == (1, 1, [0, 1])


def test_the_work_of_others_is_no_more_than_all_and_ours_is_not_it() -> None:
    def share(told: str) -> int:
        return int(told.split(" %")[0])

    work = bench._OthersWork()
    assert "instructions are counted" in work.told()
    end = time.monotonic() + 0.5
    with work:
        while time.monotonic() < end:
            pass
    own = share(work.told())
    assert 0 <= own <= 100
    work = bench._OthersWork()
    other = subprocess.Popen(["sh", "-c", "while :; do :; done"])  # not waited for: another's
    with work:
        time.sleep(1)
    told = work.told()
    other.kill()
    other.wait()
    assert share(told) >= 100 // (2 * (os.cpu_count() or 1))

"""Nothing changes for others: the kernel's own selftests give the same results with our patches.

Built from each series' own tree with its own makefiles, run in the same machine on three kernels:
without our patches, with them and nothing registered, and with them switched off. GS_SELFTEST_RUNS
says how often each program runs on each.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioning import commands
from provisioning.kernel import source
from provisioning.vm.session import guest_run
from tests.kernels import chosen_series, kernel_or_skip, sources_of

pytestmark = pytest.mark.guest

#: Below the tree.
SELFTESTS = Path("tools/testing/selftests")

#: Those that let memory run out, kill or charge; not every series has all of them.
PROGRAMS = (
    "cgroup/test_memcontrol",
    "cgroup/test_kmem",
    "cgroup/test_core",
    "vm/mrelease_test",
    "mm/mrelease_test",
)

#: Without it 6.1's mrelease_test knows no number for its own system call, and skips itself.
NUMBERS = "-include sys/syscall.h"

#: How often each program runs on each kernel.
RUNS = int(os.environ.get("GS_SELFTEST_RUNS", "1"))

#: Where a result differs: how often the program runs again on each of them, at a time and at most
#: so many times. Emulated, some tests vary by themselves: test_memcg_low, _min and _reclaim are
#: about how much the kernel reclaims in a given time. What counts is how a test usually ends.
ROUND, ROUNDS = 3, 4

#: What test_memcontrol takes at most, and swap for its test of memory.swap.max.
MEMORY_MB, SWAP_MB = 1024, 256

#: Seconds for one program, emulated on a busy host; and until it hangs, as 5.10's test_memcontrol
#: does without our patches, too.
DEADLINE, HANGS = 300.0, 200

#: kselftest's exit statuses, for a program that prints no KTAP, and that of timeout(1).
BY_STATUS = {0: "ok", 4: "skip", 124: "hangs"}

_LINE = re.compile(r"(ok|not ok) \d+ (?:- )?(# SKIP )?(.*)")

#: mrelease_test's names tell how much it took, which is a matter of luck.
_SIZE = re.compile(r"\b\d+MB of ")

#: Test -> what came of it, in each run.
Results = dict[str, list[str]]


@dataclass(frozen=True)
class Way:
    """A kernel, and what is written before anything runs on it."""

    name: str
    patched: bool
    setup: str = "true"


UNPATCHED = Way("unpatched", patched=False)
WAYS = (
    Way("patched, nothing registered", patched=True),
    Way(
        "patched, vm.graceful_shutdown_enabled=0",
        patched=True,
        setup="echo 0 >/proc/sys/vm/graceful_shutdown_enabled",
    ),
)


@pytest.mark.parametrize("series", chosen_series())
def test_the_same_results(series: str, tmp_path: Path) -> None:
    """Each test ends as it usually does without our patches."""
    programs = build(source.locate(series, sources_of(series)).tree(), tmp_path)
    assert "test_memcontrol" in programs
    found = {way: run(series, way, programs, RUNS) for way in (UNPATCHED, *WAYS)}
    stock = found[UNPATCHED]
    assert "hangs" in stock["test_memcontrol"] or (
        "ok" in stock["test_memcontrol: test_memcg_oom_events"]
    )
    for way in WAYS:
        assert set(found[way]) == set(found[UNPATCHED]), way.name
    settle(series, programs, found)
    print(table(found))
    assert not differing(found), table(found)


def settle(series: str, programs: dict[str, Path], found: dict[Way, Results]) -> None:
    """Where results differ, run the programs again, on all of the kernels, and add what comes."""
    for _ in range(ROUNDS):
        concerned = {name.partition(":")[0] for name in differing(found)}
        if not concerned:
            return
        chosen = {name: path for name, path in programs.items() if name in concerned}
        for way, results in found.items():
            for name, seen in run(series, way, chosen, ROUND).items():
                results[name] = results.get(name, []) + seen


def build(tree: Path, place: Path) -> dict[str, Path]:
    """Those of PROGRAMS that the tree has, made by its makefiles in a copy: some of them write
    beside the sources."""
    _mirror(tree, place, SELFTESTS.parts)
    made = {}
    for program in PROGRAMS:
        target = place / SELFTESTS / program
        if target.with_suffix(".c").exists():
            folder = target.parent
            settings = [f"OUTPUT={folder}", f"EXTRA_CFLAGS={NUMBERS}"]
            commands.run(["make", "-C", folder, *settings, target], timeout=300)
            made[target.name] = target
    return made


def run(series: str, way: Way, programs: dict[str, Path], runs: int) -> Results:
    """All programs so many times in one machine, as victims like any other: the guest's init cannot
    be killed, and who comes from it neither."""
    setup = f"swapon /dev/vdc; echo 0 >/proc/self/oom_score_adj; {way.setup}"
    # By lines: what is still in its buffer when a program forks would be told twice.
    each = "; ".join(
        f'echo "program {name}"; timeout {HANGS} stdbuf -oL ./{name}; echo "status $?"'
        for name in programs
    )
    result = guest_run(
        kernel_or_skip(series, patched=way.patched),
        ["sh", "-e", "-c", f"{setup}; set +e; for i in $(seq {runs}); do {each}; done"],
        extra=programs,
        memory_mb=MEMORY_MB,
        swap_mb=SWAP_MB,
        timeout=DEADLINE * runs * len(programs),
    )
    assert result.exit_status == 0, (
        f"{way.name}: {result.output[-3000:]}\n{result.console()[-3000:]}"
    )
    found = Results()
    for name, outcome in outcomes(result.output.splitlines()):
        found.setdefault(name, []).append(outcome)
    assert all(len(seen) == runs for seen in found.values()), (
        f"{way.name}: a run is missing: {found}"
    )
    return found


def outcomes(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """KTAP's lines, and each program's own end."""
    program = ""
    for line in lines:
        words = line.split()
        if words[:1] == ["program"]:
            program = words[1]
        elif words[:1] == ["status"]:
            yield program, BY_STATUS.get(int(words[1]), f"exit status {words[1]}")
        elif match := _LINE.fullmatch(line.strip()):
            yield f"{program}: {_SIZE.sub('', match[3])}", "skip" if match[2] else match[1]


def differing(found: dict[Way, Results]) -> set[str]:
    """The tests that usually end in another way than without our patches."""
    stock = found[UNPATCHED]
    return {
        name
        for results in found.values()
        for name, seen in results.items()
        if not usual(seen) & usual(stock[name])
    }


def usual(seen: list[str]) -> set[str]:
    """What came of a test the most often; more than one where they are even."""
    most = max(map(seen.count, seen))
    return {outcome for outcome in seen if seen.count(outcome) == most}


def counted(seen: list[str]) -> str:
    """ "2 ok, 1 skip" """
    return ", ".join(f"{seen.count(outcome)} {outcome}" for outcome in sorted(set(seen)))


def table(ways: dict[Way, Results]) -> str:
    """A line a test, with what came of it in each way."""
    head = " | ".join(way.name for way in ways)
    names = next(iter(ways.values()))
    lines = [
        f"{name}: " + " | ".join(counted(seen.get(name, [])) for seen in ways.values())
        for name in names
    ]
    return "\n".join([head, *lines])


def _mirror(tree: Path, place: Path, way: tuple[str, ...]) -> None:
    """Links to what lies beside the way to one directory, which is copied."""
    for path in tree.iterdir():
        if path.name == way[0]:
            continue
        (place / path.name).symlink_to(path)
    if len(way) > 1:
        (place / way[0]).mkdir()
        _mirror(tree / way[0], place / way[0], way[1:])
    else:
        shutil.copytree(tree / way[0], place / way[0], symlinks=True)

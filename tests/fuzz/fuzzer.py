"""The fuzzer of the kernel's registry grammar: build it, seed it, run it, and care for its corpus.

    .venv/bin/python -m tests.fuzz.fuzzer --inputs 10000000 [--keep]

With --keep what was found is merged into tests/fuzz/corpus, which is then made minimal again.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provisioning import commands, config
from provisioning.errors import CommandFailed
from tests.unit.data import registry_lines

HERE = config.REPO / "tests" / "fuzz"
CORPUS = HERE / "corpus"
HARNESS = HERE / "registry_line.c"
DICTIONARY = HERE / "registry_line.dict"
GRAMMAR = config.REPO / "kernel_patches" / "files" / "mm" / "graceful_shutdown_grammar.c"

FLAGS = (
    *("-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-omit-frame-pointer"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
)
#: Bytes of an input: longer than any line that the kernel takes; and short ones, which run ten
#: times as fast and hold all but the limits on lengths.
LONG, SHORT = 2 * registry_lines.PATH_MAX + 800, 200
#: Which part of all inputs is short.
_SHORT_PART = 0.98
#: Bytes of a failed run's output, whose end tells of the failure.
_KEPT = 6000
#: Seconds that one input may take; a thousand times what the slowest does.
TIMEOUT = 10


class NotHere(Exception):
    """No fuzzer can be built on this machine; the text says what is missing."""


class Broken(Exception):
    """The parser broke; the text says how, and holds the input in base64."""


@dataclass(frozen=True)
class Report:
    """What a run did: inputs, seconds, code edges reached, inputs that reached something new."""

    inputs: int
    seconds: float
    edges: int
    new: int

    def __str__(self) -> str:
        return (
            f"{self.inputs} inputs in {self.seconds:.0f} s, {self.edges} edges reached,"
            f" {self.new} inputs found something new, no failure"
        )


def build(directory: Path, grammar: Path = GRAMMAR) -> Path:
    """The fuzzer's program, with the address and the undefined-behaviour sanitizer."""
    if shutil.which("clang") is None:
        raise NotHere("no clang here: apt-get install clang")
    program = directory / "registry_line"
    sources = ["-I", GRAMMAR.parent, HARNESS, grammar]
    try:
        commands.run(["clang", *FLAGS, "-o", program, *sources])
    except CommandFailed as error:
        if "libclang_rt" not in str(error):
            raise
        raise NotHere("clang's runtime is not here: apt-get install libclang-rt-dev") from None
    return program


def write_seeds(directory: Path) -> None:
    """The shared table of lines as a corpus, and what lies about the limits on lengths."""
    table = [text for text, *_ in (*registry_lines.GOOD, *registry_lines.BAD)]
    path_max, line_max = registry_lines.PATH_MAX, 2 * registry_lines.PATH_MAX
    table += ["1 /" + "p" * (length - 1) for length in range(path_max - 1, path_max + 2)]
    table += ["1 /x ".ljust(length, "a") for length in range(line_max - 1, line_max + 2)]
    for number, text in enumerate(table):
        seed = registry_lines.fill(
            text, pid=4711, exe="/bin/true", dir="/tmp", noexec="/etc/passwd"
        )
        (directory / str(number)).write_bytes(seed.encode())


def run(program: Path, inputs: int, work: Path) -> tuple[Report, list[bytes]]:
    """Run that many inputs; what reached something new is returned, and kept in ``work/found``.

    Raises Broken at the first failure; the input that caused it is in ``work``.
    """
    for name in ("seeds", "found"):
        (work / name).mkdir()
    write_seeds(work / "seeds")
    short = round(inputs * _SHORT_PART)
    reports = [_run(program, inputs - short, LONG, work), _run(program, short, SHORT, work)]
    report = Report(
        inputs=sum(report.inputs for report in reports),
        seconds=sum(report.seconds for report in reports),
        edges=max(report.edges for report in reports),
        new=sum(report.new for report in reports),
    )
    return report, [path.read_bytes() for path in sorted((work / "found").iterdir())]


def _run(program: Path, inputs: int, max_len: int, work: Path) -> Report:
    done = commands.run(
        [
            *(program, f"-runs={inputs}", f"-max_len={max_len}", f"-timeout={TIMEOUT}"),
            *(f"-dict={DICTIONARY}", f"-artifact_prefix={work}/", "-print_final_stats=1"),
            *(work / "found", work / "seeds", CORPUS),
        ],
        check=False,
    )
    if done.returncode != 0:
        raise Broken(done.stderr[-_KEPT:])
    return _report(done.stderr)


def _report(text: str) -> Report:
    """From what libFuzzer says at its end."""
    return Report(
        inputs=_last(r"stat::number_of_executed_units: (\d+)", text),
        seconds=_last(r"Done \d+ runs in (\d+) second", text),
        edges=_last(r"cov: (\d+)", text),
        new=_last(r"stat::new_units_added: *(\d+)", text),
    )


def _last(pattern: str, text: str) -> int:
    return int(re.findall(pattern, text)[-1])


def keep(program: Path, found: Path) -> None:
    """Merge what was found into the corpus, and leave only what each covers alone.

    Long inputs stay out: those that matter are seeds.
    """
    with tempfile.TemporaryDirectory() as place:
        merged, short = Path(place, "merged"), Path(place, "short")
        for directory in (merged, short):
            directory.mkdir()
        for path in (*CORPUS.iterdir(), *found.iterdir()):
            if path.stat().st_size <= SHORT:
                shutil.copy(path, short)
        commands.run([program, "-set_cover_merge=1", merged, short])
        shutil.rmtree(CORPUS)
        shutil.copytree(merged, CORPUS)


def main() -> int:
    """Fuzz by hand, for as long as one likes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many (1000000)")
    parser.add_argument("--keep", action="store_true", help="merge what was found into the corpus")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="gs-fuzz-"))
    program = build(work)
    report, _ = run(program, options.inputs, work)
    print(report)
    if options.keep:
        keep(program, work / "found")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

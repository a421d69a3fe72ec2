"""Runs tests/guest inside virtual machines with the patched kernels and reports what they said.

One machine for each kernel and each file of guest tests, so that a kernel that dies takes only
one file's results with it. GS_COUNT is the number of OOMs in the storm, GS_CYCLES how often the
module comes and goes, GS_WRITES the number of random writes, GS_EXPORTED that of events for the
exporter, GS_SEED what chance begins with;
GS_CGROUP=v1 runs all that can with version 1 of memory cgroups; kernels: see kernels.py.
"""

from __future__ import annotations

import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provisioning.errors import ProvisioningError
from provisioning.kernel import module
from provisioning.vm.session import GuestResult, guest_run
from tests.kernels import chosen_flavours, chosen_series, cost_of, kernel_or_skip

pytestmark = pytest.mark.guest

FILES = sorted(path.name for path in (Path(__file__).parent / "guest").glob("test_*.py"))

#: Variables that the guest's tests get, and their values here.
PASSED_ON = {
    "GS_COUNT": "50",
    "GS_CYCLES": "50",
    "GS_WRITES": "",
    "GS_SEED": "",
    "GS_CGROUP": "",
    "GS_EXPORTED": "",
}

#: Megabytes of memory where it is not the 512 of the others; a flavour's own come on top.
MEMORY = {"test_many.py": 2048, "test_exporter.py": 768}

#: Nodes of that memory where it is not one; a kernel without CONFIG_NUMA sees one all the same.
NODES = {"test_explain.py": 2}

#: Seconds for one file in one machine, emulated on a busy host; a flavour's factor comes on top.
DEADLINE = 1500.0

#: Of what there may be many in a file, and seconds for each of them: the loads of the module take
#: 2 to 4, emulated.
MANY = {"test_module.py": ("GS_CYCLES", 10.0), "test_exporter.py": ("GS_EXPORTED", 0.2)}


#: In a guest: what became of each test comes back as XML.
PYTEST = (
    *("python3", "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short"),
    *("--junit-xml=/out/junit.xml", "-o", "junit_family=xunit1"),
)


@dataclass(frozen=True)
class Case:
    """One guest test as pytest's XML tells of it; ``problem`` is empty when it passed, ``told`` is
    what it wants known in any case."""

    name: str
    problem: str
    skipped: str
    told: str


def cases(xml: str) -> Iterator[Case]:
    """The cases of a JUnit report."""
    for case in ElementTree.fromstring(xml).iter("testcase"):
        problems = [*case.findall("failure"), *case.findall("error")]
        skips = [skip.get("message", "") for skip in case.findall("skipped")]
        text = "\n".join(problem.text or problem.get("message", "") for problem in problems)
        told = [f"{p.get('name')}: {p.get('value')}" for p in case.iter("property")]
        yield Case(case.get("name", "?"), text, "; ".join(skips), "\n".join(told))


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("flavour", chosen_flavours())
@pytest.mark.parametrize("series", chosen_series())
def test_in_the_guest(series: str, flavour: str, file: str) -> None:
    """All tests of one file pass in a machine with this kernel, and the machine ends well."""
    run(series, flavour, file)


def run(series: str, flavour: str, file: str) -> None:
    """Boot the kernel, run the file's tests in it, and report what they said."""
    kernel = kernel_or_skip(series, flavour)
    values = {name: os.environ.get(name, usual) for name, usual in PASSED_ON.items()}
    many, each = MANY.get(file, ("", 0.0))
    command = ["env", *(f"{name}={value}" for name, value in values.items() if value)]
    run_and_report(
        kernel,
        [*command, *PYTEST, f"tests/guest/{file}"],
        memory_mb=MEMORY.get(file, 512),
        nodes=NODES.get(file, 1),
        timeout=DEADLINE + each * int(values.get(many) or 0),
        swap_mb=128,
        extra={**_module(kernel), **exporter_library()},
        cost=cost_of(series, flavour),
    )


def run_and_report(kernel: Path, command: Sequence[str], **how: Any) -> None:
    """Run :data:`PYTEST` in a machine (see guest_run), and report what it said."""
    try:
        result = guest_run(kernel, command, **how)
    except ProvisioningError as error:
        pytest.fail(str(error), pytrace=False)
    report(result)


def _module(kernel: Path) -> dict[str, Path]:
    """Where the core is a module, the guest may take it out and load it again."""
    found = kernel.with_name(module.NAME)
    return {module.NAME: found} if found.exists() else {}


def exporter_library() -> dict[str, Path]:
    """What the exporter needs: it is Python alone, so that ours will do in a guest, too."""
    library = importlib.util.find_spec("prometheus_client")
    if library is None or library.origin is None:
        return {}
    return {"prometheus_client": Path(library.origin).parent}


def report(result: GuestResult) -> None:
    """Fail with what a reader needs: the failed tests, or the last words of a dead machine."""
    if result.exit_status is None:
        console = "\n".join(result.console().splitlines()[-40:])
        output = "\n".join(result.output.splitlines()[-10:])
        pytest.fail(
            f"the machine ended as {result.outcome.value} after {result.seconds:.0f} s\n"
            f"last output:\n{output}\nconsole ({result.console_log}):\n{console}",
            pytrace=False,
        )
    xml = result.files / "junit.xml"
    if not xml.exists():
        pytest.fail(f"pytest did not report:\n{result.output[-3000:]}", pytrace=False)
    found = list(cases(xml.read_text()))
    failed = [case for case in found if case.problem]
    skipped = [f"{case.name}: {case.skipped}" for case in found if case.skipped]
    passed = len(found) - len(failed) - len(skipped)
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped in the guest")
    for told in (case.told for case in found if case.told):
        print(told)
    for line in skipped:
        print(f"skipped: {line}")
    if failed or result.exit_status != 0:
        texts = [f"--- {case.name}\n{case.problem}" for case in failed]
        head = f"{len(failed)} of {len(found)} guest tests failed (console: {result.console_log})"
        pytest.fail("\n".join([head, *texts]), pytrace=False)
    if found and len(skipped) == len(found):
        reasons = sorted({str(case.skipped) for case in found})
        pytest.skip(f"all {len(found)} tests of the file: {'; '.join(reasons)}")
    assert passed > 0, "no test ran in the guest"

"""The benchmark's machines: which kernel runs which part, and where the results are written."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import report
from provisioning import frontend, loopback
from provisioning.config import REPO
from provisioning.errors import HostFailed, UsageError
from provisioning.kernel import build, stock, versions
from provisioning.kernel.build import KernelArtefact
from provisioning.progress import Bar, bar, step
from provisioning.results import Results
from provisioning.vm import qemu, session
from provisioning.vm import stock as stock_vm

#: Where results go that are worth keeping.
DOCS = REPO / "docs" / "benchmarks"

#: Trials that are traced: they explain, and prove nothing.
TRACED = 5

#: Of others on one kernel; a median of fewer says nothing of 2 %.
KILLS = 200

#: The configuration of kernels that are measured for the module.
MODULAR = "modular"

#: What `gs run` may be told to take, each in boots of its own.
BACKENDS = ("kernel", "cgroup1", "cgroup2")

#: Seconds for one trial of anything, emulated on a busy host, and for a boot with what it takes.
TRIAL = 20.0
BOOT = 600.0


@dataclass(frozen=True)
class Part:
    """What is measured in a machine of its own, by which program in the guest, on which kernels
    (or by which backends); where there is none, on this machine.

    Where there are several they take turns, each ``boots`` times. ``count``: of trials in all
    boots of a kernel together; 0 is what the user asks for.

    ``counted``: nothing in it waits for a disk or for another processor, so that instructions can
    be counted where the machine is emulated (see :class:`qemu.Spec`). Of 2 % more or less, time
    says nothing there: the same kill took 9 ms in one boot and 24 in another.
    """

    name: str
    text: str
    program: str = ""
    kernels: tuple[str, ...] = ("patched",)
    boots: int = 1
    count: int = 0
    memory_mb: int = 512
    counted: bool = False

    @property
    def cpus(self) -> int:
        """Of its machine."""
        return 1 if self.counted else 2

    def trials(self, asked: int) -> int:
        """In one boot."""
        return -(-(self.count or asked) // self.boots)


PARTS = {
    part.name: part
    for part in (
        Part("handlers", "handlers against the same programs alone, and kill delays", "handlers"),
        Part("phases", "where the time of the handlers goes, traced", "phases", count=TRACED),
        Part(
            "registry",
            "the cost of registrations, few and 100,000",
            "registry",
            memory_mb=4096,
            counted=True,
        ),
        Part(
            "others",
            "kills of others on the patched and the unpatched kernel",
            "others",
            ("patched", "unpatched"),
            boots=4,
            count=KILLS,
            counted=True,
        ),
        Part(
            "module",
            "handlers with the module and with the same core built in",
            "oom",
            ("module", "builtin"),
            boots=3,
        ),
        Part(
            "module-others",
            "kills of others with the module and without it",
            "others",
            ("module", "bare"),
            boots=4,
            count=KILLS,
            counted=True,
        ),
        Part(
            "backends",
            "handlers by each backend of `gs run`, on a kernel that is not patched",
            "backends",
            BACKENDS,
        ),
        Part("hosts", "hosts that are looked at and sent a kernel, four over one", kernels=()),
    )
}


@dataclass(frozen=True)
class Order:
    """What the user asked for; empty means all parts, and the usual place."""

    trials: int = 30
    only: str = ""
    output: str = ""

    def parts(self) -> list[Part]:
        """The parts to measure."""
        if self.trials < 2:
            raise UsageError("--trials must be at least 2")
        if self.only and self.only not in PARTS:
            raise UsageError(
                f"the benchmark has no part {self.only!r}", hint=f"take {', '.join(PARTS)}"
            )
        return [part for name, part in PARTS.items() if self.only in ("", name)]

    def folder(self) -> Path | None:
        """Where to write; a part alone is written only where the user wants it."""
        if self.output:
            return Path(self.output).absolute()
        return None if self.only else DOCS


def describe(request: frontend.Request, order: Order) -> dict[str, Any]:
    """For ``--dry-run``."""
    facts = frontend.describe(request)
    folder = order.folder()
    return {
        **facts,
        "measured": [part.text for part in order.parts()],
        "trials": order.trials,
        "boots": sum(part.boots * len(part.kernels) for part in order.parts()),
        "written_to": folder or "nowhere",
    }


def run(request: frontend.Request, order: Order, as_json: bool) -> int:
    """Build, measure, print the table, write the files, beside the parts that were measured before.
    0 when it was measured: goals that are missed are a result."""
    parts = order.parts()
    if not all(part.kernels for part in parts):
        loopback.check()  # before hours of others
    kernels = Kernels(request)
    bootable = {name: kernels.bootable(name) for part in parts for name in part.kernels}
    others_work = _OthersWork()
    samples: dict[str, Any] = {}
    for part in parts:
        with nullcontext() if part.counted else others_work, step(f"measuring {part.text}"):
            samples[part.name] = (
                _measure(part, bootable, order)
                if part.kernels
                else loopback.measure(kernels.patched().image, order.trials)
            )
    about = {
        part.name: {**_about(request, order, part, kernels), "other_work": others_work.told()}
        for part in parts
    }
    results = Results(samples, about)
    if as_json:
        print(json.dumps({"about": about, "figures": results.facts()}, indent=2))
    else:
        print(
            report.table(results.figures) if results.figures else report.phases(samples["phases"])
        )
    if folder := order.folder():
        results.write(folder, kernels.patched().series)
    return 0


class Kernels:
    """One tree in several shapes, each built when it is asked for."""

    def __init__(self, request: frontend.Request) -> None:
        self._sources = frontend.available_sources(request)
        self._config, self._jobs = request.config, request.jobs or None

    def patched(self) -> KernelArtefact:
        """The one that is asked for."""
        return self._build(self._config, patched=True)

    def bootable(self, name: str) -> frontend.Bootable:
        """By its name in :data:`figures.KERNELS`, or that of a backend."""
        if name == "module" or name in BACKENDS:
            return self._with_module()
        config = MODULAR if name in ("builtin", "bare") else self._config
        built = self._build(config, patched=name in ("patched", "builtin"))
        return frontend.Bootable(built.image, built.flavour.cost)

    def _with_module(self) -> frontend.Bootable:
        series = self._sources.series.name
        kernel = stock.stand_in(series, MODULAR, self._sources)
        return frontend.Bootable(
            stock_vm.with_module(kernel), versions.flavour(MODULAR, series).cost
        )

    def _build(self, config: str, patched: bool) -> KernelArtefact:
        return build.build(
            self._sources.series.name,
            source=self._sources,
            config=config,
            jobs=self._jobs,
            patched=patched,
        )


def _measure(part: Part, kernels: Mapping[str, frontend.Bootable], order: Order) -> Any:
    count = part.trials(order.trials)
    if len(part.kernels) == 1:
        return _boot(part, part.kernels[0], kernels, count)
    return [
        {"of": name, **_boot(part, name, kernels, count)}
        for _ in range(part.boots)
        for name in part.kernels
    ]


def _boot(
    part: Part, name: str, kernels: Mapping[str, frontend.Bootable], count: int
) -> dict[str, Any]:
    """One machine, and the samples that it brings back."""
    kernel = kernels[name]
    words = ["env", "PYTHONPATH=/gs:/gs/tests/guest"]
    words += ["python3", "-m", "benchmarks.guest", part.program, str(count), name]
    with _Watcher(part.name) as watcher:
        result = session.guest_run(
            kernel.image,
            words,
            memory_mb=part.memory_mb,
            cpus=part.cpus,
            timeout=BOOT + TRIAL * count * 25,
            extra={"benchmarks": REPO / "benchmarks"},
            on_output=watcher,
            counted=part.counted,
            cost=kernel.cost,
        ).check_alive()
    if result.exit_status != 0:
        raise HostFailed(
            f"the part {part.name} of the benchmark failed in the guest",
            result.output.strip()[-500:],
            f"its console: {result.console_log}",
        )
    found: dict[str, Any] = json.loads((result.files / "samples.json").read_text())
    return found


class _OthersWork:
    """How much of the processors others used in some blocks: figures from a busy host are worth
    less, unless instructions are counted."""

    def __init__(self) -> None:
        self._wall = self._others = 0.0

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *_: object) -> None:
        wall, busy, own = (b - a for a, b in zip(self._before, self._now(), strict=True))
        self._wall += wall
        self._others += max(0.0, busy - own)

    def told(self) -> str:
        """In words."""
        if not self._wall:
            return "whatever it was: instructions are counted"
        share = self._others / (self._wall * (os.cpu_count() or 1))
        return f"{100 * share:.0f} % of the host's processors, while time was measured"

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the wall clock, of all processors at work, of ourselves and what we ran."""
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq = map(int, words[1:8])
        busy = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return time.monotonic(), busy, own


class _Watcher:
    """Makes a bar of the guest's lines about its progress."""

    _LINE = re.compile(r"^progress (\d+) (\d+)$", re.MULTILINE)

    def __init__(self, name: str, make: Callable[..., AbstractContextManager[Bar]] = bar) -> None:
        self._name, self._make = name, make
        self._bar: AbstractContextManager[Bar] | None = None
        self._inner: Bar | None = None
        self._done = 0
        self._rest = ""

    def __enter__(self) -> _Watcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.__exit__(kind, error, trace)

    def __call__(self, text: str) -> None:
        whole, _, self._rest = (self._rest + text).rpartition("\n")
        for done, total in self._LINE.findall(whole):
            if self._inner is None:  # only now is it known how much there is
                self._bar = self._make(self._name, float(total), "steps")
                self._inner = self._bar.__enter__()
            self._inner.update(int(done) - self._done)
            self._done = int(done)


def _about(request: frontend.Request, order: Order, part: Part, kernels: Kernels) -> dict[str, Any]:
    """Under what circumstances the figures of a part came about."""
    kernel = kernels.patched()
    words = ["./dev bench", f"--kernel {kernel.series}"]
    if request.source:  # whose path is nobody else's business
        words.append(f"--source {request.source if request.source == 'debian' else 'TREE'}")
    words += [f"--trials {order.trials}"]
    words += [f"--only {order.only}"] if order.only else []
    machine = "none: the hosts are this machine's, by sshd"
    if part.kernels:
        machine = f"QEMU, {_ACCELERATORS[qemu.choose_accelerator(kernel.image)]}"
    return {
        "series": kernel.series,
        "release": kernel.release,
        "command": " ".join(words),
        "sources": request.sources().origin if request.source == "debian" else kernel.release,
        "configuration": request.config,
        "machine": machine,
        "host": f"{_processor()}, Linux {platform.release()}",
        "date": time.strftime("%Y-%m-%d"),
        "key": kernel.key,
    }


_ACCELERATORS = {"tcg": "emulated (no KVM)", "kvm": "KVM"}


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return f"{len(re.findall('^processor', text, re.M))} × {model[1] if model else 'processor'}"

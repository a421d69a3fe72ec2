"""`gs doctor`: what this machine offers, what is in the way, and the command that mends it.

Each check looks at files below a root directory (the machine's own, or a recorded one), changes
nothing, and gives findings; none of them may fail. Only the check of a handler starts something,
and only that of dead guards puts something right.
"""

from __future__ import annotations

import os
from typing import Callable, Iterator, Sequence

from . import backends, bystanders, cgroup, shadowing, trial
from .backends.guarded import disarm_abandoned
from .errors import GsError, InvalidHandler
from .finding import BAD, GOOD, NOTE, WARNING, Finding, Machine
from .procfile import feature_list
from .registry import keys_of

_MARKS = {GOOD: "ok  ", NOTE: "note", WARNING: "WARN", BAD: "BAD "}

#: The check whose findings decide whether a program can be protected.
_BACKEND_CHECK = "backend"
_HANDLER_CHECK = "handler"

#: What the kernel takes by itself.
_GRACE_MS = 2000


def examine(machine: Machine | None = None) -> list[Finding]:
    """Everything that `gs doctor` says, in its order."""
    machine = machine or Machine()
    checks: Sequence[Callable[[Machine], Iterator[Finding]]] = (
        _check_backend,
        _check_guards,
        _check_features,
        _check_helpers,
        _check_cgroup,
        _check_swap,
        _check_overcommit,
        _check_name,
        bystanders.check_killers,
        bystanders.check_daemons,
        bystanders.check_systemd,
        bystanders.check_groups,
    )
    findings = [finding for check in checks for finding in check(machine)]
    # Where guards take the kernel's place, what ails its own way is only good to know.
    own_way = ("kernel", "helpers") if _takes_guards(machine) else ()
    return [
        one.replace(level=NOTE) if one.check in own_way and one.level == BAD else one
        for one in findings
    ]


def _takes_guards(machine: Machine) -> bool:
    if machine.root:
        return False
    try:
        return backends.select("auto", machine.files).name != "kernel"
    except GsError:
        return machine.has_scope()


def examine_handler(
    argv: Sequence[str], grace: float | None = None, machine: Machine | None = None
) -> list[Finding]:
    """What a handler is made of, and how it does in a trial run of ``grace`` seconds (None: the
    kernel's default). Raises InvalidHandler if the kernel could not execute it."""
    machine = machine or Machine()
    image = _describe_image(argv[0])
    if grace is None:
        grace = (machine.files.read_sysctl("grace_ms") or _GRACE_MS) / 1000
    done = trial.run(argv, grace)
    return [
        Finding(_HANDLER_CHECK, GOOD, f"{argv[0]}: {image}"),
        _judge_end(done, grace),
        *_judge_memory(done.peak_kb, machine),
    ]


def can_protect(findings: Sequence[Finding]) -> bool:
    """Whether `gs run` could protect a program here."""
    return not any(f.level == BAD for f in findings)


def report(findings: Sequence[Finding]) -> str:
    """The findings for people: a line each, and below it what mends it."""
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]} {finding.check + ':':<11} {finding.text}")
        if finding.mend:
            lines.append(f"{'':<16} -> {finding.mend}")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------------------- the kernel


def _check_backend(machine: Machine) -> Iterator[Finding]:
    """Which is taken, and what keeps the others from being taken."""
    # Of a recorded machine only the kernel's files can be judged.
    names = backends.NAMES[1:2] if machine.root else backends.NAMES[1:]
    reasons = [(one, one.unusable()) for one in (backends.named(n, machine.files) for n in names)]
    usable = [one for one, reason in reasons if reason is None]
    scoped = not usable and machine.has_scope()
    for one, reason in reasons:
        if reason is not None:
            text = f"not {one.name}: {reason.what}: {reason.why}"
            mend = _hint_for(reason)
            # A controller of the other version is no trouble: it is there for the other backend.
            level = NOTE if usable or scoped or not mend else BAD
            yield Finding(_BACKEND_CHECK, level, text, mend)
            continue
        takes = "takes" if one is usable[0] else f"could take (--backend {one.name})"
        text = f"`gs-oom run` {takes} {one.describe()}: {one.promise}"
        yield Finding(_BACKEND_CHECK, GOOD, text)
    if scoped:
        one = backends.named("cgroup2")
        text = f"`gs-oom run` takes {one.describe()}, in a systemd user scope: {one.promise}"
        yield Finding(_BACKEND_CHECK, NOTE, text)
    if _takes_guards(machine):
        yield from _check_limit()


def _check_limit() -> Iterator[Finding]:
    """Guards watch a limit, and nothing else."""
    where = cgroup.hierarchy()
    if where is not None and cgroup.nearest_limit(where) is None:
        yield Finding(_BACKEND_CHECK, NOTE, "no limit above this process: give --memory-max")


def _hint_for(reason: GsError) -> str:
    if "doctor" not in reason.hint:
        return reason.hint
    return "gs-oom module load (its sources: the package gs-oom-dkms), or boot a patched kernel"


def _check_guards(machine: Machine) -> Iterator[Finding]:
    """Programs whose guards are dead must not stand still for them."""
    if machine.root:
        return
    for path in disarm_abandoned():
        yield Finding(
            "guards",
            WARNING,
            f"the guards of {path} are dead; it was disarmed: the kernel decides alone there",
            "start its program again to protect it",
        )


def _check_features(machine: Machine) -> Iterator[Finding]:
    found = backends.capabilities(files=machine.files).features
    if not found:
        return
    yield Finding(
        "kernel",
        GOOD,
        f"abi {found.get('abi')}, {found.get('attachment', '?')}, registry keys:"
        f" {found.get('keys') or 'none'}, reserve {found.get('reserve_kb', '?')} kB",
    )
    if machine.files.read_sysctl("enabled") == 0:
        yield Finding(
            "kernel",
            BAD,
            "handlers are switched off",
            "sysctl -w vm.graceful_shutdown_enabled=1",
        )
    keys = keys_of(found)
    for key, meaning in _WITHOUT.items():
        if key not in keys:
            yield Finding("kernel", NOTE, meaning)
    if found.get("attachment") == "module":
        if (machine.read("/proc/sys/kernel/ftrace_enabled") or "").strip() == "0":
            yield Finding(
                "kernel",
                BAD,
                "ftrace is switched off, and with it the module's hooks: no handler runs",
                "sysctl -w kernel.ftrace_enabled=1",
            )
        given = feature_list(found, "capabilities")
        for name, meaning in _WITHOUT_CAPABILITY.items():
            if name not in given:
                yield Finding("kernel", NOTE, f"as a module: {meaning}")


#: What a patched kernel gives and the module does not.
_WITHOUT_CAPABILITY = {
    "fault-end": "who runs out of memory waits with the locks of its page fault, so a handler that"
    " reads /proc/PID/maps or smaps, or attaches, meets its deadline, and signal= may not arrive",
    "page-by-page": "the reserve of a global OOM is given to all, of which handlers are the first",
    "vmstat": "the counters are in the features file alone, not in /proc/vmstat",
}

#: What the absence of a key means to its user.
_WITHOUT = {
    "signal": "no signal=: a process cannot be told that its grace begins (a handler can do that)",
    "scope": "no scope=tree: a handler covers the registered process, not its children",
}


def _check_helpers(machine: Machine) -> Iterator[Finding]:
    if machine.read("/proc/sys/kernel/usermodehelper/bset") == "0\t0\n":
        yield Finding(
            "helpers",
            BAD,
            "the kernel may start no program with any capability"
            " (kernel.usermodehelper.bset is empty)",
            "it cannot be given back in this boot: remove it from /etc/sysctl.d and reboot",
        )
    config = _kernel_config(machine)
    if config is None:
        yield Finding(
            "helpers", NOTE, "the kernel's configuration is not there to look at (/boot/config-*)"
        )
    elif "CONFIG_STATIC_USERMODEHELPER=y" in config:
        yield Finding(
            "helpers",
            BAD,
            "CONFIG_STATIC_USERMODEHELPER is set: the kernel would start another program instead",
            "boot a kernel without it",
        )
    else:
        yield Finding("helpers", GOOD, "the kernel can start programs")


def _kernel_config(machine: Machine) -> str | None:
    config = machine.read(f"/boot/config-{os.uname().release}")
    if config is not None:
        return config
    import gzip

    try:
        with gzip.open(machine.root + "/proc/config.gz", "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError):
        return None


# ---------------------------------------------------------------------------- memory


def _check_cgroup(machine: Machine) -> Iterator[Finding]:
    where = cgroup.hierarchy(machine.root + "/proc")
    if where is None:
        yield Finding(
            "cgroup",
            WARNING,
            "no memory controller: --memory-max cannot work",
            "mount -t cgroup2 none /sys/fs/cgroup (or boot with cgroup_enable=memory)",
        )
        return
    here = f"memory controller v{where.version}, this process is in {where.own}"
    try:
        cgroup.find_place(where)
        yield Finding("cgroup", GOOD, here)
    except GsError as error:
        if machine.has_scope():
            yield Finding("cgroup", NOTE, f"{here}; --memory-max: in a systemd user scope")
        else:
            text = f"{here}; --memory-max: {error.what}: {error.why}"
            yield Finding("cgroup", WARNING, text, error.hint)
    left = [path for place in cgroup.places(where) for path in cgroup.stale(place)]
    if left:
        yield Finding(
            "cgroup",
            NOTE,
            f"{len(left)} empty groups of ended programs; the next --memory-max sweeps them away",
            f"rmdir {' '.join(left[:3])}{' ...' if len(left) > 3 else ''}",
        )


def _check_swap(machine: Machine) -> Iterator[Finding]:
    lines = (machine.read("/proc/swaps") or "").splitlines()[1:]
    if lines:
        yield Finding(
            "swap",
            NOTE,
            f"{len(lines)} swap area(s): a machine can thrash for long before its OOM decision",
            "limit what may swap: gs-oom run --memory-max SIZE (swap 0 unless --swap-max)",
        )
    else:
        yield Finding("swap", GOOD, "none: the OOM decision comes without thrashing first")


def _check_overcommit(machine: Machine) -> Iterator[Finding]:
    mode = (machine.read("/proc/sys/vm/overcommit_memory") or "").strip()
    if mode == "2":
        yield Finding(
            "overcommit",
            WARNING,
            "strict (2): allocations fail before there is an OOM, so handlers rarely run",
            "sysctl -w vm.overcommit_memory=0",
        )
    else:
        yield Finding("overcommit", GOOD, f"mode {mode or '?'}: memory runs out by use")
    if (machine.read("/proc/sys/vm/panic_on_oom") or "0").strip() != "0":
        yield Finding(
            "overcommit",
            WARNING,
            "vm.panic_on_oom is set: the machine panics and no handler runs",
            "sysctl -w vm.panic_on_oom=0",
        )


# ---------------------------------------------------------------------------- the name


def _check_name(machine: Machine) -> Iterator[Finding]:
    paths = shadowing.programs_on_path()
    ours = [path for path in paths if shadowing.is_ours(path)]
    others = [path for path in paths if path not in ours]
    if not others:
        yield Finding("name", GOOD, "no other program called gs on PATH")
    elif paths[0] in ours:
        yield Finding(
            "name",
            WARNING,
            f"{paths[0]} shadows {others[0]} (Ghostscript?); words that are not ours go on to it",
            f"rm {paths[0]}, and use gs-oom",
        )
    else:
        yield Finding("name", NOTE, f"gs is {others[0]} (Ghostscript?) here: use gs-oom")


# ---------------------------------------------------------------------------- a handler


def _describe_image(path: str) -> str:
    """Size and linkage; those of its interpreter too, since both must be read from the disk."""
    image = trial.look_at(path)
    text = f"{_kb(image.size)}, "
    if image.kind != "script":
        return text + _LINKAGE[image.kind]
    try:
        runs = trial.look_at(image.interpreter or "")
    except OSError:
        raise InvalidHandler(
            f"handler {path}",
            f"its interpreter {image.interpreter or ''!r} was not found",
            "name one that exists in its first line",
        ) from None
    return f"{text}a script for {image.interpreter} ({_kb(runs.size)}, {_LINKAGE[runs.kind]})"


_LINKAGE = {
    "static": "statically linked",
    "dynamic": "dynamically linked",
    "script": "a script itself",
}


def _kb(size: int) -> str:
    return f"{(size + 1023) // 1024} kB"


def _judge_end(done: trial.Trial, grace: float) -> Finding:
    time = f"{done.elapsed * 1000:.0f} of its {grace * 1000:.0f} ms"
    said = f"; its last words: {done.output!r}" if done.output else ""
    if done.exit_status is None:
        text = f"a trial run had not ended after {time} and was killed{said}"
        return Finding(_HANDLER_CHECK, WARNING, text, "give it longer: --grace TIME")
    if done.exit_status != 0:
        text = f"a trial run ended with {done.exit_status} after {time}{said}"
        return Finding(_HANDLER_CHECK, WARNING, text, "run it by hand, with GS_PID=PID before it")
    text = f"a trial run took {time}"
    if done.elapsed > grace / 2:
        text += ", and in an OOM all that it needs may have to be read from the disk again"
        return Finding(_HANDLER_CHECK, WARNING, text, "give it longer: --grace TIME")
    return Finding(_HANDLER_CHECK, GOOD, text)


def _judge_memory(peak_kb: int, machine: Machine) -> Iterator[Finding]:
    """Against the kernel's bound of a handler, and against what is set aside for it."""
    text = f"it had at most {peak_kb} kB of memory"
    bound = machine.files.read_sysctl("handler_max_kb")
    if bound and peak_kb > bound:
        yield Finding(
            _HANDLER_CHECK,
            WARNING,
            f"{text}: over the {bound} kB at which the kernel kills a handler",
            f"sysctl -w vm.graceful_shutdown_handler_max_kb={2 * peak_kb}",
        )
        return
    reserve = machine.files.read_sysctl("reserve_kb")
    if reserve and peak_kb > reserve:
        yield Finding(
            _HANDLER_CHECK,
            WARNING,
            f"{text}: over the {reserve} kB that are set aside for an OOM of the whole machine",
            f"sysctl -w vm.graceful_shutdown_reserve_kb={2 * peak_kb}",
        )
        return
    yield Finding(_HANDLER_CHECK, GOOD, text)

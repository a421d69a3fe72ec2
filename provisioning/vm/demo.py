"""The demonstration: a handler runs before the OOM killer kills, shown and judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gs import procfile
from provisioning.errors import HostFailed
from provisioning.kernel.versions import USUAL, Cost
from provisioning.progress import step
from provisioning.vm import machines, session

#: In the guest.
COMMAND = ("python3", "/gs/guest/demo.py")
OUT = "/out"
MACHINE = "demo"

#: Both scenes, emulated on a busy machine.
DEADLINE = 1000.0

#: What `constraint=` says in each scene.
CONSTRAINT = {"memcg": "memcg", "global": "none"}
TITLE = {
    "memcg": "a memory cgroup at its limit",
    "global": "the whole machine out of memory",
}

#: Keys worth a reader's time, in the records that are shown.
SHOWN = [
    "seq",
    "time_ns",
    "event",
    "pid",
    "comm",
    "constraint",
    "memcg",
    "handler",
    "handler_pid",
    "grace_ms",
    "exit_status",
    "elapsed_us",
    "outcome",
    "rss_kb",
    "errno",
]


@dataclass(frozen=True)
class Verdict:
    """What the records prove: the reasons it is no, or the milliseconds of a yes."""

    problems: tuple[str, ...]
    handler_ms: float = 0.0
    ahead_ms: float = 0.0

    @property
    def good(self) -> bool:
        """Whether the handler is proved to have run before the kill."""
        return not self.problems


def run_demo(kernel: Path, keep: bool = False, *, as_json: bool = False, cost: Cost = USUAL) -> int:
    """Let a memcg OOM and a global OOM happen in a guest with this kernel and show them.

    0 only if for both the event stream proves that the handler ran before the kill; else 1.
    ``keep`` leaves the machine up.
    """
    with step("letting two OOMs happen in the virtual machine"):
        scenes = _play_and_stay(kernel, cost) if keep else _play(kernel, cost)
    verdicts = [judge(scene) for scene in scenes]
    good = all(verdict.good for verdict in verdicts) and len(verdicts) == len(TITLE)
    if as_json:
        print(json.dumps(_facts(scenes, verdicts, good, keep), indent=2))
        return 0 if good else 1
    for scene, verdict in zip(scenes, verdicts, strict=True):
        _show(scene, verdict)
    print("\n" + _conclusion(good))
    if keep:
        machine = machines.get(MACHINE)
        print(f"The machine is up: ./dev vm.ssh --name {MACHINE}, ./dev vm.down --name {MACHINE}")
        print(f"  or: ssh -F {machine.ssh_config} {MACHINE}")
    return 0 if good else 1


def _facts(
    scenes: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], good: bool, keep: bool
) -> dict[str, Any]:
    """What is shown, for programs: the scenes as the guest told them, each with its verdict."""
    told = [
        {**scene, "verdict": {"good": verdict.good, **asdict(verdict)}}
        for scene, verdict in zip(scenes, verdicts, strict=True)
    ]
    return {"good": good, "machine": MACHINE if keep else None, "scenes": told}


def _play(kernel: Path, cost: Cost) -> list[Mapping[str, Any]]:
    done = session.guest_run(kernel, [*COMMAND, OUT], timeout=DEADLINE, cost=cost)
    result = done.check_alive()
    if result.exit_status != 0:
        raise HostFailed("the demonstration failed in the guest", result.output.strip()[-500:])
    return _load((result.files / "story.json").read_text())


def _play_and_stay(kernel: Path, cost: Cost) -> list[Mapping[str, Any]]:
    machine = machines.up(kernel, MACHINE, memory_mb=512, cost=cost)
    done = machine.run([*COMMAND, OUT], timeout=DEADLINE * cost.slower)
    if done.returncode != 0:
        raise HostFailed(
            "the demonstration failed in the guest", (done.stderr or done.stdout)[-500:]
        )
    return _load(machine.run(["cat", f"{OUT}/story.json"]).stdout)


def _load(text: str) -> list[Mapping[str, Any]]:
    scenes: list[Mapping[str, Any]] = json.loads(text)
    return scenes


def judge(scene: Mapping[str, Any]) -> Verdict:
    """What one scene proves, from order and times in the event stream and the handler's file."""
    events = [procfile.parse_event(line) for line in scene["events"]]
    by_name = {str(event["event"]): event for event in events}
    missing = [name for name in ("grace", "done", "kill") if name not in by_name]
    if missing:
        return Verdict((f"no record of {', '.join(missing)}",))
    grace, done, kill = (by_name[name] for name in ("grace", "done", "kill"))
    saved = _saved_words(scene["saved"])
    written = int(saved.get("time_ns", "0"))
    facts = {
        "the registration was not shown by the kernel": bool(scene["registration"]),
        "the records are not in the order grace, done, kill": _ascending(
            [grace["seq"], done["seq"], kill["seq"]]
        ),
        "the times are not in the order grace, handler's file, done, kill": _ascending(
            [grace["time_ns"], written, done["time_ns"], kill["time_ns"]]
        ),
        "the handler did not end well": done["exit_status"] == 0,
        "the kill is not recorded as one after a handler": kill["outcome"] == "done",
        "it was another kind of OOM": kill["constraint"] == CONSTRAINT[scene["name"]],
        "the victim was not alive when the handler ran": saved.get("victim_alive") == "1",
        "the handler's file is not whole": saved.get("end") == "1",
        "the kernel log has no line of the kill": len(scene["log"]) == 1,
        "the victim did not die of SIGKILL": scene["status"] == -9,
    }
    problems = tuple(problem for problem, holds in facts.items() if not holds)
    ahead = (int(kill["time_ns"] or 0) - written) / 1e6
    return Verdict(problems, int(done["elapsed_us"] or 0) / 1e3, ahead)


def _ascending(values: Sequence[Any]) -> bool:
    return all(earlier < later for earlier, later in pairwise(values))


def _saved_words(text: str | None) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in (text or "").splitlines())


def _show(scene: Mapping[str, Any], verdict: Verdict) -> None:
    print(f"\n== {TITLE[scene['name']]} ({scene['seconds']:.1f} s)")
    print(f"$ gs {' '.join(_quoted(word) for word in scene['command'][1:])}")
    print(f"registration   {scene['registration'] or '(none)'}")
    for line in scene["events"]:
        print(f"event          {_shortened(line)}")
    print(f"handler's file {_excerpt(scene['saved'])}")
    for line in scene["log"]:
        print(f"kernel log     {line}")
    if scene["errors"]:
        print(f"stderr         {scene['errors'].strip()}")
    if verdict.good:
        print(
            f"verdict        the handler ran {verdict.handler_ms:.1f} ms and wrote its file "
            f"{verdict.ahead_ms:.1f} ms before the kill"
        )
    else:
        print(f"verdict        NOT SHOWN: {'; '.join(verdict.problems)}")


def _shortened(line: str) -> str:
    record = procfile.parse_event(line)
    return procfile.format_event({key: record[key] for key in SHOWN if key in record})


def _excerpt(text: str | None) -> str:
    if text is None:
        return "(none)"
    words = _saved_words(text)
    shown = ("time_ns", "victim_alive", "GS_PID", "GS_COMM", "GS_CONSTRAINT", "GS_RSS_KB")
    return " ".join(f"{key}={words.get(key, '-')}" for key in shown)


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _conclusion(good: bool) -> str:
    if good:
        return "VERDICT: the handler ran before the kill, in a memcg OOM and in a global OOM."
    return "VERDICT: not proved that the handler ran before the kill; see above."

"""The verdict of the demonstration: one recorded good scene, and every way to spoil it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provisioning.errors import HostFailed, VMLost
from provisioning.vm import demo
from provisioning.vm.session import GuestResult, Outcome

Scene = dict[str, Any]


def record(seq: int, time_ns: int, event: str, rest: str) -> str:
    return (
        f"seq={seq} time_ns={time_ns} event={event} pid=59 comm=oom_condition_c uid=0 "
        f"constraint=memcg memcg=/gs-demo-memcg {rest}"
    )


def good() -> Scene:
    """As a guest wrote it down."""
    return {
        "name": "memcg",
        "command": ["gs", "run", "/gs/bin/oom_condition_creator", "--on-oom", "/gs/bin/w /out/f"],
        "pid": 59,
        "printed": "pid 59\npress Enter to begin\n",
        "errors": "",
        "registration": "59 /gs/bin/w /out/f",
        "status": -9,
        "seconds": 2.5,
        "events": [
            record(1, 1000, "grace", "handler=/gs/bin/w handler_pid=68 grace_ms=2000"),
            record(2, 3000, "done", "exit_status=0 elapsed_us=2"),
            record(3, 4000, "kill", "handler=/gs/bin/w outcome=done group=0"),
        ],
        "saved": "time_ns=2000\nvictim_alive=1\nGS_PID=59\nend=1\n",
        "log": ["[   14.9] Memory cgroup out of memory: Killed process 59 (oom_condition_c)"],
    }


def with_event(scene: Scene, number: int, old: str, new: str) -> None:
    assert old in scene["events"][number]
    scene["events"][number] = scene["events"][number].replace(old, new)


def test_the_good_scene() -> None:
    verdict = demo.judge(good())
    assert verdict.good
    assert verdict.handler_ms == 0.002 and verdict.ahead_ms == 0.002


SPOILED: dict[str, Callable[[Scene], object]] = {
    "no registration": lambda s: s.update(registration=None),
    "no events": lambda s: s.update(events=[]),
    "no grace": lambda s: s["events"].pop(0),
    "no done": lambda s: s["events"].pop(1),
    "no kill": lambda s: s["events"].pop(2),
    "a timeout": lambda s: with_event(s, 1, "event=done", "event=timeout"),
    "kill before done": lambda s: with_event(s, 2, "seq=3 time_ns=4000", "seq=3 time_ns=2500"),
    "numbers out of order": lambda s: with_event(s, 2, "seq=3", "seq=1"),
    "file after the kill": lambda s: s.update(saved=s["saved"].replace("2000", "4500")),
    "file of another time": lambda s: s.update(saved=s["saved"].replace("2000", "500")),
    "handler failed": lambda s: with_event(s, 1, "exit_status=0", "exit_status=256"),
    "kill without handler": lambda s: with_event(s, 2, "outcome=done", "outcome=none"),
    "another constraint": lambda s: with_event(s, 2, "constraint=memcg", "constraint=none"),
    "victim was dead": lambda s: s.update(saved=s["saved"].replace("alive=1", "alive=0")),
    "file cut short": lambda s: s.update(saved=s["saved"].replace("end=1\n", "")),
    "no file": lambda s: s.update(saved=None),
    "no line in the kernel log": lambda s: s.update(log=[]),
    "killed twice": lambda s: s.update(log=s["log"] * 2),
    "victim lived": lambda s: s.update(status=0),
    "victim was waited for in vain": lambda s: s.update(status=None),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_every_way_to_spoil_it(spoil: Callable[[Scene], object]) -> None:
    scene = good()
    spoil(scene)
    verdict = demo.judge(scene)
    assert not verdict.good
    assert all(verdict.problems)


def both() -> list[Scene]:
    second = good()
    second["name"] = "global"
    second["events"] = [
        line.replace("constraint=memcg memcg=/gs-demo-memcg", "constraint=none memcg=-")
        for line in second["events"]
    ]
    return [good(), second]


def run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scenes: list[Scene],
    status: int | None = 0,
    as_json: bool = False,
) -> int:
    """The demonstration with a guest that wrote these scenes."""
    (tmp_path / "story.json").write_text(json.dumps(scenes))
    console = tmp_path / "console.log"
    console.write_text("last words\n")
    outcome = Outcome.OK if status == 0 else Outcome.FAILED if status else Outcome.LOST
    result = GuestResult(outcome, status, "what the guest said", console, tmp_path, 1.0)
    monkeypatch.setattr(demo.session, "guest_run", lambda *words, **options: result)
    return demo.run_demo(Path("/kernel"), as_json=as_json)


def test_shown_and_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, both()) == 0
    out = capsys.readouterr().out
    for word in (
        "registration   59 /gs/bin/w",
        "event=grace",
        "Killed process 59",
        "victim_alive=1",
    ):
        assert out.count(word) == 2
    assert "VERDICT: the handler ran before the kill" in out


def test_one_bad_scene_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = both()
    scenes[1]["status"] = 0
    assert run(monkeypatch, tmp_path, scenes) == 1
    out = capsys.readouterr().out
    assert "NOT SHOWN: the victim did not die of SIGKILL" in out
    assert "VERDICT: not proved" in out


def test_a_missing_scene_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, tmp_path, both()[:1]) == 1


def test_a_guest_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(HostFailed) as caught:
        run(monkeypatch, tmp_path, [], status=1)
    assert "what the guest said" in str(caught.value)


def test_a_guest_that_is_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(VMLost):
        run(monkeypatch, tmp_path, [], status=None)


def test_for_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = both()
    scenes[1]["status"] = 0
    assert run(monkeypatch, tmp_path, scenes, as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["good"] is False and told["machine"] is None
    first, second = told["scenes"]
    assert first["verdict"]["good"] is True and first["verdict"]["handler_ms"] == 0.002
    assert second["verdict"]["problems"] == ["the victim did not die of SIGKILL"]
    assert first["events"] == scenes[0]["events"]

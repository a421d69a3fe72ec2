"""The guards of a run, as far as they need no memory cgroup."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from gs import cgroup, guard


def test_closed_streams_are_occupied_until_the_exec() -> None:
    pid = os.fork()
    if not pid:
        for fd in (0, 2):
            os.close(fd)
        guard.occupy_streams()
        new = [os.path.sameopenfile(fd, os.open(os.devnull, os.O_RDWR)) for fd in (0, 2)]
        kept = os.get_inheritable(1) and not any(map(os.get_inheritable, (0, 2)))
        os._exit(0 if all(new) and kept else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_who_ends_a_run_lets_everybody_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(cgroup, "remove_when_empty", lambda path: done.append(f"rmdir {path}"))
    group: Any = SimpleNamespace(path="/g", release=lambda: done.append("release"))
    run: Any = SimpleNamespace(remove=lambda: done.append("unlink"))
    where: Any = None
    guard.Keeper(run, group, where, -1)._end()
    assert done == ["release", "rmdir /g", "unlink"]

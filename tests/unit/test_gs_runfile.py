"""The files of guarded runs, and whose guards are dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gs import runfile, victims
from gs.procfile import Entry

ENTRY = Entry(4711, ("/h", "a b"), grace_ms=700, scope="tree")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def test_a_run_lasts_as_long_as_somebody_has_its_file(directory: Path) -> None:
    run = runfile.create("cgroup1", "/sys/a b", ENTRY)
    child = os.fork()
    if not child:
        signal.pause()
    run.close()
    try:
        assert runfile.guarded() == [ENTRY]
        assert list(runfile.abandoned()) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert runfile.guarded() == []
    (found,) = [(r.backend, r.group, r.entry) for r in runfile.abandoned()]
    assert found == ("cgroup1", "/sys/a b", ENTRY)
    assert [path.name for path in directory.iterdir()] == ["run-4711"]


def test_looking_whether_it_can_be_written_makes_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (directory, directory / "a" / "b", "relative/run"):
        monkeypatch.setenv("GS_RUN_DIRECTORY", str(place))
        assert runfile.refusal() is None
    assert not directory.exists()
    directory.write_text("")
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(directory / "run"))
    refused = runfile.refusal()
    assert isinstance(refused, NotADirectoryError) and refused.filename == str(directory / "run")
    with pytest.raises(NotADirectoryError):
        runfile.create("cgroup1", "/", ENTRY)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_directory_of_another_user(directory: Path) -> None:
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        os._exit(isinstance(runfile.refusal(), PermissionError))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_one_process_may_be_in_several_runs(directory: Path) -> None:
    runs = [runfile.create("cgroup1", f"/{number}", ENTRY) for number in range(3)]
    assert len({run.path for run in runs}) == 3 and len(runfile.guarded()) == 3
    assert runfile.lasts(4711) and not runfile.lasts(471)
    for run in runs:
        run.remove()
        run.remove()
        assert not run.exists()
        run.close()
    assert list(directory.iterdir()) == [] and not runfile.lasts(4711)


def test_what_is_no_file_of_ours_is_left_alone(directory: Path) -> None:
    assert runfile.guarded() == []
    directory.mkdir()
    (directory / "run-1").write_text("nonsense\n")
    (directory / "run-2").write_text("cgroup1\n/x\n-5\n")
    assert runfile.guarded() == [] and list(runfile.abandoned()) == []
    assert len(list(directory.iterdir())) == 2


# ---------------------------------------------------------------------------- who is weighed


def test_a_process_is_weighed_by_what_it_has() -> None:
    me = victims.look_at(os.getpid())
    assert me is not None and me.alive() and me.pid == os.getpid() and me.uid == os.getuid()
    pages = me.rss_kb * 1024 // os.sysconf("SC_PAGESIZE")
    assert pages <= me.points <= 2 * pages
    adjusted = victims.look_at(os.getpid(), limit_kb=1 << 20)
    assert adjusted is not None
    assert abs(adjusted.points - me.points - me.adj * 1049 // 4) < pages


def test_the_dead_are_not_chosen() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert victims.look_at(child) is None and victims.start_time(child) is None
    os.waitpid(child, 0)
    assert victims.look_at(child) is None
    me = victims.choose([child, os.getpid()], 0)
    assert me is not None and me.pid == os.getpid()
    assert victims.choose([child], 0) is None


def test_a_later_process_of_the_same_number_is_another() -> None:
    me = victims.look_at(os.getpid())
    assert me is not None
    assert not me.replace(start=me.start + 1).alive()


def test_whom_a_registration_is_for() -> None:
    me = victims.look_at(os.getpid())
    assert me is not None
    assert victims.covers(ENTRY, me)
    assert not victims.covers(ENTRY.replace(scope="process"), me)
    assert victims.covers(ENTRY.replace(scope="process", pid=me.pid), me)

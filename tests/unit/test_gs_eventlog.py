"""The log of guarded runs: written by several, read by others, renamed when it is long."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import select
import threading
from pathlib import Path

import pytest

import gs
from gs import cgroup, child, cli, eventlog, eventstream
from gs.errors import PermissionDenied
from gs.eventstream import EventStream, OomEvent
from gs.paths import KernelFiles
from tests.unit.gs_support import NO_RUN_DIRECTORY
from tests.unit.gs_support import gs as run_gs

VALUES: dict[str, int | str | None] = {
    "pid": 42, "comm": "a b", "uid": 0, "constraint": "memcg", "memcg": "/x",
}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the log, on a machine whose kernel tells nothing."""
    if cgroup.hierarchy() is None:
        pytest.skip("there is no memory controller here, so nobody has guards")
    monkeypatch.setenv("GS_PROCFS", "/nowhere")
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(tmp_path / "run"))
    return tmp_path / "run"


def append(directory: Path, event: str = "gone", **values: int) -> int:
    return eventlog.append(str(directory), event, {**VALUES, **values})


def write_many(directory: Path, count: int) -> None:
    for _ in range(count):
        append(directory)


def test_a_record_is_of_the_kernels_grammar(log: Path) -> None:
    assert append(log, elapsed_us=7) == 1
    (line,) = (log / "events").read_text().splitlines()
    event = OomEvent.parse(line)
    assert (event.seq, event.event, event.pid, event.comm) == (1, "gone", 42, "a b")
    assert event["elapsed_us"] == 7 and event.line == line
    assert (log / "events").stat().st_mode & 0o777 == 0o600


def test_many_writers_leave_no_number_out(log: Path) -> None:
    writers = [multiprocessing.Process(target=write_many, args=(log, 50)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with gs.events(follow=False) as stream:
        assert [event.seq for event in stream] == list(range(1, 201))


def test_nothing_is_lost_that_is_written_right_before_the_log_is_renamed(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By somebody who comes between any two looks of a reader."""
    append(log)
    opened = eventstream._open_or_none
    with EventStream(follow=False) as stream:
        assert [event.seq for event in stream.available()] == [1]

        def between(path: str) -> int | None:
            monkeypatch.setattr(eventstream, "_open_or_none", opened)
            append(log)
            (log / "events").rename(log / eventlog.OLD_NAME)
            append(log)
            return opened(path)

        monkeypatch.setattr(eventstream, "_open_or_none", between)
        assert [event.seq for event in stream.available()] == [2, 3]


def test_a_long_log_is_renamed_and_read_on(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "_LONGEST", 2000)
    with EventStream(follow=False) as early:
        assert append(log) == 1
        assert [event.seq for event in early.available()] == [1]
        for _ in range(30):
            append(log)
        assert [event.seq for event in early.available()] == list(range(2, 32))
    sizes = [path.stat().st_size for path in log.glob("events*") if path.name != "events.lock"]
    assert len(sizes) == 2 and max(sizes) <= 2000
    with EventStream(follow=False) as late:
        seen = [event.seq for event in late]
    assert seen == list(range(seen[0], 32)) and len(seen) > 10


def test_a_disk_that_takes_nothing_is_no_error(log: Path) -> None:
    assert eventlog.append("/dev/null/run", "gone", VALUES) == 0
    log.mkdir()
    (log / "events.lock").write_text("nonsense")
    assert append(log) == 0


def test_of_a_line_that_does_not_fit_nothing_stays(log: Path) -> None:
    append(log)
    size = (log / "events").stat().st_size
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
        os._exit(append(log))
    assert os.waitpid(pid, 0)[1] == 0  # it has no number
    assert (log / "events").stat().st_size == size
    assert append(log) == 2
    with gs.events(follow=False) as stream:
        assert [event.seq for event in stream] == [1, 2]


def test_a_line_that_was_cut_and_taken_back_is_read_whole(log: Path) -> None:
    append(log)
    with EventStream(follow=False) as stream:
        assert [event.seq for event in stream] == [1]
        size = (log / "events").stat().st_size
        with (log / "events").open("a") as file:
            file.write("seq=2 time_ns=17 ev")
        assert stream.available() == []
        os.truncate(log / "events", size)
        append(log)
        assert [event.seq for event in stream] == [2]


def test_bad_lines_keep_nobody_from_the_others(log: Path) -> None:
    append(log)
    with (log / "events").open("a") as file:
        file.write("seq=2 time_ns=17 evseq=2 time_ns=18 event=gone pid=1\n")
        file.write("nonsense\n" * 20000)
    append(log)
    for read in (list, EventStream.available):
        with EventStream(follow=False) as stream:
            assert [event.seq for event in read(stream)] == [1, 2]
            assert stream.skipped == 20001
    done = run_gs("watch", "--no-follow", "--raw", GS_RUN_DIRECTORY=str(log))
    assert (done.returncode, done.stdout.count("\n"), done.stderr.count("\n")) == (0, 2, 1)
    assert "bad lines" in done.stderr


def test_following_waits_for_a_log_that_is_not_there_yet(log: Path) -> None:
    with EventStream(timeout=20) as stream:
        assert stream.available() == []
        threading.Timer(0.2, append, [log]).start()
        assert next(stream).seq == 1
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        stream.available()
        assert poll.poll(0) == []
        append(log)
        assert poll.poll(5000)


def test_nothing_wakes_who_has_read_a_record_at_once(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStream() as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        write, seen = eventlog._write, []

        def write_and_read(path: str, line: bytes) -> None:
            write(path, line)
            seen.extend(stream.available())

        monkeypatch.setattr(eventlog, "_write", write_and_read)
        write_many(log, 2)
        assert [event.seq for event in seen] == [1, 2]
        assert poll.poll(0) == []


@pytest.mark.parametrize("chunk", [200, 65536])
def test_what_is_there_already_is_told_of(
    log: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(eventstream, "_CHUNK", chunk)
    write_many(log, 5)
    with EventStream() as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        for seq in range(1, 6):
            assert poll.poll(0)
            assert next(stream).seq == seq
        assert poll.poll(0) == []
        write_many(log, 2)
        assert poll.poll(5000)
        assert [event.seq for event in stream.available()] == [6, 7]
        assert poll.poll(0) == []


def test_a_loop_sees_what_is_there_already(log: Path) -> None:
    async def follow() -> list[int]:
        loop = asyncio.get_running_loop()
        seen: asyncio.Future[int] = loop.create_future()
        with EventStream() as stream:
            loop.add_reader(stream.fileno(), lambda: seen.set_result(next(stream).seq))
            try:
                return [await asyncio.wait_for(seen, 5)]
            finally:
                loop.remove_reader(stream.fileno())

    append(log)
    assert asyncio.run(follow()) == [1]


def test_async_iteration(log: Path) -> None:
    async def follow() -> list[int]:
        seen = []
        asyncio.get_running_loop().call_later(0.1, write_many, log, 2)
        with EventStream(timeout=20) as stream:
            async for event in stream:
                seen.append(event.seq)
                if len(seen) == 2:
                    break
        return seen

    assert asyncio.run(follow()) == [1, 2]


def test_a_user_on_a_patched_kernel_reads_his_own_log(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str) -> int:
        raise PermissionDenied(f"cannot read {path}")

    monkeypatch.setattr(eventstream, "_open", refuse)
    append(log)
    with EventStream(follow=False) as stream:
        assert isinstance(stream.left_out, PermissionDenied)
        assert [event.seq for event in stream] == [1]
        # Of a kill that is not in it the kernel may have told.
        outcomes = [child._completed(42, code, stream).outcome for code in (0, -9)]
    assert outcomes == ["ended", "unknown"]
    assert cli.main(["watch", "--no-follow", "--raw"]) == 0
    shown = capsys.readouterr()
    assert (shown.out.count("\n"), shown.err.count("\n")) == (1, 1)
    assert "left out" in shown.err
    with pytest.raises(PermissionDenied):
        EventStream(files=KernelFiles())
    monkeypatch.setenv("GS_RUN_DIRECTORY", NO_RUN_DIRECTORY)
    with pytest.raises(PermissionDenied):
        EventStream()


def test_both_streams_in_the_order_of_time(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GS_PROCFS", str(tmp_path))
    append(log)
    (now,) = (log / "events").read_text().splitlines()
    time_ns = int(OomEvent.parse(now)["time_ns"] or 0)
    kernel = tmp_path / "graceful_shutdown_events"
    os.mkfifo(kernel)
    hold = os.open(kernel, os.O_RDWR)
    for number, delta in ((7, -5), (8, 5)):
        os.write(hold, now.replace("seq=1 ", f"seq={number} ").replace(
            f"time_ns={time_ns}", f"time_ns={time_ns + delta}").encode() + b"\n")  # fmt: skip
    with EventStream(follow=False) as stream:
        assert [event.seq for event in stream] == [7, 1, 8]
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        assert poll.poll(0) == []
        os.write(hold, now.encode() + b"\n")
        assert poll.poll(5000)
    os.close(hold)

"""OomEvent and following a stream of them, on recorded streams: files and pipes."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gs
from gs.errors import MalformedLine, NotSupported
from gs.eventstream import EventStream, OomEvent
from gs.paths import KernelFiles

GRACE = (
    "seq=1 time_ns=5000000000 event=grace pid=42 comm=hog uid=0 constraint=memcg memcg=/a\\040b"
    " handler=/h handler_pid=43 signal=- grace_ms=2000 rss_kb=9 swap_kb=0 total_pages=100"
    " points=50 oom_score_adj=0"
)
DONE = (
    "seq=2 time_ns=5004000000 event=done pid=42 comm=hog uid=0 constraint=memcg memcg=/a\\040b"
    " exit_status=0 elapsed_us=4000"
)
KILL = (
    "seq=3 time_ns=5004100000 event=kill pid=42 comm=hog uid=0 constraint=memcg memcg=/a\\040b"
    " handler=/h outcome=done group=0 points=50 total_pages=100 gfp=0xcc0 order=0"
)
LOST = "seq=9 time_ns=6000000000 event=lost count=6"
STREAM = "".join(f"{line}\n" for line in (GRACE, DONE, KILL, LOST))


class Pipe:
    """A stream that is still being written, as the kernel's is."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # A reader of its own lets the writer open, and is never read.
        self._hold = os.open(path, os.O_RDWR)
        self.files = KernelFiles(events=str(path))

    def write(self, text: str) -> None:
        os.write(self._hold, text.encode())

    def close(self) -> None:
        os.close(self._hold)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "events")
    yield pipe
    pipe.close()


def recorded(path: Path, text: str) -> KernelFiles:
    path.write_text(text)
    return KernelFiles(events=str(path))


# ---------------------------------------------------------------------------- one event


def test_an_event_has_its_keys() -> None:
    event = OomEvent.parse(GRACE)
    assert (event.seq, event.event, event.pid, event.comm) == (1, "grace", 42, "hog")
    assert event.time == pytest.approx(5.0)
    assert event["memcg"] == "/a b" and event["rss_kb"] == 9
    assert event["signal"] is None and event.get("colour") is None
    with pytest.raises(KeyError):
        event["colour"]
    assert event.line == GRACE
    assert event == OomEvent.parse(GRACE) != OomEvent.parse(DONE)
    assert len({event, OomEvent.parse(GRACE)}) == 1


def test_lost_has_no_process() -> None:
    event = OomEvent.parse(LOST)
    assert (event.event, event.pid, event.comm, event["count"]) == ("lost", None, None, 6)


# ---------------------------------------------------------------------------- recorded streams


def test_a_recorded_stream_is_read_to_its_end(tmp_path: Path) -> None:
    files = recorded(tmp_path / "events", STREAM)
    with gs.events(files=files) as stream:
        assert [event.event for event in stream] == ["grace", "done", "kill", "lost"]


def test_a_bad_record_is_an_error_and_the_next_ones_still_come(tmp_path: Path) -> None:
    files = recorded(tmp_path / "events", f"{GRACE}\nhello\n{KILL}\n")
    with gs.events(files=files) as stream:
        assert next(stream).event == "grace"
        with pytest.raises(MalformedLine, match="hello"):
            next(stream)
        assert next(stream).event == "kill"


def test_a_record_that_is_cut_at_the_end_is_no_event(tmp_path: Path) -> None:
    files = recorded(tmp_path / "events", f"{GRACE}\n{DONE[:20]}")
    with gs.events(files=files) as stream:
        assert [event.seq for event in stream] == [1]


def test_no_stream(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="doctor"):
        gs.events(files=KernelFiles(events=str(tmp_path / "none")))


# ---------------------------------------------------------------------------- following


def test_what_is_there_and_no_more(pipe: Pipe) -> None:
    pipe.write(f"{GRACE}\n{DONE}\n")
    with EventStream(follow=False, files=pipe.files) as stream:
        assert [event.event for event in stream] == ["grace", "done"]
        pipe.write(f"{KILL}\n")
        assert [event.event for event in stream] == ["kill"]
        assert stream.available() == []


def test_following_waits_for_more(pipe: Pipe) -> None:
    with EventStream(timeout=20, files=pipe.files) as stream:
        later = threading.Timer(0.2, pipe.write, [f"{GRACE}\n"])
        later.start()
        began = time.monotonic()
        assert next(stream).event == "grace"
        assert 0.1 < time.monotonic() - began < 10


def test_a_record_may_arrive_in_pieces(pipe: Pipe) -> None:
    with EventStream(timeout=20, files=pipe.files) as stream:
        pipe.write(GRACE[:10])
        assert stream.available() == []
        later = threading.Timer(0.1, pipe.write, [f"{GRACE[10:]}\n{DONE[:30]}"])
        later.start()
        assert next(stream).line == GRACE
        pipe.write(f"{DONE[30:]}\n")
        assert next(stream).line == DONE


def test_the_time_is_over(pipe: Pipe) -> None:
    began = time.monotonic()
    with EventStream(timeout=0.2, files=pipe.files) as stream:
        assert list(stream) == []
    assert 0.15 < time.monotonic() - began < 5
    pipe.write(f"{GRACE}\n")
    with EventStream(timeout=0, files=pipe.files) as stream:
        assert len(list(stream)) == 1


def test_poll_sees_it(pipe: Pipe) -> None:
    with EventStream(files=pipe.files) as stream:
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        assert poll.poll(0) == []
        pipe.write(f"{GRACE}\n")
        assert poll.poll(5000) == [(stream.fileno(), select.POLLIN)]
        assert [event.seq for event in stream.available()] == [1]


def is_readable(stream: EventStream) -> bool:
    return bool(select.select([stream], [], [], 0)[0])


def test_what_was_read_ahead_is_told_of_too(pipe: Pipe) -> None:
    with EventStream(files=pipe.files) as stream:
        pipe.write(f"{GRACE}\n{DONE}\n{KILL[:9]}")
        for event in ("grace", "done"):
            assert is_readable(stream)
            assert next(stream).event == event
        assert not is_readable(stream)
        pipe.write(f"{KILL[9:]}\nhello\n{KILL}\n{KILL}\n")
        assert is_readable(stream)
        assert next(stream).event == "kill"
        with pytest.raises(MalformedLine):
            stream.available()
        assert is_readable(stream)
        assert len(stream.available()) == 2
        assert not is_readable(stream)


def test_a_recorded_stream_is_told_of_until_its_end(tmp_path: Path) -> None:
    with EventStream(files=recorded(tmp_path / "events", STREAM)) as stream:
        for _ in range(4):
            assert is_readable(stream)
            next(stream)
        assert not is_readable(stream)


def test_closing_twice_is_nothing(pipe: Pipe) -> None:
    stream = EventStream(files=pipe.files)
    stream.fileno()
    stream.close()
    stream.close()
    assert stream.fileno() == -1


# ---------------------------------------------------------------------------- asynchronous


def test_async_iteration_lets_others_run(pipe: Pipe) -> None:
    async def follow() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, pipe.write, f"{GRACE}\n{DONE}\n")
        loop.call_later(0.2, pipe.write, f"{KILL}\n")
        seen = []
        with EventStream(timeout=20, files=pipe.files) as stream:
            async for event in stream:
                seen.append(event.event)
                if event.event == "kill":
                    break
        return seen

    assert asyncio.run(follow()) == ["grace", "done", "kill"]


def test_async_iteration_ends_in_time(pipe: Pipe) -> None:
    async def follow() -> list[int]:
        with EventStream(timeout=0.2, files=pipe.files) as stream:
            return [event.seq async for event in stream]

    pipe.write(f"{GRACE}\n")
    assert asyncio.run(follow()) == [1]

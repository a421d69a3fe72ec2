"""Downloads from a real HTTP server on the loopback: resumed, checked, nothing half done."""

from __future__ import annotations

import hashlib
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provisioning.config import REPO
from provisioning.errors import DownloadFailed
from provisioning.kernel import download

BODY = bytes(range(256)) * 4096
SHA = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """What the loopback server serves and what it saw."""

    url: str
    body: bytes = BODY
    status: int = 0
    cut_after: int | None = None
    ranges: list[str] = field(default_factory=list)
    hits: int = 0


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.hits += 1
            start = 0
            asked = self.headers.get("Range", "")
            state.ranges.append(asked)
            if state.status:
                self.send_error(state.status)
                return
            if asked:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start and start >= len(state.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            rest = state.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if state.cut_after is not None:
                rest, state.cut_after = rest[: state.cut_after], None
            self.wfile.write(rest)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_address[1]}/linux.tar.xz")
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield state
        http.shutdown()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_fetches_and_leaves_only_the_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert download.fetch([server.url], target, sha256=SHA).read_bytes() == BODY
    assert leftovers(tmp_path) == ["file"]


def test_does_not_ask_again_for_what_is_there(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert server.hits == 1


def test_resumes_what_an_earlier_run_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:1000])
    download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "file").read_bytes() == BODY


def test_resumes_after_the_connection_broke_off(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert server.ranges == ["", f"bytes={download.BLOCK}-"]  # whole blocks are kept


def test_takes_a_complete_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_part_of_another_file_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert server.ranges == ["bytes=1000-", ""]
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.body = BODY[:-1] + b"!"
    with pytest.raises(DownloadFailed, match="sha256") as caught:
        download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert caught.value.exit_code == 6
    assert leftovers(tmp_path) == []


def test_a_damaged_file_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"damaged")
    download.fetch([server.url], tmp_path / "file", sha256=SHA)
    assert (tmp_path / "file").read_bytes() == BODY


def test_404_says_so(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadFailed, match="404") as caught:
        download.fetch([server.url], tmp_path / "file")
    assert not isinstance(caught.value, download.Unreachable)
    assert leftovers(tmp_path) == []


def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(download.Unreachable, match="does not answer"):
        download.fetch(["http://127.0.0.1:1/linux.tar.xz"], tmp_path / "file")
    assert leftovers(tmp_path) == []


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1/linux.tar.xz", server.url]
    assert download.fetch(urls, tmp_path / "file", sha256=SHA).read_bytes() == BODY


def test_an_answer_tells_more_than_a_silence(server: Server, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadFailed, match="503"):
        download.fetch(["http://127.0.0.1:1/x", server.url], tmp_path / "file")


FETCH = """
import sys
from pathlib import Path
from provisioning.errors import ProvisioningError
from provisioning.kernel import download
try:
    download.fetch([sys.argv[1]], Path(sys.argv[2]), sha256=sys.argv[3])
except ProvisioningError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def fetcher(server: Server, target: Path) -> list[str]:
    return [sys.executable, "-c", FETCH, server.url, str(target), SHA]


def test_a_full_disk_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        fetcher(server, tmp_path / "file"),
        cwd=REPO,
        preexec_fn=little_room,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr
    assert "make room" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert leftovers(tmp_path) == []


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    runs = [subprocess.Popen(fetcher(server, target), cwd=REPO) for _ in range(2)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    assert server.hits == 1
    assert target.read_bytes() == BODY

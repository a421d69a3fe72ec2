"""The cache: made once, never half there, made again when damaged, least used goes first."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioning import cache
from provisioning.config import REPO
from provisioning.errors import HostFailed


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("GS_CACHE", str(place))
    return place


class Maker:
    """Fills an entry and counts how often it was asked to."""

    def __init__(self, text: str = "content"):
        self.calls = 0
        self.text = text

    def __call__(self, part: Path) -> None:
        self.calls += 1
        (part / "file").write_text(self.text)
        (part / "folder").mkdir()
        (part / "folder/link").symlink_to("../file")


def test_an_entry_is_made_once() -> None:
    make = Maker()
    first = cache.entry("kind", "key", make)
    assert cache.entry("kind", "key", make) == first
    assert (first / "file").read_text() == "content"
    assert make.calls == 1


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "manifest"])
def test_a_damaged_entry_is_made_again(damage: str) -> None:
    make = Maker()
    entry = cache.entry("kind", "key", make)
    if damage == "changed":
        (entry / "file").write_text("CONTENT")
    elif damage == "removed":
        (entry / "folder/link").unlink()
    elif damage == "added":
        (entry / "more").touch()
    else:
        (entry / cache.MANIFEST).write_text("{")
    cache.entry("kind", "key", make)
    assert make.calls == 2
    assert cache.intact(entry)
    assert (entry / "file").read_text() == "content"


def test_large_entries_are_watched_by_time_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "HASH_LIMIT", 0)
    make = Maker()
    entry = cache.entry("kind", "key", make)
    assert cache.intact(entry)
    (entry / "file").write_text("CONTENT")
    assert not cache.intact(entry)


def test_a_failure_leaves_nothing(own_cache: Path) -> None:
    def fail(part: Path) -> None:
        (part / "half").touch()
        raise ValueError

    with pytest.raises(ValueError):
        cache.entry("kind", "key", fail)
    assert [path.name for path in (own_cache / "kind").iterdir()] == ["key.lock"]
    assert cache.entry("kind", "key", Maker()).exists()


def test_a_full_disk_is_one_clear_line() -> None:
    def fail(part: Path) -> None:
        raise OSError(28, "No space left on device", str(part / "file"))

    with pytest.raises(HostFailed, match="No space left on device; make room"):
        cache.entry("kind", "key", fail)


MAKE = """
import sys, time
from pathlib import Path
from provisioning import cache
def make(part):
    with open(sys.argv[1], "a") as log:
        log.write("made ")
    time.sleep(0.5)
    (part / "file").write_text("content")
cache.entry("kind", "key", make)
"""


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runs = [subprocess.Popen([sys.executable, "-c", MAKE, log], cwd=REPO) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert log.read_text() == "made "


def test_a_killed_maker_is_forgotten(tmp_path: Path, own_cache: Path) -> None:
    log = tmp_path / "log"
    run = subprocess.Popen([sys.executable, "-c", MAKE, log], cwd=REPO)
    end = time.monotonic() + 20
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not (own_cache / "kind/key").exists()
    make = Maker()
    cache.entry("kind", "key", make)
    assert make.calls == 1


def age(entry: Path, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(entry / cache.MANIFEST, (when, when))


def made_elsewhere(key: str) -> Path:
    """An entry that this process does not hold."""
    make = "import sys; from provisioning import cache\n"
    make += "cache.entry('kind', sys.argv[1], lambda p: (p / 'f').write_bytes(b'x' * 100000))"
    subprocess.run([sys.executable, "-c", make, key], cwd=REPO, check=True)
    return Path(os.environ["GS_CACHE"]) / "kind" / key


def test_what_was_used_longest_ago_goes_first() -> None:
    entries = [made_elsewhere(key) for key in ("old", "middle", "new")]
    for entry, seconds in zip(entries, (30000, 20000, 0), strict=True):
        age(entry, seconds)
    assert cache.prune(limit=250_000) == [entries[0]]
    assert [entry.exists() for entry in entries] == [False, True, True]


def test_what_is_recent_or_in_use_stays() -> None:
    recent, used = made_elsewhere("recent"), cache.entry("kind", "used", Maker())
    age(recent, 60)
    assert cache.prune(limit=0) == []
    age(used, 30000)
    assert used not in cache.prune(limit=0, recent=0)
    assert used.exists()


def test_a_workspace_stays_and_is_exclusive(tmp_path: Path) -> None:
    with cache.workspace("trees", "key") as place:
        (place / "object").write_text("1")
        probe = subprocess.run(["flock", "--nonblock", f"{place}.lock", "true"], check=False)
        assert probe.returncode == 1
    with cache.workspace("trees", "key") as place:
        assert (place / "object").read_text() == "1"


def test_keys_do_not_run_together() -> None:
    assert cache.key_of("ab", "c") != cache.key_of("a", "bc")
    assert cache.key_of("a") == cache.key_of(b"a")


def test_who_waits_says_for_whom(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process makes the entry; this one waits for it, and does not make it again."""
    script = (
        "import sys, time; from pathlib import Path; from provisioning import cache\n"
        "def make(part):\n"
        "    print('making', flush=True); time.sleep(1); (part / 'file').write_text('theirs')\n"
        "cache.entry('kind', 'key', make)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline() == b"making\n"
        make = Maker()
        entry = cache.entry("kind", "key", make)
    finally:
        assert other.wait(10) == 0
        other.stdout.close()
    assert (entry / "file").read_text() == "theirs" and make.calls == 0
    said = capsys.readouterr().err
    assert said.count("waiting for another run") == 1
    assert f"(process {other.pid}) with kind/key" in said

"""The content-addressed cache: finished entries, work directories, locks, and their eviction.

``<cache>/<kind>/<key>`` is what was made, ``<key>.lock`` beside it is its flock file. An entry is
made in ``<key>.part`` and renamed, so a half-made one is never seen under its name. Whoever uses
an entry holds a shared lock until the process ends; only what nobody holds is evicted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provisioning import commands, config
from provisioning.errors import HostFailed
from provisioning.progress import note

#: Names of our own files inside an entry.
MANIFEST = ".gs-manifest.json"

#: Entries up to this size are checked by content, larger ones by size and modification time.
HASH_LIMIT = 64 * 10**6

#: Not evicted when used within this many seconds, whatever the size of the cache.
RECENT = 3600.0

_held: dict[Path, int] = {}
_held_guard = threading.RLock()


def key_of(*parts: object) -> str:
    """A short key for what goes in; the order of the parts counts."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:24]


def hash_file(path: Path) -> str:
    """The file's sha256 in hex."""
    with path.open("rb") as source:
        digest = hashlib.sha256()
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, so that nobody reads half of it; two writers do no harm."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def entry(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The finished directory ``kind/key``; ``make(part)`` fills an empty directory if need be.

    Checked on every use: a damaged entry is made again. Two callers at once make it once.
    """
    target = _place(kind, key)
    with _held_guard:
        lock = _lock_of(target)
        _wait_for(lock, target, fcntl.LOCK_SH)
        if not intact(target):
            _wait_for(lock, target, fcntl.LOCK_EX)
            if not intact(target):  # nobody else made it while we waited
                _make(target, make)
            _wait_for(lock, target, fcntl.LOCK_SH)
        _touch(target)
    return target


def present(kind: str, key: str) -> Path | None:
    """The finished entry if it is there and undamaged, without making it."""
    target = _place(kind, key)
    return target if intact(target) else None


@contextmanager
def workspace(kind: str, key: str) -> Iterator[Path]:
    """A directory that stays and changes (an object tree), exclusively ours inside the block."""
    target = _place(kind, key)
    with exclusive(target):
        target.mkdir(parents=True, exist_ok=True)
        try:
            yield target
        finally:
            _write_manifest(target, {"size": _size(target)})
    prune()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold ``<path>.lock``: one process (and thread) at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(_lock_name(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for(lock, path, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def intact(target: Path) -> bool:
    """Whether an entry is there and every file in it is as it was when it was made."""
    try:
        manifest = json.loads((target / MANIFEST).read_text())
        recorded = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(recorded == _listing(target, hashed=manifest["size"] <= HASH_LIMIT))


def prune(limit: int | None = None, recent: float = RECENT) -> list[Path]:
    """Drop what was used longest ago until the cache fits; what is in use stays."""
    limit = config.CACHE_LIMIT if limit is None else limit
    used: list[tuple[float, int, Path]] = []
    newest_first = sorted(_all_entries(), reverse=True)
    dropped: list[Path] = []
    total = 0
    now = newest_first[0][0] if newest_first else 0.0
    for when, size, path in newest_first:
        total += size
        used.append((when, size, path))
    for when, size, path in reversed(used):
        if total <= limit or now - when < recent:
            break
        if _drop(path):
            total -= size
            dropped.append(path)
    return dropped


def _all_entries() -> Iterator[tuple[float, int, Path]]:
    for manifest in config.cache_dir().glob(f"*/*/{MANIFEST}"):
        try:
            size = int(json.loads(manifest.read_text())["size"])
            yield manifest.stat().st_mtime, size, manifest.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it vanished under us, or is damaged and will be made again


def _drop(path: Path) -> bool:
    if path in _held:
        return False
    lock = os.open(_lock_name(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        _remove(path)
        return True
    finally:
        os.close(lock)


def _make(target: Path, make: Callable[[Path], None]) -> None:
    part = target.with_name(target.name + ".part")
    _remove(part)
    _remove(target)
    try:
        part.mkdir(parents=True)
        make(part)
        size = _size(part)
        files = _listing(part, hashed=size <= HASH_LIMIT)
        _write_manifest(part, {"size": size, "files": files})
        part.rename(target)
    except OSError as error:
        _remove(part)
        raise HostFailed(
            f"cannot write {error.filename or part}",
            error.strerror or str(error),
            f"make room under {config.cache_dir()} or set GS_CACHE to another place",
        ) from None
    except BaseException:
        _remove(part)
        raise
    prune()


def _place(kind: str, key: str) -> Path:
    return config.cache_dir() / kind / key


def _lock_name(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock_of(target: Path) -> int:
    """This process's one descriptor of the entry's lock file (flock counts descriptors)."""
    if target not in _held:
        target.parent.mkdir(parents=True, exist_ok=True)
        name = _lock_name(target)
        _held[target] = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    return _held[target]


def _wait_for(lock: int, target: Path, kind: int) -> None:
    """Lock it, shared or exclusively; who has to wait says once for whom."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        who = ", ".join(map(str, _holders(lock))) or "unknown"
        note(f"waiting for another run (process {who}) with {target.parent.name}/{target.name}")
        fcntl.flock(lock, kind)


def _holders(lock: int) -> list[int]:
    """Which other processes hold the file's lock, as far as the kernel tells."""
    status = os.fstat(lock)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    rows = (line.split() for line in lines if "->" not in line)  # an arrow marks who waits too
    found = {int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == place}
    return sorted(found - {os.getpid()})


def _touch(target: Path) -> None:
    try:
        os.utime(target / MANIFEST)
    except OSError:
        pass  # a cache that we may only read: its order of eviction is not ours


def _write_manifest(directory: Path, content: dict[str, Any]) -> None:
    (directory / MANIFEST).write_text(json.dumps(content))


def _listing(directory: Path, hashed: bool) -> dict[str, list[Any]]:
    """Path → [size, modification time or hash] of everything but directories."""
    found: dict[str, list[Any]] = {}
    start = len(str(directory)) + 1
    for name in _files(directory):
        status = os.lstat(name)
        content = hashed and stat.S_ISREG(status.st_mode)
        mark = hash_file(Path(name)) if content else status.st_mtime_ns
        found[name[start:]] = [status.st_size, mark]
    return found


def _files(directory: Path) -> Iterator[str]:
    """Paths as plain strings: a kernel tree has 80,000, and this is on the way of every run."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]
        for name in names + links:
            if name != MANIFEST:
                yield f"{folder}/{name}"


def _size(directory: Path) -> int:
    """Bytes on disk; a file with several links counts by its share."""
    total = 0
    for name in _files(directory):
        status = os.lstat(name)
        total += status.st_blocks * 512 // status.st_nlink
    return total


def _remove(path: Path) -> None:
    """Remove a directory with whatever modes a source tree gave it."""
    if not path.exists():
        return
    aside = path.with_name(path.name + ".gone")
    if path.name.endswith((".part", ".gone")):
        aside = path
    else:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)  # at once: a half-removed entry must not be taken for a damaged one
    shutil.rmtree(aside, ignore_errors=True)
    if aside.exists() and os.geteuid() != 0:
        # Files of subordinate ids, from unpacking an image: only their name space may remove them.
        name_space = ["unshare", "--user", "--map-root-user", "--map-auto"]
        commands.run([*name_space, "rm", "-rf", "--", aside], check=False)

"""What is kept on a host for us, in the home of whoever connects: files by their content, so that
none is sent twice; the work of a build; and the mark of what was installed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

from provisioning import cache
from provisioning.hosts.remote import Remote

#: As a shell reads it.
FOLDER = "${XDG_CACHE_HOME:-$HOME/.cache}/gs-oom"

#: Seconds for removing it: trees of sources and objects may be in it.
CLEARING = 1800.0

_MARK = "installed"

#: Makes the directory and one for each file; says where it is, and what each file there contains.
_LOOK = f"""\
mkdir -p -m 700 "{FOLDER}" && cd "{FOLDER}" && pwd && for file; do
  mkdir -p "${{file%/*}}" && sha256sum 2>/dev/null <"$file" || echo none
done"""


def folder(remote: Remote) -> Path:
    """The directory, which is there then, and nobody else's."""
    return Path(_shell(remote, f'mkdir -p -m 700 "{FOLDER}" && cd "{FOLDER}" && pwd'))


def named(file: Path) -> Path:
    """Where a file lies in it, by its content."""
    return Path(_hash(file)[:16]) / file.name


def upload(remote: Remote, files: Sequence[Path]) -> list[Path]:
    """The files' places there; what is there already is not sent again."""
    places = [named(file) for file in files]
    into, *known = _shell(remote, _LOOK, *map(str, places)).splitlines()
    there = [Path(into, place) for place in places]
    for file, path, content in zip(files, there, known, strict=True):
        if content.split()[0] != _hash(file):
            remote.put(file, path)
    return there


def _hash(file: Path) -> str:
    """Of its content, which is read once for all hosts."""
    status = file.stat()
    with _HASHING:
        return _hash_once(file, status.st_size, status.st_mtime_ns)


_HASHING = threading.Lock()


@functools.cache
def _hash_once(file: Path, _size: int, _mtime_ns: int) -> str:
    return cache.hash_file(file)


def mark(remote: Remote, debs: Sequence[Path]) -> None:
    """Write down that these packages are installed."""
    _shell(remote, f"echo '{_marked(debs)}' >\"{FOLDER}/{_MARK}\"")


def is_marked(remote: Remote, debs: Sequence[Path]) -> bool:
    """Whether just these were installed last."""
    return _shell(remote, f'cat "{FOLDER}/{_MARK}" 2>/dev/null || true') == _marked(debs)


def unmark(remote: Remote) -> None:
    """Something else is installed from now on, or nothing."""
    _shell(remote, f'rm -f "{FOLDER}/{_MARK}"')


def clear(remote: Remote) -> None:
    """Nothing of ours is kept there any more."""
    remote.run(["sh", "-c", f'rm -rf "{FOLDER}"'], timeout=CLEARING)


def _marked(debs: Sequence[Path]) -> str:
    return " ".join(sorted(str(named(deb)) for deb in debs))


def _shell(remote: Remote, script: str, *arguments: str) -> str:
    return remote.run(["sh", "-c", script, "sh", *arguments]).stdout.strip()

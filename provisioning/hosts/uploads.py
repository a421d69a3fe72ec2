"""What is kept on a host for us, in the home of whoever connects: files by their content, so that
none is sent twice; the work of a build; and the mark of what was installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provisioning import cache
from provisioning.hosts.remote import Remote

#: As a shell reads it.
FOLDER = "${XDG_CACHE_HOME:-$HOME/.cache}/gs-oom"

#: Seconds for removing it: trees of sources and objects may be in it.
CLEARING = 1800.0

_MARK = "installed"


def folder(remote: Remote) -> Path:
    """The directory, which is there then, and nobody else's."""
    return Path(_shell(remote, f'mkdir -p -m 700 "{FOLDER}" && cd "{FOLDER}" && pwd'))


def named(file: Path) -> Path:
    """Where a file lies in it, by its content."""
    return Path(cache.hash_file(file)[:16]) / file.name


def upload(remote: Remote, files: Sequence[Path]) -> list[Path]:
    """The files' places there; what is there already is not sent again."""
    into = folder(remote)
    return [_upload(remote, file, into / named(file)) for file in files]


def _upload(remote: Remote, local: Path, there: Path) -> Path:
    words = ["sh", "-c", 'mkdir -p "${1%/*}"; sha256sum <"$1" 2>/dev/null || true', "sh"]
    known = remote.run([*words, str(there)]).stdout
    if known.split()[:1] != [cache.hash_file(local)]:
        remote.put(local, there)
    return there


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


def _shell(remote: Remote, script: str) -> str:
    return remote.run(["sh", "-c", script]).stdout.strip()

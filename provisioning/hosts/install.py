"""Putting gs on a host by its Debian packages, and taking it away again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provisioning import cache
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote

#: The Debian packages of ours that a host may have.
PACKAGES = ("gs-oom", "gs-oom-dkms")

#: Seconds for apt, which has DKMS build the module; and how long it waits for another's lock.
INSTALL_TIMEOUT = 1800.0
LOCK_WAIT = 60

#: In the home of whoever connects: what was uploaded, by its content, and what of it is installed.
_UPLOADS = "${XDG_CACHE_HOME:-$HOME/.cache}/gs-oom"
_MARK = "installed"

_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q",
        "-o", f"DPkg::Lock::Timeout={LOCK_WAIT}")  # fmt: skip


def module(remote: Remote, facts: Facts, debs: Sequence[Path]) -> str:
    """Install these packages and load the module; what was done, in a few words.

    Nothing is where these very packages are installed and the module is loaded.
    """
    folder = Path(_shell(remote, f'mkdir -p -m 700 "{_UPLOADS}" && cd "{_UPLOADS}" && pwd'))
    names = {deb: Path(cache.hash_file(deb)[:16]) / deb.name for deb in debs}
    wanted = " ".join(sorted(map(str, names.values())))
    loaded = facts.attachment == "module"
    if loaded and _shell(remote, f"cat {folder}/{_MARK} 2>/dev/null || true") == wanted:
        return "nothing to do"
    for deb, name in names.items():
        _upload(remote, deb, folder / name)
    become = as_root(facts)
    if loaded:  # an upgrade keeps it, and what is verified would be the old one
        remote.run([*become, "gs-oom", "module", "unload"])
    paths = [str(folder / name) for name in names.values()]
    options = ("--reinstall", "--no-install-recommends")
    remote.run([*become, *_APT, "install", *options, *paths], timeout=INSTALL_TIMEOUT)
    remote.run([*become, "gs-oom", "module", "load"])
    _shell(remote, f"echo '{wanted}' >{folder}/{_MARK}")
    return "module installed and loaded"


def remove(remote: Remote, facts: Facts) -> str:
    """Purge our packages, which unloads the module, and what was uploaded."""
    listed = remote.run(["dpkg-query", "-W", "-f", "${Package}\n", *PACKAGES], check=False)
    there = listed.stdout.split()
    if there:
        remote.run([*as_root(facts), *_APT, "purge", *there], timeout=INSTALL_TIMEOUT)
    _shell(remote, f'rm -rf "{_UPLOADS}"')
    return f"removed {' and '.join(there)}" if there else "nothing to do"


def as_root(facts: Facts) -> tuple[str, ...]:
    """What to put before a command that only root may give."""
    return ("sudo", "-n", "--") if facts.one("root") == "sudo" else ()


def _upload(remote: Remote, local: Path, there: Path) -> None:
    """By its content: what is there already is not sent again."""
    known = _shell(remote, f"mkdir -p {there.parent}; sha256sum <{there} 2>/dev/null || true")
    if known.split()[:1] != [cache.hash_file(local)]:
        remote.put(local, there)


def _shell(remote: Remote, script: str) -> str:
    return remote.run(["sh", "-c", script]).stdout.strip()

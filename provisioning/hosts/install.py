"""Putting gs on a host by its Debian packages, and taking it away again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from provisioning.errors import HostFailed
from provisioning.hosts import uploads
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote

#: The Debian packages of ours that a host may have; patterns of dpkg-query.
PACKAGES = ("gs-oom", "gs-oom-dkms", "linux-image-*-gs-*", "linux-headers-*-gs-*")

#: Seconds for apt, which has DKMS build the module; and how long it waits for another's lock.
INSTALL_TIMEOUT = 1800.0
LOCK_WAIT = 300

_APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q",
        "-o", f"DPkg::Lock::Timeout={LOCK_WAIT}")  # fmt: skip

#: In a unit of its own, which goes to its end where the connection does not; the next one waits for
#: the lock that it holds. What was cut short in another way, as by a power cut, is ended first.
_DETACHED = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "sh", "-c",
             'dpkg --configure -a; exec "$@"', "apt")  # fmt: skip


#: How lines begin in which apt-get and dpkg say what is wrong.
_WRONG = ("E: ", "dpkg: error", "Error: ")

#: What apt-get says while another holds the lock, before it says who that is.
_WAITS = "Waiting for cache lock: "


def module(remote: Remote, facts: Facts, debs: Sequence[Path]) -> str:
    """Install these packages and load the module; what was done, in a few words.

    Nothing is where these very packages are installed and the module is loaded.
    """
    loaded = facts.attachment == "module"
    if loaded and uploads.is_marked(remote, debs):
        return "nothing to do"
    if loaded:  # an upgrade keeps it, and what is verified would be the old one
        remote.run([*facts.as_root, "gs-oom", "module", "unload"])
    _install(remote, facts, debs)
    remote.run([*facts.as_root, "gs-oom", "module", "load"])
    return "module installed and loaded"


def packages(remote: Remote, facts: Facts, debs: Sequence[Path]) -> None:
    """Install these packages, unless they are."""
    if not uploads.is_marked(remote, debs) or not _are_there(remote, debs):
        _install(remote, facts, debs)


def remove(remote: Remote, facts: Facts) -> str:
    """Purge our packages, which unloads the module."""
    uploads.unmark(remote)
    listed = remote.run(["dpkg-query", "-W", "-f", "${Package}\n", *PACKAGES], check=False)
    there = listed.stdout.split()
    if there:
        _apt(remote, facts, "purge", *there)
    return f"removed {' and '.join(there)}" if there else "nothing to do"


def _install(remote: Remote, facts: Facts, debs: Sequence[Path]) -> None:
    """A mark says what these packages were."""
    remote.say("sending packages")
    paths = uploads.upload(remote, debs)
    uploads.unmark(remote)
    remote.say("installing them")
    options = ("--reinstall", "--no-install-recommends")
    _apt(remote, facts, "install", *options, *map(str, paths))
    uploads.mark(remote, debs)


def _apt(remote: Remote, facts: Facts, *words: str) -> None:
    """HostFailed with what apt-get says is wrong there."""
    command = [*facts.as_root, *_DETACHED, *_APT, *words]
    done = remote.run(command, timeout=INSTALL_TIMEOUT, check=False)
    if done.returncode == 0:
        return
    why = _wrong(f"{done.stdout}\n{done.stderr}".splitlines()) or done.stderr.strip()[-200:]
    mend = "when what holds it has ended" if "lock" in why else "with that mended there"
    raise HostFailed(
        f"{remote.host.name}: apt-get {words[0]} ended with {done.returncode}",
        why,
        f"{mend}, run it again",
        log=remote.log,
    )


def _wrong(lines: Sequence[str]) -> str:
    """What apt-get and dpkg say first of what is wrong, or "" where they do not."""
    wrong = next((line for line in lines if line.startswith(_WRONG)), "")
    waits = [line.removeprefix(_WAITS).rstrip(".") for line in lines if line.startswith(_WAITS)]
    return waits[-1] if waits and "lock" in wrong else wrong


def _are_there(remote: Remote, debs: Sequence[Path]) -> bool:
    """Whether packages of these names are, whoever installed them, or removed them since."""
    names = [deb.name.partition("_")[0] for deb in debs]
    words = ["dpkg-query", "-W", "-f", "${db:Status-Status}\n", *names]
    return remote.run(words, check=False).stdout.split() == ["installed"] * len(names)

"""Debian's root file systems: made by mmdebstrap, and programs that run in one.

Owns mmdebstrap, which keeps an apt state of its own: the host's sources are neither read nor
changed; and the name spaces in which a root file system is a place to work in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning import cache, commands, config
from provisioning.commands import Word
from provisioning.errors import CommandFailed, DownloadFailed
from provisioning.progress import step

TAR = "root.tar"

#: In name spaces of their own: what is mounted is so for the program only, and none outlives it.
_WITHIN = """\
root=$1; shift
mount --make-rprivate / && mount -t proc proc "$root/proc" || exit
for at in dev sys; do mount --rbind "/$at" "$root/$at" || exit; done
# Not by exec: the first process of a pid name space is a special one.
chroot "$root" env -C / "$@"
exit
"""


@dataclass(frozen=True)
class Suite:
    """A release that mmdebstrap knows by its name; where it is not Debian's, its ``sources`` as apt
    has them."""

    name: str
    sources: tuple[str, ...] = ()


def make(tar: Path, suite: Suite, packages: Sequence[str], *options: Word) -> None:
    """Have mmdebstrap, with its own ``options``, write it to a tar, or raise DownloadFailed."""
    mmdebstrap = commands.which_or_hint("mmdebstrap", "mmdebstrap")
    log = config.cache_dir() / "vm" / "mmdebstrap.log"
    log.unlink(missing_ok=True)
    includes = [f"--include={package}" for package in packages]
    try:
        words = [mmdebstrap, *options, *includes, suite.name, tar, *suite.sources]
        commands.run(words, log=log, timeout=1800)
    except CommandFailed as error:
        raise DownloadFailed(
            f"a root file system of {suite.name} could not be made",
            error.why or error.what,
            "look at the network, the proxy settings and /etc/subuid, then run it again",
            log=log,
        ) from None


@contextmanager
def unpacked(where: Path, release: str, packages: Sequence[str]) -> Iterator[Path]:
    """A minimal Debian with these packages in the new directory ``where``, which is gone
    afterwards; it is made once, and kept as a tar."""

    def fill(part: Path) -> None:
        with step(f"making a root file system (Debian {release})"):
            make(part / TAR, Suite(release), packages, "--variant=minbase")

    made = cache.entry("rootfs", cache.key_of(release, *packages), fill)
    where.mkdir(parents=True)
    try:
        # Device files come from the host.
        tar = ("tar", "-xf", made / TAR, "--numeric-owner", "--exclude=./dev/*", "-C", where)
        commands.run([*as_owner_of_all(), *tar], timeout=600)
        yield where
    finally:
        commands.run([*as_owner_of_all(), "rm", "-rf", where])


def within(root: Path, *words: Word) -> list[Word]:
    """The command that runs ``words`` in an unpacked root file system, as its root, with the
    host's network, devices and cgroups; what it leaves behind ends with it."""
    spaces = ("--mount", "--pid", "--fork", "--kill-child")
    unshare = as_owner_of_all() or ["unshare"]
    return [*unshare, *spaces, "sh", "-c", _WITHIN, "sh", root, *words]


def as_owner_of_all() -> list[Word]:
    """What to put before a command that works with files of many owners: nothing for root; a user
    can do so within a name space of subordinate ids."""
    if os.geteuid() == 0:
        return []
    commands.which_or_hint("newuidmap", "uidmap")
    return ["unshare", "--user", "--map-root-user", "--map-auto"]

"""Building on a host: this checkout and an order go there, packages come back."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from provisioning import cache, config
from provisioning.errors import HostFailed
from provisioning.hosts import jobs, uploads
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote

#: Of this checkout, what builds kernels.
OURS = ("dev", "gs", "provisioning", "kernel_patches")

#: Below uploads.FOLDER: our checkouts by their content, jobs by what they build, and the cache with
#: sources and objects, which all builds there share.
_TREES, _JOBS, _CACHE = "trees", "jobs", "build"

#: Of a tar the directory with its content, which is there whole or not at all.
_UNPACK = """\
[ -e "$2" ] && exit
rm -rf "$2.part" && mkdir -p "$2.part" && tar -xf "$1" -C "$2.part" && mv "$2.part" "$2"
"""

#: Lines of the builder that are worth being told of while one waits.
_TOLD = (">", "  done in", "  failed", "error:")


def carry_out(remote: Remote, facts: Facts, order: str) -> str:
    """Have `./dev builder` there do what the order says; what it printed on stdout.

    It goes on when the connection is lost or this process ends, and the same order finds it again.
    HostFailed says what the builder said.
    """
    place = uploads.folder(remote)
    tree = _checkout(remote, place)
    with tempfile.TemporaryDirectory(prefix="gs-order-") as name:
        file = Path(name) / "order.json"
        file.write_text(order)
        (there,) = uploads.upload(remote, [file])
    words = ["env", f"GS_CACHE={place / _CACHE}", "GS_SKIP_CHECKS=1"]  # preflight has looked
    words += [str(tree / "dev"), "builder", str(there)]
    job = place / _JOBS / cache.key_of(tree.name, order)
    errors = []

    def on_line(line: str) -> None:
        if line.startswith("error:"):
            errors.append(line.removeprefix("error:").strip())
        if line.startswith(_TOLD):
            remote.say(line.removeprefix("> ").strip())

    status, output = jobs.run(remote, job, words, on_line, facts.as_root)
    if status != "0":
        ended = "it ended without a word, as in a power cut" if status == jobs.LOST else ""
        raise HostFailed(
            f"{remote.host.name}: the kernel could not be built there",
            errors[-1] if errors else ended or f"./dev ended with {status}",
            "with that mended, run it again to go on",
            log=remote.log,
        )
    return output


def fetch(remote: Remote, files: Sequence[Path]) -> list[Path]:
    """Those files of the host's, here in the cache; should they be uploaded, they are there."""
    said = remote.run(["sha256sum", *map(str, files)]).stdout.splitlines()
    key = cache.key_of(*said)
    entry = cache.present("kernel-package", key) or _fetch(remote, files, key)
    here = [entry / file.name for file in files]
    place = uploads.folder(remote)
    for file, copy in zip(files, here, strict=True):
        there = place / uploads.named(copy)
        remote.run(["mkdir", "-p", str(there.parent)])
        remote.run(["ln", "-f", str(file), str(there)])
    return here


def _fetch(remote: Remote, files: Sequence[Path], key: str) -> Path:
    """Outside of the cache first, which is one thread's while it makes an entry."""
    place = config.cache_dir() / "downloads"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as name:
        for file in files:
            remote.get(file, Path(name) / file.name)

        def make(part: Path) -> None:
            for file in files:
                shutil.move(Path(name) / file.name, part)

        return cache.entry("kernel-package", key, make)


def stop(remote: Remote, facts: Facts) -> None:
    """End what is built there."""
    jobs.stop(remote, uploads.folder(remote) / _JOBS, facts.as_root)


def _checkout(remote: Remote, place: Path) -> Path:
    """This checkout there, by its content."""
    with tempfile.TemporaryDirectory(prefix="gs-tree-") as name:
        tar = Path(name) / "gs.tar"
        _pack(tar)
        (there,) = uploads.upload(remote, [tar])
    tree = place / _TREES / there.parent.name
    remote.run(["sh", "-c", _UNPACK, "sh", str(there), str(tree)])
    return tree


def _pack(tar: Path) -> None:
    """The same files give the same bytes."""
    with tarfile.open(tar, "w") as archive:
        for name in OURS:
            archive.add(config.REPO / name, name, recursive=True, filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if member.name.endswith("__pycache__"):
        return None
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member

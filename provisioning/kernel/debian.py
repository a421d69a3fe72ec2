"""Debian's kernel source packages, through a private apt state; the machine's own stays untouched.

Works without root and on any machine with apt-get: own lists, own cache, own sources, and only
signatures of the Debian archive keyring count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provisioning import cache, commands, config
from provisioning.arch import X86_64
from provisioning.errors import CommandFailed, DownloadFailed
from provisioning.kernel import versions
from provisioning.kernel.versions import DebianPackage
from provisioning.progress import note

#: Of a kernel's packages, what is run where modules for it are built.
_RUNS_HERE = "linux-kbuild-"

#: Seconds that a looked-up version is taken for the newest one.
FRESH = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Found:
    """A version of a package that the archive offers, or offered when last asked."""

    package: DebianPackage
    version: str


def newest(package: DebianPackage) -> Found:
    """The newest version; asks the archive at most once a week, and goes on with the last
    answer when the archive does not answer."""
    record = _state(package) / f"{package.package}.json"
    known, age = _recorded(record)
    if known and age < FRESH:
        return Found(package, known)
    try:
        _update(package)
        version = _candidate(package)
    except DownloadFailed as error:
        if not known:
            raise
        note(f"{error.what}; going on with {package.package} {known} from the cache")
        return Found(package, known)
    record.write_text(json.dumps({"version": version}))
    return Found(package, version)


def unpack(found: Found, target: Path) -> None:
    """Download the package and put its source tarball's content into ``target``."""
    deb = _download(found)
    box = target.with_name("package")
    try:
        commands.run(["dpkg-deb", "-x", deb, box])
        tarballs = sorted((box / "usr/src").glob("linux-source-*.tar.*"))
        if len(tarballs) != 1:
            raise DownloadFailed(f"{deb.name} holds {len(tarballs)} source tarballs instead of one")
        target.mkdir()
        commands.run(["tar", "-xf", tarballs[0], "-C", target, "--strip-components=1"])
    finally:
        commands.run(["rm", "-rf", box])
    deb.unlink()


def unpack_with_dependencies(
    found: Found, more: Sequence[str], prefixes: tuple[str, ...], target: Path
) -> None:
    """Unpack below ``target`` what the package and ``more`` stand for: what they depend on.

    Only packages whose names begin with one of ``prefixes``.
    """
    asked = [found.package.package, *more]
    words = ["depends", "--recurse", "--important", "--no-pre-depends", *asked]
    said = _apt(found.package, "apt-cache", *words)
    # The other architecture's have it behind a colon.
    names = {line.partition(":")[0] for line in said.splitlines() if line.startswith(prefixes)}
    for name in sorted(names.difference(asked)):
        deb = _download(Found(replace(found.package, package=name), ""))
        commands.run(["dpkg-deb", "-x", deb, target])
        deb.unlink()


def _download(found: Found) -> Path:
    """Of no version: the newest that the lists know."""
    state = _state(found.package)
    name = found.package.package
    if name.startswith(_RUNS_HERE):
        name += f":{X86_64.debian}"
    name = "=".join(filter(None, (name, found.version)))
    with cache.exclusive(state):
        downloads = state / "debs"
        downloads.mkdir(exist_ok=True)
        try:
            _apt(found.package, "apt-get", "download", name, cwd=downloads)
        except DownloadFailed:
            # The archive drops old versions: the recorded one may be gone.
            (state / f"{found.package.package}.json").unlink(missing_ok=True)
            raise
        # An interrupted run may have left one of another version; apt writes a colon as %3a.
        wanted = f"{found.package.package}_{found.version.replace(':', '%3a') or '*'}_*.deb"
        return next(downloads.glob(wanted))


def _update(package: DebianPackage) -> None:
    state = _state(package)
    with cache.exclusive(state):
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "state/status").touch()
        (state / "sources.list").write_text(_sources(package))
        _apt(package, "apt-get", "update")


def _sources(package: DebianPackage) -> str:
    where = versions.debian_archive()
    if not where.keyring.exists():
        raise commands.missing_packages(f"{where.keyring} is not there", ["debian-archive-keyring"])
    suites = [(where.archive, package.suite), (where.security, f"{package.suite}-security")]
    return "".join(f"deb [signed-by={where.keyring}] {url} {name} main\n" for url, name in suites)


def _candidate(package: DebianPackage) -> str:
    policy = _apt(package, "apt-cache", "policy", package.package)
    for line in policy.splitlines():
        word, _, version = line.strip().partition(": ")
        if word == "Candidate" and version != "(none)":
            return version
    raise DownloadFailed(
        f"Debian's suite {package.suite} has no {package.package}",
        hint="give the sources with --source",
    )


def _apt(package: DebianPackage, program: str, *words: str, cwd: Path | None = None) -> str:
    """Run an apt program on the private state; what it printed."""
    state = _state(package)
    options = {
        "Dir::State": state / "state",
        "Dir::State::status": state / "state/status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Architecture": package.arch.debian,
        "APT::Architectures": f"{package.arch.debian},{X86_64.debian}",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "APT::Sandbox::User": "root",  # the cache may lie where the user _apt cannot go
        "APT::Update::Error-Mode": "any",
        # What the machine's administrator prefers is about the machine.
        "APT::Default-Release": "",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
    }
    if package.archived:
        options["Acquire::Check-Valid-Until"] = "false"
    tool = commands.which_or_hint(program, "apt")
    argv: list[str | Path] = [tool, "-q"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    try:
        return commands.run([*argv, *words], cwd=cwd, log=state / "apt.log").stdout
    except CommandFailed as error:
        raise DownloadFailed(
            f"Debian's archive does not give {package.package}",
            error.why or error.what,
            "look at the network or the proxy settings, or give the sources with --source",
            log=error.log,
        ) from None


def _state(package: DebianPackage) -> Path:
    foreign = "" if package.arch == X86_64 else f"-{package.arch.debian}"
    place = config.cache_dir() / "apt" / f"{package.suite}{foreign}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _recorded(record: Path) -> tuple[str, float]:
    try:
        version = str(json.loads(record.read_text())["version"])
        return version, time.time() - record.stat().st_mtime
    except (OSError, ValueError, KeyError):
        return "", 0.0

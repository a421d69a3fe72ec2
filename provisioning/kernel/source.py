"""Where kernel sources come from: one pristine, unpacked tree in the cache for each origin."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from provisioning import cache, commands, config
from provisioning.errors import CommandFailed, DownloadFailed, UsageError
from provisioning.kernel import debian, download, signature, versions
from provisioning.kernel.versions import Series
from provisioning.progress import step

#: What ``--source`` means when nothing is given.
DEFAULT = "kernel.org"

#: Sources that are no files.
NAMED = ("kernel.org", "debian")

#: How tar(1) names the directory that it packs, and no target of a link.
_RENAME = "s,^\\.,{},S"

#: Never copied from a directory that the user gives.
NOT_SOURCE = (".git", ".pc")


@dataclass(frozen=True)
class Source:
    """Sources that are known, and unpacked when somebody needs them.

    ``key`` changes when the sources change; ``origin`` tells people where they are from.
    """

    series: Series
    origin: str
    key: str
    _unpack: Callable[[Path], None] = field(repr=False, compare=False)

    def tree(self) -> Path:
        """The unpacked pristine tree; it belongs to the cache: copy it before changing it."""

        def make(part: Path) -> None:
            with step(f"fetching and unpacking {self.origin}"):
                self._unpack(part / "linux")
                _expect_series(part / "linux", self.series, self.origin)

        return cache.entry("kernel-source", self.key, make) / "linux"

    def cached(self) -> bool:
        """Whether they are unpacked in the cache."""
        return cache.present("kernel-source", self.key) is not None


def locate(series: str, spec: str = DEFAULT) -> Source:
    """The sources that ``spec`` (kernel.org, debian, URL, tarball, directory) stands for."""
    wanted = versions.series(series)
    if spec == "kernel.org":
        return _from_kernel_org(wanted)
    if spec == "debian":
        return _from_debian(wanted)
    if urlsplit(spec).scheme in ("http", "https"):
        return _from_url(wanted, spec)
    path = Path(spec).expanduser().absolute()
    if path.is_dir():
        return _from_directory(wanted, path)
    if path.is_file():
        return _from_tarball(wanted, path)
    raise UsageError(
        f"there are no kernel sources at {spec}",
        hint="--source takes kernel.org, debian, a URL, a tarball or a directory",
    )


def tarball(series: str, spec: str) -> Path | None:
    """Of a tarball or a directory on this machine a tarball, for another one; none for what another
    machine can fetch by itself."""
    path = Path(spec).expanduser().absolute()
    if spec in NAMED or urlsplit(spec).scheme in ("http", "https") or not path.exists():
        return None
    if path.is_file():
        return path
    found = _from_directory(versions.series(series), path)

    def make(part: Path) -> None:
        name = f"linux-{release_of(found.tree())}"
        with step(f"packing {path}"):
            words: list[str | Path] = ["tar", "-C", found.tree(), "-I", "gzip -1"]
            words.append(f"--transform={_RENAME.format(name)}")
            commands.run([*words, "-cf", part / f"{name}.tar.gz", "."])

    (made,) = cache.entry("source-tar", cache.key_of(found.key, _RENAME), make).glob("*.tar.gz")
    return made


def another_release(series: str, release: str, spec: str = DEFAULT) -> Source:
    """Another release of a series, from kernel.org, a mirror's directory (URL/) or a tarball.

    Its ``series`` is as kernels.toml would have to declare it. What is fetched must be signed by
    one of the series' signers; a file of the user's own is trusted, as everywhere.
    """
    declared = versions.series(series)
    if not re.fullmatch(rf"{re.escape(series)}\.\d+", release):
        raise UsageError(f"{release} is no release of the series {series}", hint=f"{series}.NUMBER")
    moved = replace(declared, release=release, tarball=f"linux-{release}.tar.xz", sha256="")
    file = Path(spec).expanduser()
    if file.is_file():
        if file.name.removesuffix(signature.kind_of(file.name)) != f"linux-{release}":
            raise UsageError(f"{file.name} is not named as on kernel.org", f"{moved.tarball}")
        moved = replace(moved, tarball=file.name, sha256=cache.hash_file(file))
        return _of_release(replace(_from_tarball(declared, file.absolute()), series=moved))
    if spec != DEFAULT and not (urlsplit(spec).scheme in ("http", "https") and spec.endswith("/")):
        raise UsageError(
            f"cannot take another release from {spec}",
            hint="give kernel.org, the URL of a directory (ends in /) or a tarball",
        )
    places = versions.mirrors(release) if spec == DEFAULT else [spec.rstrip("/")]
    tarball = _downloads() / moved.tarball
    urls = [f"{place}/{moved.tarball}" for place in places]
    with step(f"fetching {moved.tarball} and checking its signature"):
        download.fetch(urls, tarball)
        _check_signature(tarball, urls, moved)
    moved = replace(moved, sha256=cache.hash_file(tarball))
    key = cache.key_of("tar", moved.sha256)
    where = "kernel.org" if spec == DEFAULT else spec
    origin = f"{moved.tarball} from {where}"
    return _of_release(Source(moved, origin, key, lambda target: _untar(tarball, target)))


def _of_release(found: Source) -> Source:
    unpacked = release_of(found.tree())
    if unpacked != found.series.release:
        raise UsageError(f"{found.origin} is Linux {unpacked}, not {found.series.release}")
    return found


def packaged(series: str) -> bool:
    """Whether some Debian suite packages the series as source."""
    return versions.series(series).debian is not None


def packaged_now(series: str) -> bool:
    """Whether Debian 12 does; an older suite does not count."""
    package = versions.series(series).debian
    return package is not None and not package.archived


def release_of(tree: Path) -> str:
    """The release that a tree's Makefile names, e.g. 5.4.286."""
    try:
        head = (tree / "Makefile").read_text()[:2000]
    except OSError:
        raise UsageError(f"{tree} is no kernel tree", "it has no Makefile") from None
    found = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", head, re.MULTILINE))
    if len(found) != 3:
        raise UsageError(f"{tree} is no kernel tree", "its Makefile names no version")
    return f"{found['VERSION']}.{found['PATCHLEVEL']}.{found['SUBLEVEL']}"


def _from_kernel_org(series: Series) -> Source:
    def unpack(target: Path) -> None:
        places = versions.mirrors(series.release)
        tarball = _downloads() / series.tarball
        urls = [f"{place}/{series.tarball}" for place in places]
        download.fetch(urls, tarball, sha256=series.sha256)
        _check_signature(tarball, urls, series)
        _untar(tarball, target)
        tarball.unlink()

    return Source(
        series, f"{series.tarball} from kernel.org", cache.key_of("tar", series.sha256), unpack
    )


def _from_debian(series: Series) -> Source:
    if series.debian is None:
        raise DownloadFailed(
            f"Debian does not package Linux {series.name} as source",
            hint="give the sources with --source URL, TARBALL or DIR",
        )
    found = debian.newest(series.debian)
    return Source(
        series,
        f"{found.package.package} {found.version} from Debian",
        cache.key_of("debian", found.package.package, found.version),
        lambda target: debian.unpack(found, target),
    )


def _from_url(series: Series, url: str) -> Source:
    """A mirror's directory (ends in /) or a tarball; signed, unless its hash is declared."""
    full = url + series.tarball if url.endswith("/") else url
    name = Path(urlsplit(full).path).name
    if not signature.kind_of(name):
        raise UsageError(
            f"cannot take {name or full}",
            f"only {', '.join(signature.DECOMPRESSORS)} with a signature beside them",
            "fetch it yourself and give the file with --source FILE",
        )
    declared = series.sha256 if name == series.tarball else None

    def unpack(target: Path) -> None:
        tarball = _downloads() / f"{cache.key_of(full)}-{name}"
        download.fetch([full], tarball, sha256=declared)
        try:
            _check_signature(tarball, [full], series)
            _untar(tarball, target)
        finally:
            tarball.unlink(missing_ok=True)

    return Source(series, full, cache.key_of("url", full, declared), unpack)


def _from_tarball(series: Series, path: Path) -> Source:
    """The user's own file: trusted as it is, like a directory."""
    key = cache.key_of("tar", cache.hash_file(path))
    return Source(series, path.name, key, lambda target: _untar(path, target))


def _from_directory(series: Series, path: Path) -> Source:
    _expect_series(path, series, str(path))

    def copy(target: Path) -> None:
        excluded = [f"--exclude=/{name}" for name in NOT_SOURCE]
        rsync = commands.which_or_hint("rsync", "rsync")
        commands.run([rsync, "-a", *excluded, f"{path}/", f"{target}/"])
        if (target / ".config").exists() or (target / "include/config").exists():
            commands.run(["make", "mrproper"], cwd=target)

    return Source(series, str(path), cache.key_of("dir", _listing_of(path)), copy)


def _listing_of(tree: Path) -> str:
    """Names, sizes and modification times: what tells one state of a directory from another."""
    lines: list[str] = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(name for name in folders if name not in NOT_SOURCE)
        for name in sorted(names):
            stat = os.lstat(f"{folder}/{name}")
            lines.append(f"{folder[len(str(tree)) :]}/{name} {stat.st_size} {stat.st_mtime_ns}")
    return cache.key_of("\n".join(lines))


def _expect_series(tree: Path, series: Series, origin: str) -> None:
    release = release_of(tree)
    if not release.startswith(f"{series.name}."):
        raise UsageError(
            f"{origin} is Linux {release}, not of the series {series.name}",
            hint=f"give --kernel {release.rpartition('.')[0]}, or other sources",
        )


def _check_signature(tarball: Path, urls: list[str], series: Series) -> None:
    """Fetch the detached signature from where the tarball is and check it."""
    sign = tarball.with_name(tarball.name + ".sign")
    sign.unlink(missing_ok=True)
    try:
        download.fetch([_sign_url(url) for url in urls], sign)
        signature.verify(tarball, sign, series.signers)
    except download.Unreachable:
        raise
    except DownloadFailed as error:
        tarball.unlink(missing_ok=True)
        raise DownloadFailed(
            f"{tarball.name} is not known to be genuine",
            str(error),
            "if you trust the file, fetch it yourself and give it with --source FILE",
        ) from None
    finally:
        sign.unlink(missing_ok=True)


def _sign_url(url: str) -> str:
    place, _, name = url.rpartition("/")
    return f"{place}/{signature.name_for(name)}"


def _untar(tarball: Path, target: Path) -> None:
    target.mkdir(parents=True)
    try:
        commands.run(
            ["tar", "-xf", tarball, "-C", target, "--strip-components=1", "--no-same-owner"]
        )
    except CommandFailed as error:
        raise DownloadFailed(
            f"cannot unpack {tarball.name}", error.why, "is it a complete kernel tarball?"
        ) from None


def _downloads() -> Path:
    place = config.cache_dir() / "downloads"
    place.mkdir(parents=True, exist_ok=True)
    return place

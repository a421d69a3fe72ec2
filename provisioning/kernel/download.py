"""Fetching files over HTTP: resumed, checked, never half there. The only user of requests."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests

from provisioning import cache
from provisioning.errors import MAKE_ROOM, DownloadFailed, HostFailed, ProvisioningError
from provisioning.log import logger
from provisioning.progress import Bar, bar

#: Seconds to connect, and between two pieces of the body.
TIMEOUT = (10.0, 60.0)

#: Bytes read at a time.
BLOCK = 1 << 18

#: The connection failed or ended early: what has come is kept, and asking again may help.
BROKEN_OFF = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)

#: How often one address is tried when the connection breaks off in the middle.
ATTEMPTS = 3


class Unreachable(DownloadFailed):
    """No address answered: this machine has no way there (as opposed to: the file is wrong)."""


def fetch(urls: Sequence[str], target: Path, *, sha256: str | None = None) -> Path:
    """Bring the file to ``target`` from the first address that has it, and return ``target``.

    What an interrupted run left in ``<target>.part`` is resumed. With ``sha256`` a file that
    differs is deleted, and the next address tried. Two runs at once fetch it once.
    """
    with cache.exclusive(target):
        if target.exists():
            if sha256 is None or cache.hash_file(target) == sha256:
                return target
            target.unlink()
        return _from_any(urls, target, sha256)


def _from_any(urls: Sequence[str], target: Path, sha256: str | None) -> Path:
    failures: list[ProvisioningError] = []
    for url in urls:
        try:
            _from_one(url, target, sha256)
            return target
        except DownloadFailed as error:
            logger.debug("%s", error)
            failures.append(error)
    # The most telling one: an address that answered says more than one that did not.
    telling = [error for error in failures if not isinstance(error, Unreachable)]
    raise (telling or failures)[0]


def _from_one(url: str, target: Path, sha256: str | None) -> None:
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _receive(url, part)
            break
        except BROKEN_OFF as error:
            if attempt == ATTEMPTS or not part.exists() or part.stat().st_size == 0:
                raise _unreachable(url, error) from None
        except requests.RequestException as error:
            raise DownloadFailed(f"cannot fetch {url}", _reason(error)) from None
        except OSError as error:
            raise _not_written(part, error) from None
    if sha256 is not None and (found := cache.hash_file(part)) != sha256:
        part.unlink()
        if resumed:  # what an earlier run left may be at fault: once more, from the beginning
            _from_one(url, target, sha256)
            return
        raise DownloadFailed(
            f"{url} is not the file that was declared",
            f"sha256 {found} instead of {sha256}",
            "it was deleted; try again, or another mirror with --source URL",
        )
    part.rename(target)


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # lengths and ranges then count the file's bytes
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            if _total_size(answer) == have:
                return  # complete already; the run before was stopped just before the rename
            part.unlink()
            _receive(url, part)
            return
        if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise DownloadFailed(
                f"cannot fetch {url}",
                f"the server says {answer.status_code} {answer.reason}",
                "check the address, or take another mirror with --source URL",
            )
        resumed = answer.status_code == requests.codes.partial_content
        _write_body(answer, part, have if resumed else 0)


def _write_body(answer: requests.Response, part: Path, have: int) -> None:
    length = answer.headers.get("Content-Length")
    expected = have + int(length) if length and length.isdigit() else None
    name = Path(urlsplit(answer.url).path).name
    with part.open("ab" if have else "wb") as sink, bar(name, expected, "B") as progress:
        progress.update(have)
        size = have + _copy(answer, sink, progress)
    if expected is not None and size < expected:
        raise requests.ConnectionError(f"the connection ended after {size} of {expected} bytes")


def _copy(answer: requests.Response, sink: BinaryIO, progress: Bar) -> int:
    copied = 0
    for block in answer.iter_content(BLOCK):
        sink.write(block)
        copied += len(block)
        progress.update(len(block))
    return copied


def _total_size(answer: requests.Response) -> int | None:
    _, _, total = answer.headers.get("Content-Range", "").partition("/")
    return int(total) if total.isdigit() else None


def _unreachable(url: str, error: requests.RequestException) -> Unreachable:
    host = urlsplit(url).netloc
    return Unreachable(
        f"cannot fetch {url}",
        f"{host} does not answer ({_reason(error)})",
        "look at the network or the proxy settings, or give the sources with --source",
    )


def _not_written(part: Path, error: OSError) -> ProvisioningError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        part.unlink(missing_ok=True)  # it is what fills the disk
        reason += ", what was fetched is deleted"
    return HostFailed(f"cannot write {part}", reason, MAKE_ROOM)


def _reason(error: Exception) -> str:
    """The innermost cause in a few words; requests nests them three deep."""
    while True:
        inner = getattr(error, "reason", None) or next(
            (arg for arg in error.args if isinstance(arg, Exception)), None
        )
        if not isinstance(inner, Exception):
            return str(error).rpartition(": ")[2] or type(error).__name__
        error = inner

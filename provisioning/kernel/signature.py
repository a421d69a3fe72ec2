"""Whether a tarball is what a named person signed: gpgv with a pinned keyring."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from provisioning import commands
from provisioning.errors import CommandFailed, DownloadFailed
from provisioning.kernel import versions

#: How to print a compressed tar's plain bytes; kernel.org signs those.
DECOMPRESSORS: dict[str, list[str]] = {
    ".tar.xz": ["xz", "-dc"],
    ".tar.gz": ["gzip", "-dc"],
    ".tar.bz2": ["bzip2", "-dc"],
    ".tar.zst": ["zstd", "-dc"],
    ".tar": ["cat"],
}


def kind_of(name: str) -> str:
    """How a tarball's name ends, one of DECOMPRESSORS; empty if we cannot check such a file."""
    return next((end for end in DECOMPRESSORS if name.endswith(end)), "")


def name_for(tarball: str) -> str:
    """What its detached signature is called beside it, as on kernel.org: linux-5.4.tar.sign."""
    return tarball.removesuffix(kind_of(tarball)) + ".tar.sign"


def verify(
    tarball: Path,
    signature: Path,
    signers: Collection[str],
    *,
    keyring: Path | None = None,
) -> str:
    """The fingerprint of the signer; DownloadFailed unless one of ``signers`` signed it.

    ``signature`` is detached and over the *uncompressed* tar, as on kernel.org.
    """
    ring = keyring or versions.KEYRING
    gpgv = commands.which_or_hint("gpgv", "gpgv")
    checker: list[str | Path] = [gpgv, "--status-fd", "1", "--keyring", ring, signature, "-"]
    unpack: list[str | Path] = [*DECOMPRESSORS[kind_of(tarball.name)], str(tarball)]
    try:
        status = commands.pipe(unpack, checker).stdout
    except CommandFailed as error:
        raise _bad(tarball, error.why or error.what) from None
    good = {
        word
        for line in status.splitlines()
        if line.startswith("[GNUPG:] VALIDSIG ")
        for word in (line.split()[2], line.split()[-1])  # the key that signed, and its primary
    }
    for signer in signers:
        if signer in good:
            return signer
    raise _bad(tarball, f"it is signed, but by {', '.join(sorted(good)) or 'nobody known'}")


def _bad(tarball: Path, why: str) -> DownloadFailed:
    return DownloadFailed(
        f"the signature of {tarball.name} is not good",
        why,
        "the file is not used; fetch it again or take another mirror",
    )

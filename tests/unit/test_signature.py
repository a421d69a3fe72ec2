"""Signatures over the uncompressed tar, with keys made for the test."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioning.config import SERIES
from provisioning.errors import DownloadFailed
from provisioning.kernel import signature, versions

pytestmark = pytest.mark.skipif(
    not (shutil.which("gpg") and shutil.which("gpgv")), reason="needs gpg and gpgv"
)


@dataclass
class Signed:
    """A tarball, its signature, the keyring and the signer's fingerprint."""

    tarball: Path
    sign: Path
    keyring: Path
    fingerprint: str


def gpg(home: Path, *words: str | Path) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def signed() -> Iterator[Signed]:
    # A short path: gpg-agent's socket has no room for a long one.
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        folder = Path(place)
        home = folder / "home"
        home.mkdir(mode=0o700)
        gpg(home, "--quick-generate-key", "Test <test@gs-oom.invalid>", "ed25519", "sign")
        listing = gpg(home, "--list-keys", "--with-colons")
        fingerprint = next(
            line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")
        )
        plain = folder / "linux.tar"
        plain.write_bytes(os.urandom(100_000))
        gpg(home, "--detach-sign", "--output", folder / "linux.tar.sign", plain)
        ring = folder / "ring.gpg"
        gpg(home, "--export", "--output", ring)
        tarball = folder / "linux.tar.xz"
        tarball.write_bytes(lzma.compress(plain.read_bytes()))
        yield Signed(tarball, folder / "linux.tar.sign", ring, fingerprint)
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def verify(signed: Signed, tarball: Path, *signers: str) -> str:
    return signature.verify(tarball, signed.sign, signers, keyring=signed.keyring)


def test_a_good_signature_names_its_signer(signed: Signed) -> None:
    assert verify(signed, signed.tarball, signed.fingerprint) == signed.fingerprint


def test_a_changed_tarball_is_refused(signed: Signed, tmp_path: Path) -> None:
    changed = tmp_path / "linux.tar.xz"
    changed.write_bytes(lzma.compress(lzma.decompress(signed.tarball.read_bytes()) + b"!"))
    with pytest.raises(DownloadFailed, match="not good") as caught:
        verify(signed, changed, signed.fingerprint)
    assert caught.value.exit_code == 6


def test_other_compressions(signed: Signed, tmp_path: Path) -> None:
    """As kernel.org has them: the same signature over the same plain tar."""
    plain = lzma.decompress(signed.tarball.read_bytes())
    for kind, compress in ((".tar.bz2", bz2.compress), (".tar.gz", gzip.compress), (".tar", bytes)):
        other = tmp_path / f"linux{kind}"
        other.write_bytes(compress(plain))
        assert verify(signed, other, signed.fingerprint) == signed.fingerprint


def test_somebody_else_is_refused(signed: Signed) -> None:
    with pytest.raises(DownloadFailed, match="signed, but by"):
        verify(signed, signed.tarball, "0" * 40)


def test_an_unknown_key_is_refused(signed: Signed) -> None:
    with pytest.raises(DownloadFailed, match="not good"):
        signature.verify(signed.tarball, signed.sign, [signed.fingerprint])


def test_a_truncated_tarball_is_refused(signed: Signed, tmp_path: Path) -> None:
    short = tmp_path / "linux.tar.xz"
    short.write_bytes(signed.tarball.read_bytes()[:-5000])
    with pytest.raises(DownloadFailed, match="not good"):
        verify(signed, short, signed.fingerprint)


def test_the_pinned_keyring_has_every_declared_signer() -> None:
    listing = subprocess.run(
        ["gpg", "--show-keys", "--with-colons", versions.KEYRING],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    known = {line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")}
    for name in SERIES:
        assert set(versions.series(name).signers) <= known

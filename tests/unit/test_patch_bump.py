"""Moving a series to another release, from a loopback mirror with keys made for the test."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provisioning import care
from provisioning.errors import DownloadFailed, PatchConflict, ProvisioningError, UsageError
from provisioning.frontend import Request
from provisioning.kernel import versions
from tests.unit.patch_support import CHANGE_10, LINES, Bench, bench, patch_text

__all__ = ["bench"]

pytestmark = pytest.mark.skipif(
    not (shutil.which("gpg") and shutil.which("gpgv")), reason="needs gpg and gpgv"
)


def gpg(home: Path, *words: str | Path) -> str:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Quiet(SimpleHTTPRequestHandler):
    """Tells nobody what was asked for."""

    def log_message(self, *_: object) -> None:
        pass


class Mirror:
    """A directory of releases, signed with a key of its own, and its address."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url, self.home = folder, url, folder / "home"
        self.home.mkdir(mode=0o700)
        gpg(self.home, "--quick-generate-key", "Test <test@gs-oom.invalid>", "ed25519", "sign")
        rows = gpg(self.home, "--list-keys", "--with-colons").splitlines()
        self.fingerprint = next(row.split(":")[9] for row in rows if row.startswith("fpr:"))
        self.ring = folder / "ring.gpg"
        gpg(self.home, "--export", "--output", self.ring)

    def release(self, number: str, lines: list[str] = LINES) -> Path:
        """Publish 5.4.<number>, with its signature."""
        tree = self.folder / f"linux-5.4.{number}"
        (tree / "mm").mkdir(parents=True)
        (tree / "Makefile").write_text(f"VERSION = 5\nPATCHLEVEL = 4\nSUBLEVEL = {number}\n")
        (tree / "mm/file.c").write_text("".join(lines))
        tar = self.folder / f"{tree.name}.tar"
        subprocess.run(["tar", "-cf", tar, "-C", self.folder, tree.name], check=True)
        gpg(self.home, "--detach-sign", "--output", self.folder / f"{tar.name}.sign", tar)
        subprocess.run(["xz", "-0", tar], check=True)
        return tar.with_name(tar.name + ".xz")


@pytest.fixture
def mirror(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    bench.give(one=patch_text(CHANGE_10))
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        handler = functools.partial(Quiet, directory=place)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
            threading.Thread(target=http.serve_forever, daemon=True).start()
            made = Mirror(Path(place), f"http://127.0.0.1:{http.server_address[1]}/")
            text = (bench.ours / "kernels.toml").read_text()
            text = text.replace("647F28654894E3BD457199BE38DBBDC86092693E", made.fingerprint)
            (bench.ours / "kernels.toml").write_text(text)
            monkeypatch.setattr(versions, "KEYRING", made.ring)
            versions._declared.cache_clear()
            yield made
            http.shutdown()
            subprocess.run(["gpgconf", "--homedir", made.home, "--kill", "all"], check=False)


def bump(mirror: Mirror, release: str, source: str = "", dry_run: bool = False) -> int:
    return care.bump(Request("5.4", source or mirror.url), release, dry_run=dry_run)


def test_a_good_release_is_declared(
    mirror: Mirror, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    tarball = mirror.release("999")
    sha256 = hashlib.sha256(tarball.read_bytes()).hexdigest()
    before = (bench.ours / "kernels.toml").read_text()
    assert bump(mirror, "5.4.999", dry_run=True) == 0
    assert (bench.ours / "kernels.toml").read_text() == before
    assert bump(mirror, "5.4.999") == 0
    assert f"5.4.286 -> 5.4.999, sha256 {sha256}" in capsys.readouterr().out
    old = versions.tomllib.loads(before)["series"]["5.4"]
    after = (bench.ours / "kernels.toml").read_text()
    wanted = before.replace('release = "5.4.286"', 'release = "5.4.999"')
    wanted = wanted.replace(old["tarball"], tarball.name).replace(old["sha256"], sha256)
    assert after == wanted, "only three lines change"
    assert versions.series("5.4").release == "5.4.999"


def test_a_conflict_names_the_patch_and_writes_nothing(mirror: Mirror, bench: Bench) -> None:
    mirror.release("998", [line.replace("line 10", "LINE 10") for line in LINES])
    before = (bench.ours / "kernels.toml").read_text()
    with pytest.raises(PatchConflict, match=r"one\.patch does not apply: mm/file\.c hunk 1"):
        bump(mirror, "5.4.998")
    assert (bench.ours / "kernels.toml").read_text() == before


@pytest.mark.parametrize("spoil", ["content", "signature", "signer"])
def test_what_is_not_signed_is_not_taken(mirror: Mirror, bench: Bench, spoil: str) -> None:
    tarball = mirror.release("997")
    sign = mirror.folder / "linux-5.4.997.tar.sign"
    if spoil == "content":
        shutil.copy(mirror.release("996"), tarball)
    elif spoil == "signature":
        sign.unlink()
    else:
        text = (bench.ours / "kernels.toml").read_text()
        (bench.ours / "kernels.toml").write_text(text.replace(mirror.fingerprint, "0" * 40))
        versions._declared.cache_clear()
    before = (bench.ours / "kernels.toml").read_text()
    with pytest.raises(DownloadFailed, match="not known to be genuine"):
        bump(mirror, "5.4.997")
    assert (bench.ours / "kernels.toml").read_text() == before


def test_a_release_that_is_not_there(mirror: Mirror) -> None:
    with pytest.raises(ProvisioningError, match="404") as caught:
        bump(mirror, "5.4.995")
    assert caught.value.exit_code == 6


def test_a_tarball_of_ones_own(mirror: Mirror) -> None:
    tarball = mirror.release("994")
    with pytest.raises(UsageError, match="is not named as on"):
        bump(mirror, "5.4.993", str(tarball))
    assert bump(mirror, "5.4.994", str(tarball)) == 0
    assert versions.series("5.4").release == "5.4.994"


def test_a_tarball_with_another_release_in_it(mirror: Mirror, tmp_path: Path) -> None:
    lying = tmp_path / "linux-5.4.990.tar.xz"
    shutil.copy(mirror.release("991"), lying)
    with pytest.raises(UsageError, match=r"is Linux 5\.4\.991, not 5\.4\.990"):
        bump(mirror, "5.4.990", str(lying))

"""Where sources come from, with little trees: directory, tarball, URL; and the way out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioning import frontend
from provisioning.errors import DownloadFailed, UsageError
from provisioning.kernel import build, source
from provisioning.kernel.download import Unreachable

MAKEFILE = "# SPDX\nVERSION = 5\nPATCHLEVEL = 4\nSUBLEVEL = 7\nEXTRAVERSION =\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "linux-5.4.7"
    (made / "mm").mkdir(parents=True)
    (made / "Makefile").write_text(MAKEFILE)
    (made / "mm/oom_kill.c").write_text("int oom;\n")
    (made / ".git").mkdir()
    return made


def listing(tree: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in tree.rglob("*")}


def test_a_directory_is_copied_and_not_touched(tree: Path) -> None:
    before = listing(tree)
    copy = source.locate("5.4", str(tree)).tree()
    (copy / "mm/oom_kill.c").write_text("changed\n")
    assert listing(tree) == before
    assert source.release_of(copy) == "5.4.7"
    assert not (copy / ".git").exists()


def test_a_damaged_copy_is_made_again(tree: Path) -> None:
    copy = source.locate("5.4", str(tree)).tree()
    (copy / "mm/oom_kill.c").write_text("changed\n")
    assert source.locate("5.4", str(tree)).tree() == copy
    assert (copy / "mm/oom_kill.c").read_text() == "int oom;\n"


def test_a_changed_directory_has_another_key(tree: Path) -> None:
    before = source.locate("5.4", str(tree)).key
    assert source.locate("5.4", str(tree)).key == before
    (tree / "mm/oom_kill.c").write_text("int oom, more;\n")
    assert source.locate("5.4", str(tree)).key != before


def test_a_tree_of_another_series_is_refused(tree: Path) -> None:
    with pytest.raises(UsageError, match=r"is Linux 5\.4\.7, not of the series 6\.1"):
        source.locate("6.1", str(tree))


def test_a_tarball_is_unpacked(tree: Path, tmp_path: Path) -> None:
    tarball = tmp_path / "some.tar.gz"
    subprocess.run(["tar", "-czf", tarball, "-C", tree.parent, tree.name], check=True)
    found = source.locate("5.4", str(tarball))
    assert (found.tree() / "mm/oom_kill.c").read_text() == "int oom;\n"
    assert found.cached()


def test_a_directory_goes_to_another_machine(tree: Path) -> None:
    """As a tarball, from which the same sources come, with the links that are in them."""
    (tree / "mm/link").symlink_to("../mm/oom_kill.c")
    packed = source.tarball("5.4", str(tree))
    assert packed and packed.name == "linux-5.4.7.tar.gz"
    assert source.tarball("5.4", str(packed)) == packed
    copy = source.locate("5.4", str(packed)).tree()
    assert (copy / "mm/oom_kill.c").read_text() == "int oom;\n"
    assert str((copy / "mm/link").readlink()) == "../mm/oom_kill.c"


def test_what_another_machine_fetches_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debian").mkdir()
    for spec in ("debian", "kernel.org", "https://example.org/linux-5.4.7.tar.xz"):
        assert source.tarball("5.4", spec) is None


def test_a_truncated_tarball_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    tarball = tmp_path / "some.tar.gz"
    subprocess.run(["tar", "-czf", tarball, "-C", tree.parent, tree.name], check=True)
    tarball.write_bytes(tarball.read_bytes()[:-40])
    found = source.locate("5.4", str(tarball))
    with pytest.raises(DownloadFailed, match="cannot unpack"):
        found.tree()
    assert not found.cached()
    assert not list((tmp_path / "cache/kernel-source").glob("*.part"))


@pytest.mark.parametrize("spec", ["/no/such/place", "kernel.orgg"])
def test_what_is_not_there_is_a_usage_error(spec: str) -> None:
    with pytest.raises(UsageError, match="no kernel sources at") as caught:
        source.locate("5.4", spec)
    assert caught.value.exit_code == 2


def test_debian_has_no_5_4() -> None:
    with pytest.raises(DownloadFailed, match="does not package") as caught:
        source.locate("5.4", "debian")
    assert caught.value.exit_code == 6


def test_an_unreachable_mirror_is_exit_6_with_the_way_out() -> None:
    found = source.locate("5.4", "http://127.0.0.1:1/linux-5.4.7.tar.xz")
    with pytest.raises(Unreachable, match="--source"):
        found.tree()


@pytest.fixture
def no_kernel_org(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """kernel.org does not answer; what was asked for is recorded."""
    asked: list[tuple[str, str]] = []
    real = source.locate

    def locate(series: str, spec: str = source.DEFAULT) -> source.Source:
        asked.append((series, spec))
        if spec == "debian":
            return real("5.4", "http://127.0.0.1:1/")  # never fetched here
        return real(series, "http://127.0.0.1:1/")

    monkeypatch.setattr(source, "locate", locate)
    monkeypatch.setattr(build, "built", lambda plan: None)
    return asked


@pytest.mark.parametrize(
    ("kernel", "then"), [("", "6.12"), ("5.4", "6.12"), ("5.10", "6.12"), ("6.1", "6.1")]
)
def test_without_kernel_org_debian_is_taken_and_it_is_said(
    kernel: str, then: str, no_kernel_org: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    frontend.available_sources(frontend.Request(kernel))
    assert no_kernel_org[-1] == (then, "debian")
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert f"going on with Linux {then}" in said


def test_sources_that_were_named_are_never_replaced(
    no_kernel_org: list[tuple[str, str]],
) -> None:
    with pytest.raises(Unreachable):
        frontend.available_sources(frontend.Request("6.1", "kernel.org")).tree()
    assert ("6.1", "debian") not in no_kernel_org


def test_without_any_package_it_is_exit_6(
    no_kernel_org: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "packaged_now", lambda name: False)
    with pytest.raises(Unreachable, match="--source") as caught:
        frontend.available_sources(frontend.Request())
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", ["linux-5.4.7.tgz", "linux-5.4.7.zip", "linux-5.4.7", "?x=1"])
def test_a_url_of_a_kind_that_cannot_be_checked_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="cannot take") as caught:
        source.locate("5.4", f"http://127.0.0.1:1/{name}")
    assert "--source FILE" in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "tar.xz", "tar.gz", "tar.bz2", "tar.zst"])
def test_a_signature_is_named_after_the_plain_tar(kind: str) -> None:
    url = f"http://127.0.0.1:1/a.tar.d/linux-5.4.7.{kind}"
    assert source._sign_url(url) == "http://127.0.0.1:1/a.tar.d/linux-5.4.7.tar.sign"

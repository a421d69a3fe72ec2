"""Applying patches: at fuzz 0, all or nothing, twice as once, and written anew the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioning.errors import PatchConflict
from provisioning.kernel import patches
from tests.unit.patch_support import (
    CHANGE_10,
    CHANGE_20,
    HEAD,
    LINES,
    Bench,
    bench,
    hunk,
    patch_text,
)

__all__ = ["bench"]


def test_applies_patches_in_order_and_the_overlay(bench: Bench) -> None:
    again = hunk(7, "changed 10\n", "twice 10\n", [*LINES[6:9], *LINES[10:13]])
    bench.give(one=patch_text(CHANGE_10), two=patch_text(again))
    assert bench.prepare() == ["mm/file.c", "mm/ours.c"]
    assert "twice 10\n" in bench.text()
    assert bench.text("mm/ours.c") == "int ours;\n"
    assert (bench.pristine / "mm/file.c").read_text() == "".join(LINES)


def test_twice_is_once_and_keeps_time_stamps(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10))
    bench.prepare()
    stamp = (bench.tree / "mm/file.c").stat().st_mtime_ns
    assert bench.prepare() == []
    assert (bench.tree / "mm/file.c").stat().st_mtime_ns == stamp


def test_a_changed_patch_takes_the_old_one_back(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10))
    bench.prepare()
    bench.give(one=patch_text(CHANGE_20))
    assert bench.prepare() == ["mm/file.c"]
    assert "line 10\n" in bench.text()
    assert "changed 20\n" in bench.text()


def test_what_we_no_longer_have_goes_away(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10))
    bench.prepare()
    (bench.ours / "files/mm/ours.c").unlink()
    bench.give()
    bench.prepare()
    assert bench.text() == "".join(LINES)
    assert not (bench.tree / "mm/ours.c").exists()


def test_an_interrupted_run_is_continued(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.give(one=patch_text(CHANGE_10))
    real = patches._replace

    def stop(path: Path, content: bytes | None) -> None:
        if path.name == "ours.c":
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(patches, "_replace", stop)
    with pytest.raises(KeyboardInterrupt):
        bench.prepare()
    monkeypatch.setattr(patches, "_replace", real)
    assert bench.prepare() == ["mm/ours.c"]
    bench.give()
    assert bench.prepare() == ["mm/file.c"]


def test_an_offset_is_no_fuzz(bench: Bench) -> None:
    for tree in (bench.pristine, bench.tree):
        (tree / "mm/file.c").write_text("more\n" * 5 + "".join(LINES))
    bench.give(one=patch_text(CHANGE_10))
    bench.prepare()
    assert "changed 10\n" in bench.text()


def test_a_conflict_names_patch_file_and_hunk_and_changes_nothing(bench: Bench) -> None:
    other = [line.replace("line 18", "LINE 18") for line in LINES]  # context only: needs fuzz
    for tree in (bench.pristine, bench.tree):
        (tree / "mm/file.c").write_text("".join(other))
    bench.give(good=patch_text(CHANGE_10), bad=patch_text(CHANGE_20))
    with pytest.raises(PatchConflict) as caught:
        bench.prepare()
    assert caught.value.exit_code == 4
    for word in ("bad.patch", "mm/file.c", "hunk 1"):
        assert word in str(caught.value)
    assert bench.text() == "".join(other)
    assert not list(bench.tree.rglob("*.rej")) and not list(bench.tree.rglob("*.orig"))


def test_a_missing_file_is_a_conflict(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10, name="mm/other.c"))
    with pytest.raises(PatchConflict, match=r"one\.patch"):
        bench.prepare()


def test_sources_that_have_a_patch_already_are_told_from_a_conflict(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.give(one=patch_text(CHANGE_10))
    bench.prepare()
    bench.pristine, bench.record = bench.tree, bench.record.with_name("fresh.json")
    assert bench.prepare() == []
    assert "one.patch is in these sources already" in capsys.readouterr().err


def test_a_named_patch_that_is_not_there(bench: Bench) -> None:
    (bench.ours / "series/5.4").write_text("none.patch\n")
    with pytest.raises(PatchConflict, match=r"none\.patch"):
        bench.prepare()


def test_refresh_writes_the_same_again(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10), two=patch_text(CHANGE_20))
    patches.refresh(bench.pristine, "5.4", line_numbers=True)
    committed = (bench.ours / "patches/one.patch").read_text()
    assert committed.startswith(HEAD)
    assert patches.refresh(bench.pristine, "5.4", line_numbers=True) == []
    assert [entry.stale for entry in patches.check(bench.pristine, "5.4")] == [False, False]


def test_refresh_leaves_line_numbers_alone_unless_asked(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10))
    patches.refresh(bench.pristine, "5.4", line_numbers=True)
    (bench.pristine / "mm/file.c").write_text("more\n" + "".join(LINES))
    (entry,) = patches.check(bench.pristine, "5.4")
    assert (entry.offset, entry.stale) == (True, False)
    assert patches.refresh(bench.pristine, "5.4", line_numbers=False) == []
    assert patches.refresh(bench.pristine, "5.4", line_numbers=True) == ["one.patch"]


def test_exported_patches_can_be_mailed(bench: Bench, tmp_path: Path) -> None:
    bench.give(one=patch_text(CHANGE_10), two=patch_text(CHANGE_20))
    written = patches.export(bench.pristine, "5.4", tmp_path / "out")
    assert len(written) == 3
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", "-C", bench.pristine]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "base"], ["am", "-q", *written]):
        subprocess.run([*git, *words], check=True)
    assert "changed 20\n" in (bench.pristine / "mm/file.c").read_text()
    assert (bench.pristine / "mm/ours.c").read_text() == "int ours;\n"


def test_a_tree_with_something_of_ours_is_not_unpatched(bench: Bench) -> None:
    bench.give(one=patch_text(CHANGE_10))
    patches.prove_unpatched(bench.pristine)
    bench.prepare()
    with pytest.raises(PatchConflict, match="is no unpatched tree"):
        patches.prove_unpatched(bench.tree)

"""A series as commits and back: nothing changes by itself, and every change finds its place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from provisioning.errors import UsageError
from provisioning.kernel import editing, patches, versions
from provisioning.kernel.source import Source
from tests.unit.patch_support import CHANGE_10, CHANGE_20, Bench, bench, patch_text

__all__ = ["bench"]

MAKEFILE = "VERSION = 5\nPATCHLEVEL = 4\nSUBLEVEL = 7\n"
HEAD = (
    f"From {'0' * 40} Mon Sep 17 00:00:00 2001\n"
    "From: A <a@b.invalid>\n"
    "Date: Sun, 22 Nov 2026 12:00:00 +0000\n"
    "Subject: [PATCH] mm: {name}\n\n"
    "Why {name}.\n\nSigned-off-by: A <a@b.invalid>\n---\n"
)


class Desk:
    """A working tree of a little series of two patches, made as the task makes it."""

    def __init__(self, bench: Bench, folder: Path):
        self.bench, self.tree = bench, folder / "edit"
        (bench.pristine / "Makefile").write_text(MAKEFILE)
        # As Debian's sources have it: nothing at the top is to be looked at.
        (bench.pristine / ".gitignore").write_text("*.o\n/*\n!/debian/\n")
        for series in ("5.10", "6.1", "6.12"):
            (bench.ours / "series" / series).write_text("# theirs\n0002-two.patch\n")
        text = {name: HEAD.format(name=name) for name in ("one", "two")}
        bench.give(
            **{
                "0001-one": text["one"]
                + patch_text(CHANGE_10).partition("---\n")[2]
                + "-- \ngs\n\n",
                "0002-two": text["two"]
                + patch_text(CHANGE_20).partition("---\n")[2]
                + "-- \ngs\n\n",
            }
        )
        patches.refresh(bench.pristine, "5.4", line_numbers=True)
        self.before = self.content()
        source = Source(versions.series("5.4"), "a little tree", "little", self._unpack)
        assert editing.begin(source, "5.4", self.tree)
        assert not editing.begin(source, "5.4", self.tree)  # as it was left

    def _unpack(self, target: Path) -> None:
        shutil.copytree(self.bench.pristine, target)

    def content(self) -> dict[str, str]:
        files = (path for path in self.bench.ours.rglob("*") if path.is_file())
        return {str(path.relative_to(self.bench.ours)): path.read_text() for path in files}

    def git(self, *words: str) -> str:
        command = ["git", "-C", str(self.tree), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def replace(self, old: str, new: str, name: str = "mm/file.c") -> None:
        file = self.tree / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def done(self) -> list[str]:
        changes = editing.take_back(self.tree, "5.4")
        editing.write(changes)
        return changes.names()


@pytest.fixture
def desk(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))
    return Desk(bench, tmp_path)


def test_each_patch_is_a_commit(desk: Desk) -> None:
    assert desk.git("log", "--format=%s|%an|%aI", "gs-overlay..").splitlines() == [
        "mm: two|A|2026-11-22T12:00:00+00:00",
        "mm: one|A|2026-11-22T12:00:00+00:00",
    ]
    assert (desk.tree / "mm/ours.c").read_text() == "int ours;\n"
    assert "changed 20\n" in (desk.tree / "mm/file.c").read_text()
    assert "changed" not in (desk.bench.pristine / "mm/file.c").read_text()


def test_unchanged_it_changes_nothing(desk: Desk) -> None:
    assert desk.done() == []
    assert desk.content() == desk.before


def test_an_amended_commit_is_its_patch(desk: Desk) -> None:
    desk.replace("changed 20\n", "changed more 20\n")
    desk.git("commit", "-qa", "--amend", "--no-edit")
    assert desk.done() == ["patches/0002-two.patch"]
    now = desk.content()["patches/0002-two.patch"]
    before = desk.before["patches/0002-two.patch"]
    assert now == before.replace("+changed 20", "+changed more 20")


def test_a_changed_message_is_in_the_patch(desk: Desk) -> None:
    message = desk.git("log", "-1", "--format=%B").replace("Why two.", "Because of two.")
    desk.git("commit", "-q", "--amend", "-m", message)
    assert desk.done() == ["patches/0002-two.patch"]
    before = desk.before["patches/0002-two.patch"]
    assert desk.content()["patches/0002-two.patch"] == before.replace("Why two", "Because of two")


def test_an_earlier_patch_changed_by_a_rebase(desk: Desk) -> None:
    desk.replace("changed 10\n", "fixed 10\n")
    first = desk.git("rev-list", "gs-overlay..").split()[-1]
    desk.git("commit", "-qa", f"--fixup={first}")
    desk.git("-c", "sequence.editor=true", "rebase", "-q", "-i", "--autosquash", "gs-overlay")
    assert desk.done() == ["patches/0001-one.patch"]
    assert "+fixed 10\n" in desk.content()["patches/0001-one.patch"]


def test_a_new_commit_is_a_new_patch_and_new_files_are_overlay(desk: Desk) -> None:
    desk.replace("line 28\n", "changed 28\n")
    (desk.tree / "mm/more.c").write_text("int more;\n")
    desk.replace("int ours;", "long ours;", "mm/ours.c")
    desk.git("add", "-A")
    desk.git("commit", "-qm", "mm/file: change 28\n\nWhy.\n\nSigned-off-by: A <a@b.invalid>")
    assert desk.done() == [
        "files/mm/more.c",
        "files/mm/ours.c",
        "patches/0003-mm-file-change-28.patch",
        "series/5.4",
    ]
    now = desk.content()
    assert now["series/5.4"].splitlines()[1:] == [
        "0001-one.patch",
        "0002-two.patch",
        "0003-mm-file-change-28.patch",
    ]
    assert "more.c" not in now["patches/0003-mm-file-change-28.patch"]
    # It is a patch like the others: it applies, and refresh would write the same.
    found = patches.check(desk.bench.pristine, "5.4")
    assert [(entry.stale, entry.offset) for entry in found] == [(False, False)] * 3


def test_a_dropped_commit_leaves_the_series(desk: Desk) -> None:
    """Its file goes if no other series has it."""
    desk.git("reset", "-q", "--hard", "gs-overlay")
    assert desk.done() == ["patches/0001-one.patch", "series/5.4"]
    assert "patches/0002-two.patch" in desk.content(), "6.1 has it too"


def test_a_removed_overlay_file_is_removed(desk: Desk) -> None:
    desk.git("rm", "-q", "mm/ours.c")
    desk.git("commit", "-qm", "take it away")
    assert desk.done() == ["files/mm/ours.c"]
    assert "files/mm/ours.c" not in desk.content()


def test_what_is_not_committed_is_not_lost(desk: Desk) -> None:
    desk.replace("changed 20\n", "half done\n")
    with pytest.raises(UsageError, match=r"not committed.*mm/file\.c"):
        desk.done()
    (desk.tree / "mm/file.c").write_text("x")
    desk.git("checkout", "-q", "--", ".")
    (desk.tree / "mm/new.c").touch()
    with pytest.raises(UsageError, match="not committed"):
        desk.done()
    assert desk.content() == desk.before


def test_a_checkout_that_changed_meanwhile_is_not_overwritten(desk: Desk) -> None:
    (desk.bench.ours / "files/mm/ours.c").write_text("int theirs;\n")
    with pytest.raises(UsageError, match="have changed since"):
        desk.done()


def test_two_commits_for_one_patch(desk: Desk) -> None:
    desk.replace("line 28\n", "changed 28\n")
    desk.git("commit", "-qam", "again\n\nGs-Patch: 0002-two.patch")
    with pytest.raises(UsageError, match=r"two commits .* are 0002-two\.patch"):
        desk.done()


def test_only_trees_of_ours_are_removed(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(UsageError, match="no working tree"):
        editing.drop(tmp_path / "precious")
    editing.drop(desk.tree)
    assert not desk.tree.exists()

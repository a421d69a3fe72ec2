"""A little kernel tree and a patch directory of its own, for the tests of the patch engine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.kernel import patches, versions

HEAD = "From: A <a@b.invalid>\nSubject: [PATCH] test\n\nText.\n---\n"
LINES = [f"line {number}\n" for number in range(1, 31)]


def hunk(at: int, old: str, new: str, context: list[str]) -> str:
    """A one-line change with three lines of context at a line number of one's choice."""
    before, after = context[:3], context[3:]
    body = "".join(f" {line}" for line in before)
    body += f"-{old}+{new}" + "".join(f" {line}" for line in after)
    return f"@@ -{at},7 +{at},7 @@\n{body}"


CHANGE_10 = hunk(7, LINES[9], "changed 10\n", [*LINES[6:9], *LINES[10:13]])
CHANGE_20 = hunk(17, LINES[19], "changed 20\n", [*LINES[16:19], *LINES[20:23]])


def patch_text(*hunks: str, name: str = "mm/file.c") -> str:
    header = f"diff --git a/{name} b/{name}\n--- a/{name}\n+++ b/{name}\n"
    return HEAD + header + "".join(hunks)


class Bench:
    """A little tree, and a patch directory in place of the project's."""

    def __init__(self, folder: Path):
        self.pristine, self.tree = folder / "pristine", folder / "tree"
        self.record, self.ours = folder / "ours.json", folder / "kernel_patches"
        for tree in (self.pristine, self.tree):
            (tree / "mm").mkdir(parents=True)
            (tree / "mm/file.c").write_text("".join(LINES))
        for name in ("patches", "series", "files/mm"):
            (self.ours / name).mkdir(parents=True)
        (self.ours / "files/mm/ours.c").write_text("int ours;\n")
        self.give()

    def give(self, **texts: str) -> None:
        """Make these the patches of the series, in this order."""
        names = [f"{name}.patch" for name in texts]
        (self.ours / "series/5.4").write_text("# comment\n" + "\n".join(names) + "\n")
        for name, text in texts.items():
            (self.ours / "patches" / f"{name}.patch").write_text(text)

    def prepare(self) -> list[str]:
        return patches.prepare(self.pristine, self.tree, "5.4", self.record)

    def text(self, name: str = "mm/file.c") -> str:
        return (self.tree / name).read_text()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """In place of kernel_patches for the length of a test."""
    made = Bench(tmp_path)
    shutil.copy(versions.PATCHES_DIR / "kernels.toml", made.ours)
    monkeypatch.setattr(versions, "PATCHES_DIR", made.ours)
    monkeypatch.setattr(patches, "OVERLAY", made.ours / "files")
    versions._declared.cache_clear()
    yield made
    versions._declared.cache_clear()

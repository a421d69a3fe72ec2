"""Our changes to a kernel tree: the overlay, the hook patches at fuzz 0, and the care of both.

A tree is never patched in place. What our changes make of the touched files is worked out in a
scratch directory from the pristine sources; then the tree's files that differ are replaced. So a
conflict leaves the tree as it was, an interrupted run is simply continued, applying twice changes
nothing, and files that stay the same keep their time stamps, which is what make(1) looks at.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning import cache, commands
from provisioning.errors import BuildFailed, PatchConflict, UsageError
from provisioning.kernel import versions
from provisioning.progress import note

#: New files, copied verbatim.
OVERLAY: Path = versions.PATCHES_DIR / "files"

#: Editors' and tools' leavings that are no part of the overlay.
_LEAVINGS = re.compile(r"(^\.)|~$|\.(o|orig|rej|swp|cmd|pyc)$")

_FILE_LINE = re.compile(r"^(?:---|\+\+\+) [ab]/(\S+)", re.MULTILINE)
_HUNK = re.compile(r"^@@ -\d+(,\d+)? \+\d+(,\d+)? @@.*$", re.MULTILINE)


@dataclass(frozen=True)
class Patch:
    """One hook patch."""

    path: Path

    @property
    def name(self) -> str:
        """Its file name."""
        return self.path.name

    def text(self) -> str:
        """The whole patch, mail header included."""
        return self.path.read_text()

    def files(self) -> list[str]:
        """What it touches, relative to the top of the tree."""
        return sorted(set(_FILE_LINE.findall(self.text())))


@dataclass(frozen=True)
class Result:
    """What our changes make of a tree: path → new content, or None where a file goes away."""

    contents: dict[str, bytes | None]
    already_applied: tuple[str, ...]


def of_series(series: str) -> list[Patch]:
    """The patches of a series in their order (quilt syntax: one name a line, # comments)."""
    listing = versions.series(series).patches
    if not listing.exists():
        raise UsageError(f"there are no patches for the series {series} yet", f"no {listing}")
    lines = (line.partition("#")[0].strip() for line in listing.read_text().splitlines())
    found = [Patch(versions.PATCHES_DIR / "patches" / line) for line in lines if line]
    for patch in found:
        if not patch.path.exists():
            raise PatchConflict(
                f"{patch.name} is named in {listing.name} but is not there",
                hint="add the file or take the line out",
            )
    return found


def overlay() -> dict[str, bytes]:
    """The overlay's files: path in the tree → content."""
    return {
        str(path.relative_to(OVERLAY)): path.read_bytes()
        for path in sorted(OVERLAY.rglob("*"))
        if path.is_file() and not _LEAVINGS.search(path.name)
    }


def digest(series: str) -> str:
    """Changes whenever anything that we put into a tree of this series changes."""
    parts: list[object] = []
    for name, content in overlay().items():
        parts += [name, content]
    for patch in of_series(series):
        parts += [patch.name, patch.path.read_bytes()]
    return cache.key_of(*parts)


def work_out(pristine: Path, series: str) -> Result:
    """What overlay and patches make of ``pristine``, which stays untouched.

    Raises PatchConflict, which names patch, file and hunk.
    """
    patches = of_series(series)
    with _scratch(pristine, patches) as box:
        applied_before = [patch.name for patch in patches if not _apply(patch, box)]
        contents: dict[str, bytes | None] = {
            name: _content(box / name) for patch in patches for name in patch.files()
        }
    contents.update(overlay())
    return Result(contents, tuple(applied_before))


def sync(result: Result, pristine: Path, tree: Path, record: Path) -> list[str]:
    """Make ``tree`` what ``result`` says; the paths that were written or removed.

    ``record`` remembers what we put there, so that what we no longer have is taken back.
    """
    before = set(json.loads(record.read_text())) if record.exists() else set()
    record.write_text(json.dumps(sorted(before | set(result.contents))))
    changed = []
    for name in sorted(before | set(result.contents)):
        wanted = result.contents[name] if name in result.contents else _content(pristine / name)
        if _content(tree / name) != wanted:
            _replace(tree / name, wanted)
            changed.append(name)
    record.write_text(json.dumps(sorted(result.contents)))
    return changed


def prepare(pristine: Path, tree: Path, series: str, record: Path) -> list[str]:
    """Bring a working copy of ``pristine`` to what this checkout has; the changed paths."""
    result = work_out(pristine, series)
    for name in result.already_applied:
        note(f"{name} is in these sources already")
    changed = sync(result, pristine, tree, record)
    _prove(result, tree)
    return changed


def prove_unpatched(tree: Path) -> None:
    """PatchConflict if something of ours is in these sources already."""
    if found := [name for name in overlay() if (tree / name).exists()]:
        raise PatchConflict(
            f"{tree} is no unpatched tree",
            f"{found[0]} is in it already",
            "give sources without our patches (--source)",
        )


@dataclass(frozen=True)
class Checked:
    """What `patches.check` found of one patch on one tree."""

    patch: str
    offset: bool
    stale: bool
    rewritten: str


def check(pristine: Path, series: str) -> list[Checked]:
    """Apply each patch and write it anew: PatchConflict if one does not fit.

    ``stale``: the committed patch differs from the rewritten one in more than line numbers;
    ``offset``: in line numbers only, as is normal on every release but one.
    """
    found = []
    for patch, rewritten in _rewritten(pristine, series):
        old = patch.text()
        found.append(
            Checked(
                patch.name,
                old != rewritten,
                without_numbers(old) != without_numbers(rewritten),
                rewritten,
            )
        )
    return found


def refresh(
    pristine: Path, series: str, *, line_numbers: bool, leave: Collection[str] = ()
) -> list[str]:
    """Write the stale patches of a series anew, but for those named in ``leave``.

    ``line_numbers``: also where only line numbers differ. The names of those that changed.
    """
    changed = []
    for entry in check(pristine, series):
        if entry.patch in leave:
            continue
        if entry.stale or (line_numbers and entry.offset):
            path = versions.PATCHES_DIR / "patches" / entry.patch
            cache.write_whole(path, entry.rewritten)
            changed.append(entry.patch)
    return changed


def export(pristine: Path, series: str, target: Path) -> list[Path]:
    """Everything as mailable patches (`git am`): the overlay first, then each hook."""
    target.mkdir(parents=True, exist_ok=True)
    written = [target / "0000-mm-add-graceful-shutdown.patch"]
    cache.write_whole(written[0], _overlay_patch())
    for number, (patch, rewritten) in enumerate(_rewritten(pristine, series), 1):
        path = target / f"{number:04}-{re.sub(r'^[0-9]+-', '', patch.name)}"
        cache.write_whole(path, rewritten)
        written.append(path)
    return written


def _overlay_patch() -> str:
    head = (
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: gs developers <developers@gs-oom.invalid>\n"
        "Date: Sun, 22 Nov 2026 12:00:00 +0000\n"
        "Subject: [PATCH] mm: add graceful shutdown\n\n"
        "The core, its header and its documentation; the next patches call it.\n\n"
        "Signed-off-by: gs developers <developers@gs-oom.invalid>\n---\n"
    )
    parts = [head]
    for name, content in overlay().items():
        lines = content.decode().splitlines(keepends=True)
        parts.append(f"diff --git a/{name} b/{name}\nnew file mode 100644\n")
        parts += difflib.unified_diff([], lines, "/dev/null", f"b/{name}")
    return "".join(parts)


def apply(patch: Patch, tree: Path) -> None:
    """Apply one patch in a tree of one's own, at fuzz 0; PatchConflict names the hunk."""
    if not _apply(patch, tree):
        raise PatchConflict(f"{patch.name} is in these sources already")


def _rewritten(pristine: Path, series: str) -> Iterator[tuple[Patch, str]]:
    """Each patch with its hunks written anew from what it does to this tree."""
    patches = of_series(series)
    with _scratch(pristine, patches) as box:
        for patch in patches:
            before = {name: _content(box / name) for name in patch.files()}
            if not _apply(patch, box):
                raise PatchConflict(f"{patch.name} is in these sources already")
            text = patch.text()
            head = text.partition("diff --git ")[0]
            _, rule, signature = text.rpartition("\n-- \n")  # as git format-patch ends a mail
            end = f"-- \n{signature}" if rule else ""
            yield patch, head + _diff(before, box, context_of(text)) + end


def context_of(text: str) -> int:
    """Lines of context in a patch: where releases differ close by, one may keep to fewer than 3."""
    leading = [
        next(i for i, line in enumerate(hunk) if line[:1] in "+-")
        for hunk in (part.splitlines()[1:] for part in re.split(r"^(?=@@ )", text, flags=re.M)[1:])
    ]
    return max(leading)


def _diff(before: dict[str, bytes | None], box: Path, context: int) -> str:
    """`git diff` of a few files, without the index lines, which change with every release."""
    git = commands.which_or_hint("git", "git")
    with tempfile.TemporaryDirectory(prefix="gs-diff-") as place:
        for name, old in before.items():
            for side, content in (("a", old), ("b", _content(box / name))):
                if content is not None:
                    _replace(Path(place, side, name), content)
        done = commands.run(
            [git, "diff", "--no-index", "--no-prefix", "--no-color", f"-U{context}", "a", "b"],
            cwd=Path(place),
            env={"GIT_CEILING_DIRECTORIES": place, "GIT_CONFIG_NOSYSTEM": "1", "HOME": place},
            check=False,  # 1 says that there are differences
        )
    if done.returncode not in (0, 1):
        raise BuildFailed("git diff failed", done.stderr.strip())
    return re.sub(r"^index [0-9a-f]+\.\.[0-9a-f]+.*\n", "", done.stdout, flags=re.MULTILINE)


def without_numbers(text: str) -> str:
    """A patch without its line numbers, which move with every release."""
    return _HUNK.sub(r"@@\1\2", text)


@contextmanager
def _scratch(pristine: Path, patches: Sequence[Patch]) -> Iterator[Path]:
    """A directory with pristine copies of the files that the patches touch."""
    with tempfile.TemporaryDirectory(prefix="gs-patch-") as place:
        for name in {name for patch in patches for name in patch.files()}:
            content = _content(pristine / name)
            if content is not None:
                _replace(Path(place, name), content)
        yield Path(place)


def _apply(patch: Patch, box: Path) -> bool:
    """Apply one patch; False if it is in already. Tries first, so nothing is half applied."""
    forward = _patch_tool(patch, box, "--dry-run")
    if forward.returncode != 0:
        if _patch_tool(patch, box, "--dry-run", "--reverse").returncode == 0:
            return False
        raise _conflict(patch, forward.stdout)
    before = {name: _content(box / name) for name in patch.files()}
    _patch_tool(patch, box)
    # patch(1) and git apply both have ways to do nothing and to say that all is well.
    idle = [name for name, content in before.items() if _content(box / name) == content]
    if idle:
        raise PatchConflict(f"{patch.name} left {idle[0]} as it was", "no change was made")
    return True


def _patch_tool(patch: Patch, box: Path, *options: str) -> commands.Completed:
    tool = commands.which_or_hint("patch", "patch")
    fixed = ["-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch", "--reject-file=-"]
    return commands.run([tool, *fixed, *options, "-i", patch.path], cwd=box, check=False)


def _conflict(patch: Patch, output: str) -> PatchConflict:
    where, hunks = "", []
    for line in output.splitlines():
        if match := re.match(r"(?:checking|patching) file '?([^']+)'?$", line):
            where = match[1]
        elif match := re.match(r"Hunk #(\d+) (?:FAILED|ignored) ?(?:at (\d+))?", line):
            place = f" (line {match[2]})" if match[2] else ""
            hunks.append(f"{where} hunk {match[1]}{place}")
    missing = "a file that it changes is not there" if "can't find file" in output else ""
    return PatchConflict(
        f"{patch.name} does not apply",
        missing or ", ".join(hunks) or output.strip(),
        "nothing was changed; mend the patch for this release (patches.refresh) and try again",
    )


def _prove(result: Result, tree: Path) -> None:
    """The marker check: what should be in the tree is there."""
    for name, wanted in result.contents.items():
        if _content(tree / name) != wanted:
            raise PatchConflict(f"{name} in {tree} is not what our changes make of it")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _replace(path: Path, content: bytes | None) -> None:
    """Write by renaming: working copies share unchanged files with the pristine tree."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".gs-part")
    part.write_bytes(content)
    if path.exists():
        shutil.copymode(path, part)
    part.replace(path)

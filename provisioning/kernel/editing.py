"""A working tree of a series where each patch is a git commit, and the way back into the series.

Files that the pristine sources do not have belong to the overlay, changes to files that they have
to the patches: so it does not matter in which commit an overlay's file was changed. A commit knows
its patch by a trailer, which amending and rebasing keep; one without it becomes a new patch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from provisioning import cache, commands, config
from provisioning.errors import PatchConflict, UsageError
from provisioning.kernel import patches, versions
from provisioning.kernel.source import Source, release_of
from provisioning.progress import step

#: Names the commits' patch file in their messages; never in the patches.
TRAILER = "Gs-Patch: "

#: The tags of the two commits below the patches.
PRISTINE, OVERLAY = "gs-pristine", "gs-overlay"

#: Ours in the tree's .git: what was taken out, to compare with when it is taken back.
RECORD = "gs-edit.json"

_HEAD = re.compile(
    r"^From (?P<id>\S+) .*\nFrom: (?P<author>.*)\nDate: (?P<date>.*)\nSubject: (?:\[PATCH[^]]*\] )?"
    r"(?P<subject>.*(?:\n .*)*)\n\n(?P<body>(?:.*\n)*?)---\n"
)
_END = "-- \ngs\n\n"
_IDENTITY = ("gs developers", "developers@gs-oom.invalid")


@dataclass(frozen=True)
class Changes:
    """What taking a tree back changes in the checkout: path → new content, None for gone."""

    contents: dict[Path, bytes | None]

    def names(self) -> list[str]:
        """The paths, relative to kernel_patches."""
        return sorted(str(path.relative_to(versions.PATCHES_DIR)) for path in self.contents)


def begin(source: Source, series: str, tree: Path) -> bool:
    """Make the tree; False if it is there already, which is then left as it is."""
    if (tree / ".git" / RECORD).exists():
        return False
    if tree.exists():
        raise UsageError(f"{tree} is there and is no tree of ours", hint="give another --output")
    pristine = source.tree()
    part = tree.with_name(tree.name + ".part")
    commands.run(["rm", "-rf", part])
    part.parent.mkdir(parents=True, exist_ok=True)
    with step(f"making a working tree of {source.origin}"):
        # Real copies: an editor that writes in place must not reach the cache.
        commands.run(["cp", "-a", "--reflink=auto", pristine, part])
        _start_history(part, f"Linux {release_of(pristine)}")
    with step("making a commit of each patch"):
        _commit_ours(part, pristine, series)
    part.rename(tree)
    return True


def take_back(tree: Path, series: str) -> Changes:
    """What the tree's commits make of overlay and patches; writes nothing.

    UsageError where something is not committed, or the checkout has changed meanwhile.
    """
    record = _record(tree, series)
    _expect_committed(tree)
    if record["digest"] != patches.digest(series):
        raise UsageError(
            f"the patches of {series} have changed since {tree} was made",
            hint="put them back (git stash) and try again, or begin anew with --drop",
        )
    contents: dict[Path, bytes | None] = {}
    names: list[str] = []
    for commit in _git(tree, "rev-list", "--reverse", f"{OVERLAY}..HEAD").split():
        found = _patch_of(tree, commit, record["heads"], len(names) + 1, names)
        if found:
            name, text = found
            names.append(name)
            contents[versions.PATCHES_DIR / "patches" / name] = text.encode()
    for path, content in _overlay_of(tree).items():
        contents[patches.OVERLAY / path] = content
    for path in set(patches.overlay()) - set(_overlay_of(tree)):
        contents[patches.OVERLAY / path] = None
    listing = versions.series(series).patches
    contents[listing] = _listing(listing, names)
    for name in set(record["heads"]) - set(names) - _named_elsewhere(series):
        contents[versions.PATCHES_DIR / "patches" / name] = None
    kept = {path: new for path, new in contents.items() if not _same(path, new, series)}
    return Changes(kept)


def write(changes: Changes) -> None:
    """Put them into the checkout, each file whole."""
    for path, content in changes.contents.items():
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            cache.write_whole(path, content.decode())


def drop(tree: Path) -> None:
    """Remove the tree, if it is one of ours."""
    if not (tree / ".git" / RECORD).exists():
        raise UsageError(f"{tree} is no working tree of a series")
    commands.run(["rm", "-rf", tree])


def _start_history(tree: Path, message: str) -> None:
    commands.run(["rm", "-rf", tree / ".git"])
    _git(tree, "init", "-q", "-b", "gs")
    for name, value in (
        ("user.name", _IDENTITY[0]),
        ("user.email", _IDENTITY[1]),
        ("core.looseCompression", "0"),
        ("gc.auto", "0"),
    ):
        _git(tree, "config", name, value)
    # Hunks are headed as patches.refresh heads them, not by the kernel's own .gitattributes.
    (tree / ".git/info/attributes").write_text("* !diff\n")
    _heed_everything(tree)
    _git(tree, "add", "-A", "-f")
    _commit(tree, message, "")
    _git(tree, "tag", PRISTINE)


def _heed_everything(tree: Path) -> None:
    """Debian's sources tell git to ignore all files at the top, and so every new one."""
    ignored = tree / ".gitignore"
    if ignored.exists():
        lines = ignored.read_text().splitlines(keepends=True)
        ignored.write_text("".join(line for line in lines if line.strip() != "/*"))


def _commit_ours(tree: Path, pristine: Path, series: str) -> None:
    for name, content in patches.overlay().items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    _git(tree, "add", "-A", "-f")
    _commit(tree, "The overlay: files of ours", "")
    _git(tree, "tag", OVERLAY)
    heads: dict[str, dict[str, str]] = {}
    for patch in patches.of_series(series):
        patches.apply(patch, tree)  # PatchConflict, which names the hunk
        head = _head_of(patch)
        message = f"{head['subject']}\n\n{head['body'].strip()}\n{TRAILER}{patch.name}\n"
        _git(tree, "add", "-A")
        _commit(tree, message, head["date"], head["author"])
        heads[patch.name] = {
            "text": patch.text().partition("diff --git ")[0],
            "commit": _header(tree, "HEAD"),
            "context": str(patches.context_of(patch.text())),
        }
    record = {"series": series, "digest": patches.digest(series), "heads": heads}
    (tree / ".git" / RECORD).write_text(json.dumps(record))


def _head_of(patch: patches.Patch) -> dict[str, str]:
    found = _HEAD.match(patch.text())
    if not found:
        raise PatchConflict(f"{patch.name} has no mail's head", hint="as git format-patch makes it")
    return {**found.groupdict(), "subject": re.sub(r"\n\s+", " ", found["subject"])}


def _patch_of(
    tree: Path, commit: str, heads: dict[str, dict[str, str]], number: int, taken: Sequence[str]
) -> tuple[str, str] | None:
    """The commit as a patch file; None if it changes nothing but the overlay."""
    touched = _git(tree, "diff", "--name-only", "--no-renames", f"{commit}^", commit).splitlines()
    hooks = [name for name in touched if _is_pristine(tree, name)]
    if not hooks:
        return None
    header = _header(tree, commit)
    name = next((line for line in header.splitlines() if line.startswith(TRAILER)), "")
    name = name.removeprefix(TRAILER) or _new_name(header.partition("\n\n")[2], number)
    if name in taken:
        raise UsageError(
            f"two commits in {tree} are {name}",
            hint=f"squash them, or take the line {TRAILER.strip()} out of one's message",
        )
    known = heads.get(name)
    head = known["text"] if known and known["commit"] == header else _mail_head(header)
    return name, head + _diff(tree, commit, hooks, known["context"] if known else "3") + _END


def _diff(tree: Path, commit: str, names: Sequence[str], context: str) -> str:
    """As patches.refresh writes it: with the context that the patch had."""
    words = ["diff", "--no-renames", "--no-color", "--no-ext-diff", f"-U{context}"]
    diff = _git(tree, *words, f"{commit}^", commit, "--", *names)
    return re.sub(r"^index [0-9a-f]+\.\.[0-9a-f]+.*\n", "", diff, flags=re.MULTILINE)


def _header(tree: Path, commit: str) -> str:
    """Author, date, an empty line, the message."""
    return _git(tree, "log", "-1", "--format=%an <%ae>%n%aI%n%n%B", commit).strip() + "\n"


def _mail_head(header: str) -> str:
    about, _, message = header.partition("\n\n")
    author, date = about.splitlines()
    message = "".join(f"{s}\n" for s in message.splitlines() if not s.startswith(TRAILER))
    subject, _, body = message.partition("\n")
    return (
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001\n"
        f"From: {author}\n"
        f"Date: {format_datetime(datetime.fromisoformat(date.replace('Z', '+00:00')))}\n"
        f"Subject: [PATCH] {subject}\n\n{body.strip()}\n---\n"
    )


def _new_name(message: str, number: int) -> str:
    subject = message.partition("\n")[0]
    return f"{number:04}-{re.sub(r'[^A-Za-z0-9_.]+', '-', subject).strip('-.')[:52]}.patch"


def _overlay_of(tree: Path) -> dict[str, bytes]:
    """Every file of the last commit that the pristine sources do not have."""
    words = ["diff", "--name-only", "--no-renames", "--diff-filter=A", PRISTINE, "HEAD"]
    return {name: (tree / name).read_bytes() for name in _git(tree, *words).splitlines()}


def _listing(listing: Path, names: Sequence[str]) -> bytes:
    """The series file with these patches; its comments stay at the top."""
    comments = [line for line in listing.read_text().splitlines() if line.startswith("#")]
    return "".join(f"{line}\n" for line in [*comments, *names]).encode()


def _named_elsewhere(series: str) -> set[str]:
    others = (name for name in config.SERIES if name != series)
    return {patch.name for other in others for patch in patches.of_series(other)}


def _same(path: Path, content: bytes | None, series: str) -> bool:
    """Line numbers of shared patches are the home series' own."""
    old = path.read_bytes() if path.exists() else None
    if old is None or content is None or path.suffix != ".patch":
        return old == content
    if versions.series(series).status == "home":
        return old == content
    return patches.without_numbers(old.decode()) == patches.without_numbers(content.decode())


def _is_pristine(tree: Path, name: str) -> bool:
    return bool(_git(tree, "ls-tree", "--name-only", PRISTINE, "--", name).strip())


def _expect_committed(tree: Path) -> None:
    if any((tree / ".git" / name).exists() for name in ("rebase-merge", "rebase-apply")):
        raise UsageError(f"a rebase is under way in {tree}", hint="finish or abort it first")
    changed = _git(tree, "status", "--porcelain", "--untracked-files=normal").splitlines()
    if changed:
        raise UsageError(
            f"{len(changed)} files in {tree} are not committed",
            changed[0].strip(),
            "commit them, or amend the patch that they belong to (git rebase -i gs-overlay)",
        )


def _record(tree: Path, series: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((tree / ".git" / RECORD).read_text())
    except OSError:
        raise UsageError(
            f"there is no working tree at {tree}", hint=f"./dev patches.edit --kernel {series}"
        ) from None
    return record


def _commit(tree: Path, message: str, date: str, author: str = "") -> None:
    when = ["--date", date] if date else []
    who = ["--author", author] if author else []
    words = ["commit", "-q", "--no-verify", "--cleanup=whitespace", *when, *who, "-F", "-"]
    _git(tree, *words, input=message.encode())


def _git(tree: Path, *words: str, input: bytes | None = None) -> str:
    git = commands.which_or_hint("git", "git")
    # The user's settings (signing, hooks, line ends) are for the user's own commits.
    own = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return commands.run([git, "-C", tree, *words], env=own, input=input).stdout

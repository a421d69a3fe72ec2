"""Each series on the sources at hand: applies at fuzz 0, is as refresh writes it, compiles, and
the kernel's own checkers have nothing to say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from provisioning import commands
from provisioning.arch import X86_64
from provisioning.config import SERIES
from provisioning.errors import PatchConflict
from provisioning.kernel import build, editing, kconfig, patches, versions
from provisioning.kernel.source import Source, release_of

#: What objtool of old 5.4 releases says of any file whose .text is empty or has a symbol of its
#: own only: binutils since 2.36 leave out section symbols that nothing refers to.
OLD_OBJTOOL = "objtool: missing symbol for section"

#: What checkpatch says of these files in any case. The first is there for nothing but comparisons
#: with LINUX_VERSION_CODE, the second is made of macros as all of its directory, and who would be
#: named in MAINTAINERS is not for a patch from outside to say.
EXPECTED = {
    "mm/graceful_shutdown_compat.h": {"LINUX_VERSION_CODE", "CONSTANT_COMPARISON"},
    "include/trace/events/graceful_shutdown.h": {"PARENTHESIS_ALIGNMENT", "OPEN_ENDED_LINE"},
    "Documentation/admin-guide/mm/graceful_shutdown.rst": {"FILE_PATH_CHANGES"},
}

#: checkpatch's own limit since 5.7; before, it was 80.
COLUMNS = 100


def working_copy(pristine: Path, series: str, target: Path) -> Path:
    """A tree with only the files that the series touches."""
    for patch in patches.of_series(series):
        for name in patch.files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pristine / name, target / name)
    return target


def test_applies_at_fuzz_0_and_twice_is_once(series: str, pristine: Path, tmp_path: Path) -> None:
    tree = working_copy(pristine, series, tmp_path / "tree")
    changed = patches.prepare(pristine, tree, series, tmp_path / "ours.json")
    assert "mm/oom_kill.c" in changed
    assert "mm/graceful_shutdown.c" in changed
    assert "graceful_shutdown" in (tree / "mm/oom_kill.c").read_text()
    assert patches.prepare(pristine, tree, series, tmp_path / "ours.json") == []


def test_a_patched_tree_is_recognised(series: str, pristine: Path, tmp_path: Path) -> None:
    tree = working_copy(pristine, series, tmp_path / "tree")
    patches.prepare(pristine, tree, series, tmp_path / "ours.json")
    result = patches.work_out(tree, series)
    assert set(result.already_applied) == {patch.name for patch in patches.of_series(series)}


def test_a_conflict_names_the_hunk(series: str, pristine: Path, tmp_path: Path) -> None:
    tree = working_copy(pristine, series, tmp_path / "tree")
    file = tree / "mm/oom_kill.c"
    text = file.read_text()
    assert "mark_oom_victim(victim);" in text
    file.write_text(text.replace("mark_oom_victim(victim);", "mark_no_victim(victim);"))
    with pytest.raises(PatchConflict, match=r"mm/oom_kill\.c hunk 1") as caught:
        patches.work_out(tree, series)
    assert caught.value.exit_code == 4


def test_refresh_equals_what_is_committed(series: str, pristine: Path) -> None:
    found = patches.check(pristine, series)
    assert [entry.patch for entry in found if entry.stale] == []
    if release_of(pristine) == versions.series(SERIES[0]).release:
        assert [entry.patch for entry in found if entry.offset] == []  # line numbers are from here


def test_as_commits_and_back_it_is_the_same(
    series: str, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What patches.edit makes of the real patches, on a tree of the files that they touch."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path / "cache"))

    def unpack(target: Path) -> None:
        working_copy(pristine, series, target)
        shutil.copy(pristine / "Makefile", target)

    small = Source(versions.series(series), f"files of {series}", "small", unpack)
    tree = tmp_path / "edit"
    editing.begin(small, series, tree)
    assert editing.take_back(tree, series).names() == []


def test_our_objects_compile_without_a_warning(series: str, sources: Source) -> None:
    """With W=1 and sparse, in the configured tree: the overlay's files and those that the hooks
    touch."""
    sparse = shutil.which("sparse") is not None
    wanted = build.plan(series, sources=sources)
    overlay = [name for name in patches.overlay() if not name.startswith("tools/")]
    names = [*overlay, *(n for p in patches.of_series(series) for n in p.files())]
    objects = sorted({name.removesuffix(".c") + ".o" for name in names if name.endswith(".c")})
    said = build.compile_objects(wanted, objects, extra=["W=1", f"C={int(sparse)}"])
    for name in objects:
        assert f"CC      {name}" in said, f"{name} was not compiled"
        assert not sparse or re.search(rf"CHECK +{name[:-2]}\.c", said), f"{name}: no sparse"
    ours = tuple(overlay)
    warnings = [
        line for line in said.splitlines() if "warning:" in line and OLD_OBJTOOL not in line
    ]
    assert [line for line in warnings if line.startswith(ours)] == []
    assert [line for line in warnings if "graceful" in line] == []
    if not sparse:
        pytest.skip("no warning of the compiler; for sparse's: apt-get install sparse")


def test_a_hosts_own_configuration(series: str, sources: Source) -> None:
    """Ours can be grown from it, with the modules that are loaded there, and compiles."""
    tree = sources.tree()
    config = (tree / "arch/x86/configs/x86_64_defconfig").read_text()
    config = config.replace("CONFIG_EXT4_FS=y", "CONFIG_EXT4_FS=m")
    config += 'CONFIG_XFS_FS=m\nCONFIG_SYSTEM_TRUSTED_KEYS="debian/certs.pem"\n'
    seed = versions.Seed(config, modules="ext4\n")
    options = kconfig.parse(kconfig.grown_from(tree, seed, X86_64))
    assert (options["CONFIG_EXT4_FS"], options["CONFIG_XFS_FS"]) == ("m", kconfig.OFF)
    assert "CONFIG_SYSTEM_TRUSTED_KEYS" not in options

    wanted = build.plan(series, sources=sources, flavour="distro-full", seed=seed)
    objects = ["mm/oom_kill.o", "mm/graceful_shutdown.o"]
    said = build.compile_objects(wanted, objects)
    assert all(f"CC      {name}" in said for name in objects)


def test_checkpatch(series: str, pristine: Path, tmp_path: Path) -> None:
    """The sources' own, strictly, has nothing to say of the series as it would be mailed."""
    mails = patches.export(pristine, series, tmp_path)
    words = ["perl", pristine / "scripts/checkpatch.pl", "--strict", "--no-tree", "--terse"]
    words += [f"--root={pristine}", "--show-types", "--showfile", f"--max-line-length={COLUMNS}"]
    said = commands.run([*words, *mails], check=False, timeout=600).stdout
    remarks = re.findall(r"^(\S*):\d+: (?:ERROR|WARNING|CHECK):(\w+): ", said, re.MULTILINE)
    assert ("mm/graceful_shutdown_compat.h", "LINUX_VERSION_CODE") in remarks, f"no check: {said}"
    assert [remark for remark in remarks if remark[1] not in EXPECTED.get(remark[0], ())] == []


def test_every_patch_is_in_some_series_and_names_its_concern() -> None:
    named = {patch.name for series in SERIES for patch in patches.of_series(series)}
    there = {path.name for path in (versions.PATCHES_DIR / "patches").glob("*.patch")}
    assert there == named
    for name in there:
        text = (versions.PATCHES_DIR / "patches" / name).read_text()
        assert "\nSubject: [PATCH" in text and "\nSigned-off-by: " in text

"""The proof that every requested option survived, on a recorded configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioning.errors import BuildFailed
from provisioning.kernel import kconfig
from provisioning.kernel.versions import Flavour

#: What olddefconfig of 5.4 left of a request for VIRTIO_NET without NET_CORE (shortened).
RECORDED = """\
#
# Automatically generated file; DO NOT EDIT.
# Linux/x86 5.4.286 Kernel Configuration
#
CONFIG_64BIT=y
CONFIG_LOCALVERSION=""
CONFIG_LOG_BUF_SHIFT=20
# CONFIG_MODULES is not set
CONFIG_NETDEVICES=y
# CONFIG_NET_CORE is not set
"""


def test_reads_values_strings_and_what_is_off() -> None:
    options = kconfig.parse(RECORDED)
    assert options["CONFIG_LOG_BUF_SHIFT"] == "20"
    assert options["CONFIG_LOCALVERSION"] == '""'
    assert options["CONFIG_MODULES"] == "n"
    assert len(options) == 6


@pytest.mark.parametrize(
    ("asked", "lost"),
    [
        ("CONFIG_64BIT=y", ""),
        ("# CONFIG_MODULES is not set", ""),
        ("# CONFIG_NEVER_HEARD_OF is not set", ""),
        ("CONFIG_VIRTIO_NET=y", "CONFIG_VIRTIO_NET=y (is n, from a.config)"),
        ("CONFIG_LOG_BUF_SHIFT=18", "CONFIG_LOG_BUF_SHIFT=18 (is 20, from a.config)"),
        ("# CONFIG_NETDEVICES is not set", "CONFIG_NETDEVICES=n (is y, from a.config)"),
    ],
)
def test_finds_what_was_lost(asked: str, lost: str, tmp_path: Path) -> None:
    fragment = tmp_path / "a.config"
    fragment.write_text(asked + "\n")
    found = kconfig.lost(kconfig.requested([fragment]), kconfig.parse(RECORDED))
    assert "".join(map(str, found)) == lost


def test_the_last_fragment_wins(tmp_path: Path) -> None:
    for name, text in (("a", "CONFIG_X=y\nCONFIG_Y=y\n"), ("b", "# CONFIG_X is not set\n")):
        (tmp_path / name).write_text(text)
    wanted = kconfig.requested([tmp_path / "a", tmp_path / "b"])
    assert wanted == {"CONFIG_X": ("n", "b"), "CONFIG_Y": ("y", "a")}


class Kbuild:
    """A stand-in for the tree's make: the recorded answer of olddefconfig."""

    def __init__(self, tree: Path):
        self.tree = tree
        self.calls: list[str] = []

    def __call__(self, targets: Sequence[str], variables: dict[str, str]) -> None:
        self.calls += targets
        assert variables["KCONFIG_CONFIG"] == ".config.gs"  # never the real one
        (self.tree / ".config.gs").write_text(RECORDED)


def flavour(tmp_path: Path, text: str) -> Flavour:
    fragment = tmp_path / "guest.config"
    fragment.write_text(text)
    return Flavour("guest", "allnoconfig", (fragment,))


def test_config_is_rewritten_only_when_it_changed(tmp_path: Path) -> None:
    make = Kbuild(tmp_path)
    wanted = flavour(tmp_path, "CONFIG_64BIT=y\n")
    assert kconfig.configure(tmp_path, wanted, make) is True
    before = (tmp_path / ".config").stat().st_mtime_ns
    assert kconfig.configure(tmp_path, wanted, make) is False
    assert (tmp_path / ".config").stat().st_mtime_ns == before
    assert make.calls == ["allnoconfig", "olddefconfig"] * 2


def test_a_lost_option_is_an_error_and_leaves_the_config_alone(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("as it was")
    wanted = flavour(tmp_path, "CONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_BLK=y\n")
    with pytest.raises(BuildFailed, match=r"2 options .*VIRTIO_NET=y.*VIRTIO_BLK=y") as caught:
        kconfig.configure(tmp_path, wanted, Kbuild(tmp_path))
    assert caught.value.exit_code == 5
    assert (tmp_path / ".config").read_text() == "as it was"


def test_an_unpatched_flavour_does_without_what_is_ours(tmp_path: Path) -> None:
    """All the rest stays, and a cached kernel of the one is never taken for the other."""
    patched = flavour(tmp_path, "CONFIG_64BIT=y\nCONFIG_GRACEFUL_SHUTDOWN=y\n")
    unpatched = patched.unpatched()
    assert kconfig.requested(unpatched.fragments, unpatched.without).keys() == {"CONFIG_64BIT"}
    assert kconfig.digest(unpatched) != kconfig.digest(patched)
    assert kconfig.configure(tmp_path, unpatched, Kbuild(tmp_path))
    with pytest.raises(BuildFailed, match="GRACEFUL_SHUTDOWN"):
        kconfig.configure(tmp_path, patched, Kbuild(tmp_path))

"""`gs module` on this machine, which has none, and on recorded ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gs import module
from gs.errors import NotSupported
from gs.finding import Machine
from tests.unit.gs_support import gs

RELEASE = os.uname().release


def machine(tmp_path: Path, **files: str) -> Machine:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(str(tmp_path))


def test_a_machine_without_anything(tmp_path: Path) -> None:
    now = module.status(Machine(str(tmp_path)))
    assert (now.sources, now.built, now.loaded, now.users) == ("", "", False, 0)
    assert (now.attachment, now.secure_boot, now.lockdown) == ("", False, "none")


def test_where_it_is_built_and_loaded(tmp_path: Path) -> None:
    for version in ("0.1", "0.9", "0.10"):
        (tmp_path / f"usr/src/gs-oom-{version}").mkdir(parents=True)
    place = tmp_path / "lib/modules" / RELEASE / "updates/dkms"
    place.mkdir(parents=True)
    (place / "gs_oom.ko.xz").write_bytes(b"")
    found = machine(
        tmp_path,
        sys__module__gs_oom__refcnt="2\n",
        proc__graceful_shutdown_features="abi=1\nattachment=module\n",
        sys__kernel__security__lockdown="none [integrity] confidentiality\n",
        sys__module__module__parameters__sig_enforce="Y\n",
    )
    now = module.status(found)
    assert now.sources == "0.10"
    assert now.built == f"/lib/modules/{RELEASE}/updates/dkms/gs_oom.ko.xz"
    assert (now.loaded, now.users, now.attachment) == (True, 2, "module")
    assert (now.lockdown, now.sig_enforce) == ("integrity", True)


@pytest.mark.parametrize(("byte", "on"), [("\x01", True), ("\x00", False)])
def test_secure_boot(tmp_path: Path, byte: str, on: bool) -> None:
    place = tmp_path / "sys/firmware/efi/efivars"
    place.mkdir(parents=True)
    (place / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_text("\x06\0\0\0" + byte)
    assert module.status(Machine(str(tmp_path))).secure_boot is on


STATUS = module.Status(RELEASE, "0.1", "/x.ko", False, 0, "", False, "none")


@pytest.mark.parametrize(
    ("now", "log", "says"),
    [
        (STATUS, ["[1.0] gs_oom: not loaded: this kernel has no oom_lock"], "has no oom_lock"),
        (STATUS.replace(secure_boot=True), [], "Secure Boot is on"),
        (STATUS.replace(lockdown="integrity"), [], "locked down (integrity)"),
        (STATUS.replace(sig_enforce=True), [], "signed modules only (module.sig_enforce)"),
        (STATUS, ["[1.0] other: not loaded: x"], "what modprobe said"),
    ],
)
def test_why_the_kernel_refused_it(now: module.Status, log: list[str], says: str) -> None:
    assert says in str(module._refused(now, NotSupported("what modprobe said"), log))


def test_the_key_that_is_there_is_named(tmp_path: Path) -> None:
    def said() -> str:
        error = NotSupported("what modprobe said")
        return str(module._refused(STATUS.replace(secure_boot=True), error, [], here))

    here = Machine(str(tmp_path))
    assert "mokutil --import /var/lib/dkms/mok.pub," in said()
    machine(tmp_path, **{"var__lib__dkms__mok.pub": "", "var__lib__shim-signed__mok__MOK.der": ""})
    assert "mokutil --import /var/lib/shim-signed/mok/MOK.der," in said()


REFUSAL = "[9.0] gs_oom: not loaded: x"


@pytest.mark.parametrize(
    ("last", "log", "news"),
    [
        (["[1.0] a"], ["[0.5] b", "[1.0] a", REFUSAL], [REFUSAL]),
        (["[1.0] a"], ["[1.0] a"], []),
        # The ring was full, and is as long as before.
        (["[1.0] a"], ["[8.0] b", REFUSAL], ["[8.0] b", REFUSAL]),
        ([], [REFUSAL], [REFUSAL]),
    ],
)
def test_what_the_log_has_since_then(last: list[str], log: list[str], news: list[str]) -> None:
    assert module._since(last, log) == news


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(NotSupported, match="install the package gs-oom-dkms"):
        module.build()
    with pytest.raises(NotSupported, match="gs-oom module build"):
        module.load()


def test_the_command() -> None:
    done = gs("module", "status", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["loaded"] is False
    assert "release" in gs("module", "status").stdout
    assert gs("module", "load", "--wait", "1s").returncode == 2
    assert gs("module", "bogus").returncode == 2

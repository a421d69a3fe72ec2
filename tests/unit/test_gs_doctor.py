"""`gs doctor` on this machine and on recorded ones; the memory controller of recorded machines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gs import backends, cgroup, doctor, scope
from gs.backends import kernel
from gs.errors import GsError, NotSupported, PermissionDenied, UsageError
from gs.finding import BAD, GOOD, NOTE, OUTPUTS, WARNING, Finding, Machine
from gs.paths import KernelFiles
from tests.unit.gs_support import (
    FEATURES,
    FULL_FEATURES,
    NO_RUN_DIRECTORY,
    gs,
    make_procfs,
)

NO_KERNEL = KernelFiles("/nowhere/a", "/nowhere/b", "/nowhere/c", "/nowhere/d")


def machine(
    tmp_path: Path, files: dict[str, str], kernel_files: KernelFiles = NO_KERNEL
) -> Machine:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(str(tmp_path), kernel_files)


def levels(machine: Machine, check: str) -> list[str]:
    return [finding.level for finding in doctor.examine(machine) if finding.check == check]


def patched(tmp_path: Path, features: str = FEATURES) -> KernelFiles:
    procfs = make_procfs(tmp_path / "kernel", features)
    return KernelFiles(
        str(procfs / "graceful_shutdown"),
        str(procfs / "graceful_shutdown_events"),
        str(procfs / "graceful_shutdown_features"),
        str(procfs / "sys" / "vm"),
    )


# ---------------------------------------------------------------------------- this machine


def test_this_machine_without_a_patched_kernel(tmp_path: Path) -> None:
    done = gs("doctor", GS_RUN_DIRECTORY=str(tmp_path / "run"))
    usable = backends.capabilities(files=NO_KERNEL).backend
    assert (done.returncode, done.stderr) == (0 if usable else 3, "")
    assert done.stdout.startswith("note backend:" if usable else "BAD  backend:")
    assert f"`gs-oom run` takes {usable}" in done.stdout or not usable
    checks = {
        line.split(":")[0].split()[-1] for line in done.stdout.splitlines() if "->" not in line
    }
    assert {"backend", "helpers", "cgroup", "swap", "overcommit", "name", "killers"} <= checks


def test_as_json() -> None:
    findings = json.loads(gs("doctor", "--json").stdout)
    assert findings[0]["check"] == "backend" and findings[0]["level"] in (NOTE, BAD)
    assert all(set(finding) == {"check", "level", "text", "mend"} for finding in findings)


def test_every_trouble_comes_with_what_mends_it() -> None:
    for finding in doctor.examine():
        assert finding.mend or finding.level in (GOOD, NOTE), finding


def test_without_a_memory_controller() -> None:
    """As in a container that has none: it is said what would mount it."""
    mounted = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts"
    script = f'mount --make-rprivate / && {mounted} | xargs umount -l && exec "$@"'
    elsewhere = ("unshare", "--mount", "sh", "-c", script, "sh")
    if subprocess.run([*elsewhere, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of its own here, or no memory cgroups to be without")
    findings = json.loads(gs("doctor", "--json", within=elsewhere).stdout)
    about = [f for f in findings if f["check"] == "backend"]
    assert [f["level"] for f in about] == [BAD] * 3
    assert all("mount -t cgroup2" in f["mend"] for f in about[1:])


def test_without_a_place_to_write_a_run_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look says is what a run does."""
    monkeypatch.setenv("GS_RUN_DIRECTORY", NO_RUN_DIRECTORY)
    where = cgroup.hierarchy()
    name = f"cgroup{where.version}" if where else ""
    monkeypatch.setattr(cgroup, "find_place", lambda where: "/")
    for uid, hint in ((0, "RuntimeDirectory=gs"), (1000, "XDG_RUNTIME_DIR")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        refused = backends.named(name or "cgroup2").unusable()
        assert isinstance(refused, NotSupported)
        if name:
            assert NO_RUN_DIRECTORY in refused.why and hint in refused.hint
            assert backends.capabilities(files=NO_KERNEL).reason == str(refused)


@pytest.mark.parametrize("limit", [None, ("/x", 1 << 30)])
def test_guards_without_a_limit_to_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int] | None
) -> None:
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(tmp_path / "run"))
    where = cgroup.Hierarchy(1, str(tmp_path), str(tmp_path))
    monkeypatch.setattr(cgroup, "hierarchy", lambda *_: where)
    monkeypatch.setattr(cgroup, "nearest_limit", lambda where: limit)
    said = "no limit above this process: give --memory-max"
    backend = found(Machine(files=NO_KERNEL), "backend")
    assert [f.level for f in backend if f.text == said] == ([] if limit else [NOTE])
    assert doctor.can_protect(backend)
    monkeypatch.setattr(kernel, "may_register", lambda files: True)
    backend = found(Machine(files=patched(tmp_path)), "backend")
    assert said not in [f.text for f in backend]


@pytest.mark.parametrize("available", [True, False])
def test_a_user_who_has_a_scope(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    def no_place(where: cgroup.Hierarchy) -> str:
        raise PermissionDenied("no place")

    asked = []
    monkeypatch.setattr(scope, "is_available", lambda: asked.append(1) or available)
    monkeypatch.setattr(cgroup, "find_place", no_place)
    monkeypatch.setattr(cgroup, "hierarchy", lambda *_: cgroup.Hierarchy(2, "/cg", "/cg/x"))
    findings = doctor.examine(Machine(files=NO_KERNEL))
    assert len(asked) == 1
    (place,) = [f for f in findings if f.check == "cgroup"]
    takes = [f for f in findings if "`gs-oom run` takes" in f.text]
    if available:
        assert doctor.can_protect(findings)
        assert [f.level for f in takes] == [place.level] == [NOTE]
        assert "takes cgroup2 (guards beside the program), in a systemd user scope" in takes[0].text
        assert "systemd user scope" in place.text
    else:
        assert not doctor.can_protect(findings)
        assert takes == [] and place.level == WARNING
    assert Machine("/recorded").has_scope() is False


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_reason_is_that_of_a_backend_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    where = cgroup.Hierarchy(version, "/", "/x") if version else None
    monkeypatch.setattr(cgroup, "hierarchy", lambda: where)

    def no_place(where: cgroup.Hierarchy) -> str:
        raise PermissionDenied("no place")

    monkeypatch.setattr(cgroup, "find_place", no_place)
    with pytest.raises(GsError, match="no place" if version else "not patched"):
        backends.select("auto", NO_KERNEL)
    monkeypatch.setattr(kernel, "may_register", lambda files: False)
    with pytest.raises(PermissionDenied, match="cannot register a handler"):
        backends.select("auto", patched(tmp_path))


# ---------------------------------------------------------------------------- recorded machines


def test_a_patched_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = patched(tmp_path)
    monkeypatch.setattr(kernel, "may_register", lambda files: True)
    findings = doctor.examine(machine(tmp_path, {}, files))
    assert doctor.can_protect(findings)
    assert "the real OOM decision" in findings[0].text
    kernel_says = [f.text for f in findings if f.check == "kernel"]
    assert levels(Machine(str(tmp_path), files), "kernel") == [GOOD, NOTE, NOTE]
    assert "no signal=" in kernel_says[1] and "no scope=tree" in kernel_says[2]
    (tmp_path / "kernel/sys/vm/graceful_shutdown_enabled").write_text("0\n")
    assert BAD in levels(Machine(str(tmp_path), files), "kernel")
    assert not doctor.can_protect(doctor.examine(machine(tmp_path, {}, files)))
    refused = kernel.KernelBackend(files).unusable()
    assert refused is not None and "sysctl -w vm.graceful_shutdown_enabled=1" in str(refused)


def test_a_kernel_with_every_key(tmp_path: Path) -> None:
    assert levels(Machine(str(tmp_path), patched(tmp_path, FULL_FEATURES)), "kernel") == [GOOD]


def test_a_patched_kernel_that_may_not_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = patched(tmp_path)
    monkeypatch.setattr(kernel, "_is_admin", lambda: False)
    (finding, *_) = doctor.examine(machine(tmp_path, {}, files))
    assert finding.level == BAD and finding.mend == "run it as root"
    sysctl = tmp_path / "kernel/sys/vm/graceful_shutdown_unprivileged"
    sysctl.write_text("0\n")
    (finding, *_) = doctor.examine(machine(tmp_path, {}, files))
    assert finding.level == BAD
    assert finding.mend.endswith("sysctl -w vm.graceful_shutdown_unprivileged=1")
    sysctl.write_text("1\n")
    (finding, *_) = doctor.examine(machine(tmp_path, {}, files))
    assert finding.level == GOOD


def test_what_the_module_lacks_is_said(tmp_path: Path) -> None:
    features = FEATURES.replace("attachment=builtin", "attachment=module\ncapabilities=")
    findings = doctor.examine(machine(tmp_path, {}, patched(tmp_path, features)))
    texts = [f.text for f in findings if f.text.startswith("as a module: ")]
    assert len(texts) == 3 and all(f.level == NOTE for f in findings if f.text in texts)


@pytest.mark.parametrize(
    ("attachment", "switch", "off"),
    [("module", "0\n", True), ("module", "1\n", False), ("builtin", "0\n", False)],
)
def test_ftrace_switched_off(tmp_path: Path, attachment: str, switch: str, off: bool) -> None:
    features = FULL_FEATURES.replace("attachment=builtin", f"attachment={attachment}")
    files = {"proc/sys/kernel/ftrace_enabled": switch}
    findings = doctor.examine(machine(tmp_path, files, patched(tmp_path, features)))
    said = [f.level for f in findings if f.text.startswith("ftrace is switched off")]
    assert said == ([BAD] if off else [])


def test_static_usermodehelper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "may_register", lambda files: True)
    files = patched(
        tmp_path, FEATURES.replace("static_usermodehelper=0", "static_usermodehelper=1")
    )
    (finding, *_) = doctor.examine(machine(tmp_path, {}, files))
    assert finding.level == BAD and "STATIC_USERMODEHELPER" in finding.text


def test_helpers_that_may_do_nothing(tmp_path: Path) -> None:
    files = {"proc/sys/kernel/usermodehelper/bset": "0\t0\n"}
    assert BAD in levels(machine(tmp_path, files), "helpers")


@pytest.mark.parametrize(
    ("swaps", "level"),
    [
        ("Filename Type Size Used Priority\n", GOOD),
        ("Filename\n/dev/sda2 partition 1 0 -2\n", NOTE),
    ],
)
def test_swap(tmp_path: Path, swaps: str, level: str) -> None:
    assert levels(machine(tmp_path, {"proc/swaps": swaps}), "swap") == [level]


@pytest.mark.parametrize(
    ("mode", "panic", "found"),
    [("0", "0", [GOOD]), ("1", "0", [GOOD]), ("2", "0", [WARNING]), ("0", "1", [GOOD, WARNING])],
)
def test_overcommit(tmp_path: Path, mode: str, panic: str, found: list[str]) -> None:
    files = {"proc/sys/vm/overcommit_memory": mode + "\n", "proc/sys/vm/panic_on_oom": panic + "\n"}
    assert levels(machine(tmp_path, files), "overcommit") == found


def test_other_killers(tmp_path: Path) -> None:
    files = {
        "proc/7/comm": "earlyoom\n",
        "proc/8/comm": "systemd-oomd\n",
        "proc/9/comm": "systemd-oomd\n",
        "proc/10/comm": "earlyoom-like\n",
        "proc/self/comm": "nohang\n",
    }
    found = [f for f in doctor.examine(machine(tmp_path, files)) if f.check == "killers"]
    assert [f.level for f in found] == [WARNING, WARNING]
    assert "earlyoom" in found[0].text and "/etc/default/earlyoom" in found[0].mend
    assert "systemd-oomd" in found[1].text and "ManagedOOMPreference=omit" in found[1].mend


def process(pid: int, comm: str, adj: int, parent: int = 1, group: str = "/") -> dict[str, str]:
    """The files of a process in a recorded machine."""
    return {
        f"proc/{pid}/comm": f"{comm}\n",
        f"proc/{pid}/status": f"Name:\t{comm}\nPid:\t{pid}\nPPid:\t{parent}\n",
        f"proc/{pid}/oom_score_adj": f"{adj}\n",
        f"proc/{pid}/cgroup": f"0::{group}\n",
    }


def found(machine: Machine, check: str) -> list[Finding]:
    return [finding for finding in doctor.examine(machine) if finding.check == check]


def test_daemons_that_nobody_can_do_without(tmp_path: Path) -> None:
    files = {
        **process(7, "sshd", 0, group="/system.slice/ssh.service"),
        **process(8, "sshd", 0, parent=7),  # a session
        **process(9, "systemd-udevd", -1000),
        **process(10, "dbus-daemon", -900),
        **process(11, "dbus-daemon", 0, parent=700),  # of some user
        **process(12, "containerd", -899),
        **process(13, "editor", 0),
    }
    first, second, good = found(machine(tmp_path, files), "daemons")
    assert [f.level for f in (first, second, good)] == [WARNING, WARNING, GOOD]
    # In the order of a directory's names.
    assert first.text.startswith("containerd (12) ") and first.mend == "choom -n -1000 -p 12"
    assert second.text.startswith("sshd (7) ") and "is 0" in second.text
    assert "ssh.service, with [Service] OOMScoreAdjust=-1000" in second.mend
    assert good.text.endswith("dbus-daemon, systemd-udevd")
    assert found(Machine(str(tmp_path / "empty"), NO_KERNEL), "daemons") == []


def systemd(tmp_path: Path, policy: str, default: str, unit: str = "ssh.service") -> Machine:
    """A recorded machine of which systemctl says this."""
    files = {
        "proc/1/comm": "systemd\n",
        "proc/self/cgroup": f"0::/system.slice/{unit}\n",
        f"{OUTPUTS[1:]}/systemctl show --property=OOMPolicy {unit}": policy,
        f"{OUTPUTS[1:]}/systemctl show --property=DefaultOOMPolicy": default,
    }
    return machine(tmp_path, files)


def test_systemds_policy_for_the_own_unit(tmp_path: Path) -> None:
    stop = systemd(tmp_path, "OOMPolicy=stop\n", "DefaultOOMPolicy=stop\n")
    own, default = found(stop, "systemd")
    assert (own.level, default.level) == (NOTE, NOTE)
    assert own.text.startswith("ssh.service has OOMPolicy=stop: the whole unit is stopped")
    assert "systemctl edit ssh.service, with [Service] OOMPolicy=continue" in own.mend
    (tmp_path / "proc/1/comm").write_text("init\n")
    assert found(Machine(str(tmp_path), NO_KERNEL), "systemd") == []


def test_systemds_policy_kill_and_continue(tmp_path: Path) -> None:
    kill = systemd(tmp_path, "OOMPolicy=kill\n", "DefaultOOMPolicy=continue\n")
    (own,) = found(kill, "systemd")
    assert own.level == NOTE and "kills them all" in own.text
    fine = systemd(tmp_path, "OOMPolicy=continue\n", "DefaultOOMPolicy=continue\n", "my.scope")
    (own,) = found(fine, "systemd")
    assert (own.level, own.mend) == (GOOD, "")


def test_a_scope_of_an_old_systemd_has_no_policy(tmp_path: Path) -> None:
    (default,) = found(systemd(tmp_path, "", "DefaultOOMPolicy=stop\n", "s.scope"), "systemd")
    assert default.text.startswith("services have OOMPolicy=stop")
    scope = systemd(tmp_path, "OOMPolicy=stop\n", "", "s.scope")
    own, default = found(scope, "systemd")
    assert "systemd-run --scope -p OOMPolicy=continue" in own.mend
    assert "OOMPolicy=stop" in default.text  # what a systemd that says nothing does


def test_units_of_registered_processes_count_too(tmp_path: Path) -> None:
    files = patched(tmp_path)
    Path(files.registry).write_text("77 /bin/true\n")
    recorded = {
        "proc/1/comm": "systemd\n",
        **process(77, "prog", 0, group="/system.slice/prog.service"),
        f"{OUTPUTS[1:]}/systemctl show --property=OOMPolicy prog.service": "OOMPolicy=stop\n",
    }
    own, _ = found(machine(tmp_path, recorded, files), "systemd")
    assert own.text.startswith("prog.service has OOMPolicy=stop")


def test_this_machine_is_asked_and_not_only_recorded_ones() -> None:
    here = Machine("", NO_KERNEL)
    assert here.ask("echo", "OOMPolicy=stop") == "OOMPolicy=stop\n"
    assert here.ask("false") is None and here.ask("/nowhere/systemctl") is None


def test_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory, text in ((ours, "#!/usr/bin/python3\n"), (theirs, "#!/bin/sh\n")):
        directory.mkdir()
        (directory / "gs").write_text(text)
        (directory / "gs").chmod(0o755)
    for path, found in (
        ([], [GOOD]),
        ([ours], [GOOD]),
        ([ours, theirs], [WARNING]),
        ([theirs, ours], [NOTE]),
        ([theirs], [NOTE]),
    ):
        monkeypatch.setenv("PATH", ":".join(map(str, path)) or "/nowhere")
        assert levels(Machine(str(tmp_path), NO_KERNEL), "name") == found


# ---------------------------------------------------------------------------- memory controllers

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def v2_tree(tmp_path: Path, own: str, root: str = "/") -> Path:
    """A recorded v2 hierarchy with the memory controller; ``own`` is this process's group."""
    mount = tmp_path / "cg"
    below = own[len(root) :] if root != "/" else own
    (mount / below.strip("/")).mkdir(parents=True)
    (mount / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::{own}\n")
    line = V2.replace("/sys/fs/cgroup", str(mount)).replace(" / ", f" {root} ", 1)
    (tmp_path / "proc/self/mountinfo").write_text("22 27 0:21 / /proc rw - proc proc rw\n" + line)
    return mount


def test_v2(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path, "/user.slice/session-1.scope")
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where == cgroup.Hierarchy(2, str(mount), f"{mount}/user.slice/session-1.scope")
    assert where.limit_file == "memory.max"


def test_v2_in_a_container_that_sees_a_part(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path, "/docker/abc/job", root="/docker/abc")
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where is not None and where.own == f"{mount}/job"


def test_v1_beside_a_v2_without_memory(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/job\n1:cpu,cpuacct:/\n0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text(V2 + V1)
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where == cgroup.Hierarchy(1, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/job")
    assert where.limit_file == "memory.limit_in_bytes"


def test_no_memory_controller(tmp_path: Path) -> None:
    assert cgroup.hierarchy(str(tmp_path)) is None
    mount = v2_tree(tmp_path, "/")
    (mount / "cgroup.controllers").write_text("cpu\n")
    assert cgroup.hierarchy(str(tmp_path / "proc")) is None


def place_of(tmp_path: Path, own: str, *, delegated_in: str, limit: str = "max") -> str:
    mount = v2_tree(tmp_path, own)
    for name in (own, str(Path(own).parent)):
        if name != "/":
            (mount / name.strip("/") / "cgroup.type").write_text("domain\n")
    (mount / delegated_in.strip("/") / "cgroup.subtree_control").write_text("memory pids\n")
    (mount / own.strip("/") / "memory.max").write_text(limit + "\n")
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where is not None
    return cgroup.parent_for_child(where)[len(str(mount)) :]


def test_a_group_beside_the_session_of_systemd(tmp_path: Path) -> None:
    assert place_of(tmp_path, "/user.slice/s.scope", delegated_in="/user.slice") == "/user.slice"


def test_a_group_within_a_delegated_one(tmp_path: Path) -> None:
    assert place_of(tmp_path, "/a/b", delegated_in="/a/b") == "/a/b"


def test_no_group_beside_a_limited_one(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="escaped"):
        place_of(tmp_path, "/a/b", delegated_in="/a", limit="500000000")


def test_finding_a_place_changes_nothing(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path, "/")
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where is not None
    assert cgroup.find_place(where) == str(mount)
    assert not (mount / "cgroup.subtree_control").exists()
    assert [f.level for f in found(Machine(str(tmp_path), NO_KERNEL), "cgroup")] == [GOOD]


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="No such file"):
        cgroup.find_place(cgroup.Hierarchy(1, str(tmp_path), str(tmp_path / "gone")))
    with pytest.raises(NotSupported, match="read-only"):
        cgroup.find_place(cgroup.Hierarchy(1, "/sys/kernel", read_only_directory()))
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionDenied, match="root"):
            cgroup.find_place(cgroup.Hierarchy(1, str(tmp_path), str(tmp_path)))
        tmp_path.chmod(0o700)


def read_only_directory() -> str:
    """Where some file system is mounted read-only, as /sys/fs/cgroup is in most containers."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        directory, options = line.split()[1], line.split()[3].split(",")
        if "ro" in options and Path(directory).is_dir():
            return directory
    pytest.skip("nothing is mounted read-only here")


def test_groups_that_are_killed_together(tmp_path: Path) -> None:
    files = patched(tmp_path)
    Path(files.registry).write_text("77 /bin/true\n")
    mount = v2_tree(tmp_path, "/kube/pod/one")
    assert found(Machine(str(tmp_path), files), "groups") == []
    for name, value in (("kube", "1"), ("kube/pod", "0"), ("kube/pod/one", "1"), ("other", "1")):
        (mount / name).mkdir(exist_ok=True)
        (mount / name / "memory.oom.group").write_text(value + "\n")
    here = machine(tmp_path, process(77, "prog", 0, group="/other"), files)
    findings = found(here, "groups")
    assert [f.level for f in findings] == [NOTE] * 3
    places = [f.mend.split()[3] for f in findings]
    assert places == [
        f"{mount}/{name}/memory.oom.group" for name in ("kube", "kube/pod/one", "other")
    ]


def test_doctor_says_why_no_group_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(NotSupported):
        place_of(tmp_path, "/a/b", delegated_in="/a", limit="500000000")
    found = [f for f in doctor.examine(Machine(str(tmp_path), NO_KERNEL)) if f.check == "cgroup"]
    assert [f.level for f in found] == [WARNING]
    assert "escaped" in found[0].text and "systemd-run" in found[0].mend


def test_no_group_where_memory_is_not_handed_on(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="systemd-run"):
        place_of(tmp_path, "/a/b", delegated_in="/")


def test_no_group_above_what_is_mounted(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path, "/")
    (mount / "cgroup.type").write_text("domain\n")  # only a real root has none
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where is not None
    with pytest.raises(NotSupported):
        cgroup.parent_for_child(where)


def test_the_root_is_asked_to_hand_memory_on(tmp_path: Path) -> None:
    mount = v2_tree(tmp_path, "/")
    where = cgroup.hierarchy(str(tmp_path / "proc"))
    assert where is not None
    assert cgroup.parent_for_child(where) == str(mount)
    assert (mount / "cgroup.subtree_control").read_text() == "+memory"


def test_only_groups_of_ended_programs_are_stale(tmp_path: Path) -> None:
    for name, procs in (("gs-run-4194305", ""), ("gs-run-4194305-ab12", ""), ("gs-run-1", ""),
                        ("gs-run-4194306", "77\n"), ("other", "")):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(procs)
    stale = cgroup.stale(str(tmp_path))
    assert [Path(path).name for path in stale] == ["gs-run-4194305", "gs-run-4194305-ab12"]


def test_limits_in_which_nothing_runs() -> None:
    with pytest.raises(UsageError):
        cgroup.check_limit(4096)


def test_where_guards_take_the_kernels_place_its_troubles_are_notes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trouble(machine: Machine) -> list[Finding]:
        return [Finding("helpers", BAD, "none")]

    monkeypatch.setattr(doctor, "_check_helpers", trouble)
    here = Machine(files=NO_KERNEL)
    guarded = backends.capabilities(files=NO_KERNEL).backend is not None
    found = [finding for finding in doctor.examine(here) if finding.check == "helpers"]
    assert [finding.level for finding in found] == [NOTE if guarded else BAD]
    assert doctor.can_protect(doctor.examine(here)) == guarded

"""Whose a cgroup is: paths as engines, kubelets and systemd make them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gs import container

ID = "257b1d14ce1c632d8d5ef53b9901f3b4583a4b95fe4bbb197623d59074059959"
SHORT = ID[:12]
#: Another's around it: a kind node, a pod's sandbox.
OUTER = "64ce8ab8e36f4f7a20b0c4c0a1c5f0e1d2c3b4a5968778695a4b3c2d1e0f9a8b"
UID = "2c48913c-b29f-11e7-9350-020968147796"
UID_ = UID.replace("-", "_")

PATHS = [
    # docker, with both cgroup drivers
    (f"/docker/{ID}", SHORT),
    (f"/system.slice/docker-{ID}.scope", SHORT),
    (f"/docker/{ID}/init.scope", SHORT),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope", SHORT),
    # containerd: nerdctl, Kubernetes with both drivers, a slice given to the wrong driver
    (f"/default/{ID}", SHORT),
    (f"/system.slice/nerdctl-{ID}.scope", SHORT),
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
        f"/cri-containerd-{ID}.scope",
        SHORT,
    ),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope", SHORT),
    (f"/kubepods/besteffort/pod{UID}/{ID}", SHORT),
    (f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
     SHORT),
    # CRI-O, and its monitor, which is none
    (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice"
     f"/crio-{ID}.scope", SHORT),
    (f"/kubepods/burstable/pod{UID}/crio-{ID}", SHORT),
    (f"/kubepods.slice/kubepods-besteffort.slice/crio-conmon-{ID}.scope",
     f"crio-conmon-{ID}.scope"),
    # podman: root's, a user's, with split groups, and its monitor
    (f"/machine.slice/libpod-{ID}.scope", SHORT),
    (f"/machine.slice/libpod-{ID}.scope/container", SHORT),
    (f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
     SHORT),
    (f"/system.slice/web.service/libpod-payload-{ID}", SHORT),
    (f"/machine.slice/libpod-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope"),
    # a container in a container: the innermost; systemd in a pod: the pod's container
    (f"/docker/{OUTER}/kubelet/kubepods/burstable/pod{UID}/{ID}", SHORT),
    (f"/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice"
     f"/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice"
     f"/cri-containerd-{ID}.scope", SHORT),
    (f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/system.slice/nginx.service",
     SHORT),
    # the group of a whole pod
    (f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice", "pod" + UID),
    (f"/kubepods/pod{UID}", "pod" + UID),
    (f"/kubepods/burstable/pod{ID[:32]}", "pod" + ID[:32]),
    # as seen from another cgroup namespace
    (f"/../../cri-containerd-{ID}.scope", SHORT),
    (f"/../{ID}", SHORT),
    ("/..", "/"),
    # lines of /proc/PID/cgroup, with the controllers of version 1
    (f"4:memory:/docker/{ID}", SHORT),
    (f"1:name=systemd:/system.slice/docker-{ID}.scope", SHORT),
    (f"0::/machine.slice/libpod-{ID}.scope", SHORT),
    ("12:cpu,cpuacct:/system.slice/cron.service", "cron.service"),
    # systemd's units
    ("/system.slice/nginx.service", "nginx.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-2841.scope",
     "app-gnome-firefox-2841.scope"),
    ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
    ("/system.slice/gs-worker.service/payload", "gs-worker.service"),
    ("/system.slice", "system.slice"),
    ("/init.scope", "init.scope"),
    # neither; and groups of single runs, whose names hold a process's number
    ("/", "/"),
    ("/lxc.payload.web", "/lxc.payload.web"),
    ("/gs-run-4711", "/"),
    ("/system.slice/batch.service/gs-run-4711", "batch.service"),
    (f"/docker/{ID}/gs-run-4711", SHORT),
    ("/batch/gs-run-4711/gs-handler-4711.4712", "/batch"),
    # digits enough, but no id
    (f"/docker/{ID}0", f"/docker/{ID}0"),
    (f"/docker/{ID[:63]}", f"/docker/{ID[:63]}"),
    (f"/docker/{ID.upper()}", f"/docker/{ID.upper()}"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name"), PATHS, ids=[path for path, _ in PATHS])
def test_paths(path: str, name: str) -> None:
    assert container.name_of(path) == name


@settings(deadline=None)
@given(st.text())
def test_any_text_has_a_name(path: str) -> None:
    assert container.name_of(path)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "user.slice", f"docker-{OUTER}.scope"])))
def test_the_innermost_container_is_found_anywhere(above: list[str]) -> None:
    assert container.name_of("/".join(["", *above, f"crio-{ID}.scope"])) == SHORT

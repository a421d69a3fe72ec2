"""Whose a cgroup is, read from its path alone: a container's, a pod's, or a systemd unit's."""

from __future__ import annotations

import re

from .cgroup import HANDLER_PREFIX, PREFIX

#: As many digits of a container's id as docker ps and crictl ps show.
SHORT = 12

#: What engines put before the id: docker-, cri-containerd-, crio-, libpod-, libpod-payload-, or
#: with a colon where containerd was given a slice's name for a path.
_CONTAINER = re.compile(r"^(?:(.*)[-:])?([0-9a-f]{64})(?:\.scope)?$")
#: A monitor beside its container, in a scope that has the container's id.
_MONITOR = "conmon"
_POD = re.compile(r"^(?:kubepods(?:-\w+)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|"
                  r"[0-9a-f]{32})(?:\.slice)?$")  # fmt: skip
_UNITS = (".service", ".scope", ".slice", ".socket", ".mount", ".swap")
#: A line of /proc/PID/cgroup: its number and its controllers.
_LINE = re.compile(r"^\d+:[^:/]*:(?=/)|^(?:unified|memory|name=\w+):(?=/)")


def name_of(path: str) -> str:
    """A short and lasting name of the owner of a cgroup.

    The first 12 digits of a container's id; of a group that a pod's containers share ``pod`` and
    the pod's uid; else the innermost systemd unit; else the path itself without the groups that
    gs makes for single runs. ``path`` may be a line of /proc/PID/cgroup, and relative to a cgroup
    namespace. Of nested containers it is the innermost; of a unit inside a container, the
    container.
    """
    parts = [part for part in _LINE.sub("", path).split("/") if part not in ("", ".", "..")]
    for part in reversed(parts):
        owner = _container(part) or _pod(part)
        if owner:
            return owner
    lasting = [part for part in parts if not part.startswith((PREFIX, HANDLER_PREFIX))]
    units = [part for part in lasting if part.endswith(_UNITS)]
    return units[-1] if units else "/" + "/".join(lasting)


def _container(part: str) -> str:
    found = _CONTAINER.match(part)
    if found is None or (found[1] or "").endswith(_MONITOR):
        return ""
    return found[2][:SHORT]


def _pod(part: str) -> str:
    found = _POD.match(part)
    return "pod" + found[1].replace("_", "-") if found else ""

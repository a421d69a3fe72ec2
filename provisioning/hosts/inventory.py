"""Which machines are meant: names given with --host, and the groups of hosts.toml."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.config import REPO
from provisioning.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_EXAMPLE = 'as in: [groups] web = ["web1", "admin@10.0.0.2:2222"]'


@dataclass(frozen=True)
class Host:
    """A machine by the name that ssh has for it: an alias of ssh_config, or [USER@]HOST[:PORT].
    Users, keys, ports and jump hosts are ssh_config's."""

    name: str

    @property
    def label(self) -> str:
        """The name as part of a file's name."""
        return "".join(c if c.isalnum() or c in "-._@" else "_" for c in self.name)


def chosen(names: Sequence[str], file: Path | None = None) -> list[Host]:
    """The hosts of these names and groups, each once, in their order; all that are in the file
    where no name is given. UsageError if there are none, or the file is not as it should be."""
    groups = _groups(file or _file())
    wanted = names or [name for members in groups.values() for name in members]
    hosts = dict.fromkeys(Host(name) for name in _expanded(wanted, groups))
    if not hosts:
        raise UsageError(
            "no host is given", hint=f"add --host NAME, or write hosts.toml, {_EXAMPLE}"
        )
    return list(hosts)


def _expanded(names: Sequence[str], groups: Mapping[str, list[str]]) -> Iterator[str]:
    for name in names:
        members = groups.get(name, [name])
        for member in members:
            if not member or member.startswith("-") or any(c.isspace() for c in member):
                raise UsageError(f"no name of a host: {member!r}", hint="give one that ssh takes")
            yield member


def _file() -> Path:
    own = os.environ.get("GS_HOSTS")
    if own:
        return Path(own)
    here = REPO / "hosts.toml"
    return here if here.exists() else Path.home() / ".config" / "gs" / "hosts.toml"


def _groups(file: Path) -> dict[str, list[str]]:
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}", str(error), _EXAMPLE) from None
    for key in content:
        if key != "groups":
            raise UsageError(f"{file}: unknown {key!r}", "there is groups", _EXAMPLE)
    groups = content.get("groups", {})
    if not isinstance(groups, dict):
        raise UsageError(f"{file}: groups is no table", hint=_EXAMPLE)
    for name, members in groups.items():
        if not isinstance(members, list) or not all(isinstance(m, str) for m in members):
            raise UsageError(f"{file}: the group {name!r} is no list of names", hint=_EXAMPLE)
    return groups

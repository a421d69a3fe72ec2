"""A kernel configuration from a base target and fragments, and proof that each option survived."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning import cache, commands
from provisioning.arch import Arch
from provisioning.errors import BuildFailed
from provisioning.kernel.versions import Flavour, Seed

_SET = re.compile(r"^(CONFIG_\w+)=(.*)$")
_UNSET = re.compile(r"^# (CONFIG_\w+) is not set$")

#: What names files of keys that are not in the sources.
_KEYS = ("CONFIG_SYSTEM_TRUSTED_KEYS=", "CONFIG_SYSTEM_REVOCATION_KEYS=", "CONFIG_MODULE_SIG_KEY=")

#: How an option that is off is written down here.
OFF = "n"


@dataclass(frozen=True)
class Lost:
    """An option that was asked for and is not in the configuration."""

    option: str
    wanted: str
    got: str
    fragment: str

    def __str__(self) -> str:
        return f"{self.option}={self.wanted} (is {self.got}, from {self.fragment})"


def parse(text: str) -> dict[str, str]:
    """Option → value; "is not set" is ``n``. Comments and blank lines are left out."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if match := _SET.match(line.strip()):
            options[match[1]] = match[2]
        elif match := _UNSET.match(line.strip()):
            options[match[1]] = OFF
    return options


def requested(
    fragments: Sequence[Path], without: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """Option → (value, name of the fragment that asked for it); the last one wins."""
    wanted: dict[str, tuple[str, str]] = {}
    for fragment in fragments:
        for option, value in parse(fragment.read_text()).items():
            wanted[option] = (value, fragment.name)
    return {option: asked for option, asked in wanted.items() if option not in without}


def lost(wanted: dict[str, tuple[str, str]], final: dict[str, str]) -> list[Lost]:
    """What did not survive; an option that is not there at all is off."""
    return [
        Lost(option, value, final.get(option, OFF), fragment)
        for option, (value, fragment) in wanted.items()
        if final.get(option, OFF) != value
    ]


def digest(flavour: Flavour) -> str:
    """Changes when the flavour's base or any of its fragments does."""
    parts: list[object] = [flavour.name, flavour.base, *sorted(flavour.without)]
    if flavour.seed:
        parts += [flavour.seed.config, flavour.seed.modules]
    for fragment in flavour.fragments:
        parts += [fragment.name, fragment.read_bytes()]
    return cache.key_of(*parts)


def grown_from(tree: Path, seed: Seed, arch: Arch) -> str:
    """A host's configuration without its distribution's keys, and, where it is said which modules
    are loaded there, without all others: as `make localmodconfig`, which cannot be told of another
    file than .config, and asks questions."""
    lines = seed.config.splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith(_KEYS))
    if not seed.modules:
        return text
    with tempfile.TemporaryDirectory(prefix="gs-config-") as name:
        place = Path(name)
        (place / ".config").write_text(text)
        (place / "modules").write_text(seed.modules)
        script = tree / "scripts/kconfig/streamline_config.pl"
        names = {"LSMOD": "modules", "objtree": name, "srctree": str(tree)}
        names |= {"ARCH": arch.name, "SRCARCH": arch.folder}
        words: list[str | Path] = ["perl", script, "--localmodconfig", tree, "Kconfig"]
        return commands.run(words, cwd=place, env=names).stdout


def configure(
    tree: Path, flavour: Flavour, make: Callable[[Sequence[str], dict[str, str]], None]
) -> bool:
    """Configure ``tree``; whether ``.config`` changed (unchanged, it keeps its time stamp).

    ``make(targets, variables)`` runs the tree's make. BuildFailed lists options that were lost.
    """
    fresh, given = tree / ".config.gs", tree / ".config.gs-requested"
    wanted = requested(flavour.fragments, flavour.without)
    given.write_text("".join(f"{option}={value}\n" for option, (value, _) in wanted.items()))
    fresh.unlink(missing_ok=True)
    # allnoconfig and its like take the requested values themselves, and leave off whatever the
    # requested options bring into sight; other bases get them appended, since later lines win.
    variables = {"KCONFIG_CONFIG": fresh.name}
    if flavour.seed:
        fresh.write_text(grown_from(tree, flavour.seed, flavour.arch))
    else:
        make([flavour.base], {**variables, "KCONFIG_ALLCONFIG": given.name})
    with fresh.open("a") as sink:
        sink.write(given.read_text())
    make(["olddefconfig"], variables)
    text = fresh.read_text()
    given.unlink()
    fresh.unlink()
    fresh.with_name(fresh.name + ".old").unlink(missing_ok=True)
    if missing := lost(wanted, parse(text)):
        raise BuildFailed(
            f"{len(missing)} options of the configuration {flavour.name} did not survive",
            ", ".join(map(str, missing)),
            "add what they depend on, or move them to a fragment of the series that has them",
        )
    config = tree / ".config"
    if config.exists() and config.read_text() == text:
        return False
    cache.write_whole(config, text)
    return True

"""Processor architectures: what each is called by whom, and how an image tells its own."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from provisioning import commands


@dataclass(frozen=True)
class Arch:
    """One architecture.

    ``name`` is kbuild's (``make ARCH=``), ``machine`` is uname -m's and the GNU tools', ``debian``
    Debian's. ``image``: where kbuild puts a kernel that boots.
    """

    name: str
    machine: str
    debian: str
    image: Path

    @property
    def is_foreign(self) -> bool:
        """Whether this machine has to cross-compile for it."""
        return self.machine != platform.machine()

    @property
    def cross(self) -> str:
        """What the names of the tools that compile for it begin with; nothing if it is ours."""
        return f"{self.machine}-linux-gnu-" if self.is_foreign else ""

    @property
    def folder(self) -> str:
        """What kbuild calls SRCARCH: its directory below arch/."""
        return self.image.parts[1]

    @property
    def make(self) -> dict[str, str]:
        """What kbuild is told of it."""
        cross = {"CROSS_COMPILE": self.cross} if self.cross else {}
        return {"ARCH": self.name, **cross}

    def tool(self, name: str) -> Path:
        """``gcc``, ``ld``, ``strip``: the one that makes programs for it."""
        package = f"gcc-{self.machine.replace('_', '-')}-linux-gnu"
        hint = package if self.is_foreign else "build-essential"
        return commands.which_or_hint(self.cross + name, hint)


X86_64 = Arch("x86_64", "x86_64", "amd64", Path("arch/x86/boot/bzImage"))
ARM64 = Arch("arm64", "aarch64", "arm64", Path("arch/arm64/boot/Image"))
_ALL = (X86_64, ARM64)

#: Documentation/arm64/booting.rst: where an Image says what it is.
_ARM64_MAGIC, _ARM64_MAGIC_AT = b"ARM\x64", 0x38


def named(name: str) -> Arch:
    """By kbuild's name; KeyError."""
    return {arch.name: arch for arch in _ALL}[name]


def of_image(kernel: Path) -> Arch:
    """Whose kernel this image is. What is not another's is taken for x86_64's."""
    with kernel.open("rb") as file:
        head = file.read(_ARM64_MAGIC_AT + len(_ARM64_MAGIC))
    return ARM64 if head.endswith(_ARM64_MAGIC) else X86_64

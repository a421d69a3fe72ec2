"""A stock kernel that our machines can boot, with the module loaded before the first program."""

from __future__ import annotations

import shutil
from pathlib import Path

from provisioning import cache
from provisioning.arch import X86_64, Arch
from provisioning.kernel import module, stock
from provisioning.kernel.stock import StockKernel
from provisioning.kernel.versions import Cost
from provisioning.vm import initramfs, payload

#: test_programs/boot/load_modules.c
INIT = "load_modules"

IMAGE = "vmlinuz"

#: The series that is taken when none is named: Debian 12's.
DEFAULT = "6.1"

#: A distribution's kernel is larger than one of the flavour guest.
COST = Cost(memory_mb=32)


def bootable(series: str, arch: Arch = X86_64) -> Path:
    """The image of Debian's kernel of a series, with its initrd and the module beside it.

    All that boots an image by its path boots this one with the module.
    """
    return with_module(stock.kernel(series, arch))


def with_module(kernel: StockKernel) -> Path:
    """The same of any kernel."""
    init = payload.programs(kernel.arch) / INIT
    ours = module.built(kernel)

    def make(part: Path) -> None:
        shutil.copy2(kernel.image, part / IMAGE)
        shutil.copy2(ours, part / module.NAME)
        initramfs.write(part / initramfs.NAME, init, [*initramfs.drivers(kernel.modules), ours])

    key = cache.key_of(kernel.key, cache.hash_file(ours), cache.hash_file(init))
    return cache.entry("stock-boot", key, make) / IMAGE

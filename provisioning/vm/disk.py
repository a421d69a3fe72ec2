"""Disks with a boot loader, for machines that boot what was installed on them."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from provisioning import cache, commands
from provisioning.errors import HostFailed
from provisioning.progress import step
from provisioning.vm import image, qemu
from provisioning.vm.session import guest_run

#: In the directory of a disk, beside image.HOST_KEY and image.KERNEL.
DISK = "disk.raw"

#: Where the partition begins: room for the boot loader's core, as all tools leave it.
_GAP_MB = 1

_SECTOR = 512

#: Run in the machine, booted from outside for this once. A menu is written to the serial line, and
#: does not wait long.
_INSTALL = """\
set -e
sed -i "s,^/dev/vda ,/dev/vda1 ," /etc/fstab
mkdir -p /etc/default/grub.d
cat >/etc/default/grub.d/gs-test.cfg <<END
GRUB_TIMEOUT=1
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
GRUB_CMDLINE_LINUX="{arguments}"
END
grub-install --target=i386-pc /dev/vda
update-grub
"""


def of_host(recipe: image.Recipe = image.HOST) -> Path:
    """The directory of a stock machine's disk with GRUB; made on the first call, in two minutes."""
    base = image.root_image(recipe)
    kernel = base / image.KERNEL
    arguments = qemu.kernel_arguments(kernel, qemu.choose_accelerator(kernel))
    script = _INSTALL.format(arguments=arguments)
    key = cache.key_of(base.name, script)
    return cache.entry("vm-disk", key, lambda part: _make(base, script, part))


def _make(base: Path, script: str, part: Path) -> None:
    with step("installing a boot loader on the disk of a stock machine"):
        for name in (image.HOST_KEY, image.KERNEL):
            shutil.copy2(base / name, part)
        _partition(base / image.ROOT, part / DISK)
        done = guest_run(base / image.KERNEL, ["sh", "-c", script], disk=part / DISK)
        if done.check_alive().exit_status != 0:
            raise HostFailed("GRUB was not installed", done.output[-500:], log=done.console_log)


def _partition(root: Path, disk: Path) -> None:
    """The file system as the only partition of a disk, with holes where it has some."""
    words = ("dd", f"if={root}", f"of={disk}", "bs=1M", f"seek={_GAP_MB}", "conv=sparse")
    commands.run([*words, "status=none"])
    first = _GAP_MB * 1024 * 1024 // _SECTOR
    size = root.stat().st_size
    with disk.open("r+b") as file:
        file.truncate(_GAP_MB * 1024 * 1024 + size)  # its last blocks may be a hole
        # A master boot record: one active partition of Linux; addresses in cylinders are ignored.
        entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", first,
                            size // _SECTOR)  # fmt: skip
        file.seek(446)
        file.write(entry + bytes(3 * 16) + b"\x55\xaa")

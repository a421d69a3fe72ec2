"""The Debian root images of the virtual machines: made once per content, never written to again."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from provisioning import cache, commands, config, rootfs
from provisioning.arch import ARM64, X86_64, Arch
from provisioning.errors import HostFailed
from provisioning.progress import step
from provisioning.rootfs import Suite
from provisioning.vm import initramfs

BOOKWORM = Suite("bookworm")

#: Ubuntu 20.04; for tests that are asked for, as its archive and its keyring are not Debian's.
UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
FOCAL = Suite(
    "focal",
    tuple(
        f"deb [signed-by={UBUNTU_KEYRING}] http://archive.ubuntu.com/ubuntu {name} main universe"
        for name in ("focal", "focal-updates", "focal-security")
    ),
)

#: What every guest needs, beyond a minimal Debian.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "udev",
    "openssh-server",
    "python3",
    "python3-pytest",
    "iproute2",
    "iputils-ping",
    "procps",
    "kmod",
    "util-linux",
    "gdb-minimal",
)


@dataclass(frozen=True)
class Recipe:
    """What is in an image, and the room in its file system; the file is sparse.

    ``boots``: the kernel is the image's own, and lies beside it with its initrd. Of a foreign
    architecture no program can run here, so that nothing is configured: such an image has no
    systemd and no sshd that work.
    """

    packages: tuple[str, ...]
    size: str
    boots: bool = False
    arch: Arch = X86_64
    suite: Suite = BOOKWORM


#: For the kernels that we build.
PLAIN = Recipe(PACKAGES, "1200M")

#: A machine as people have it, on which modules can be built. initramfs-tools and zstd are what
#: linux-image recommends.
STOCK = Recipe(
    (*PACKAGES, "linux-image-cloud-amd64", "linux-headers-cloud-amd64", "dkms", "zstd"),
    "2G",
    boots=True,
)

#: The same with its boot loader (see disk.py), and room for what is to be installed there.
HOST = Recipe((*STOCK.packages, "grub-pc", "sudo"), "3G", boots=True)

#: What the home series lives on: Ubuntu's own 5.4, GRUB 2.04, memory cgroups of version 1.
UBUNTU_HOST = Recipe(
    (
        *(name for name in PACKAGES if name != "gdb-minimal"),
        *("gdb", "initramfs-tools", "linux-image-virtual", "linux-headers-virtual"),
        *("apt", "dkms", "gcc", "make", "zstd", "grub-pc", "netbase", "sudo"),
    ),
    "4G",
    boots=True,
    suite=FOCAL,
)

#: What the pages of docs/recipes put to work.
SERVICES = Recipe(
    (*PACKAGES, "curl", "haproxy", "libc6-dev", "redis-server", "tcc"),
    "1400M",
)

#: With the other program called gs, and one that calls it.
GHOSTSCRIPT = Recipe((*PACKAGES, "ghostscript", "imagemagick"), "1600M")

#: For kernels of another architecture: what session.guest_run() needs.
ARM = Recipe(
    (
        "?essential",
        "gdb-minimal",
        "iproute2",
        "iputils-ping",
        "kmod",
        "mount",
        "procps",
        "python3",
        "python3-pytest",
    ),
    "1200M",
    arch=ARM64,
)

#: Files of ours in the image, below this directory as they lie in the guest.
OVERLAY = Path(__file__).parent / "guest" / "image"

#: Services that cost boot time and give a test machine nothing.
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "e2scrub_reap.service",
    "systemd-hwdb-update.service",
    "systemd-pstore.service",
    "getty@tty1.service",
]

#: In the directory of an image: its file system, and the key by which a client knows its sshd.
ROOT = "root.ext4"
HOST_KEY = "host_key.pub"

_HOST_KEY_IN_TAR = "./etc/ssh/ssh_host_ed25519_key.pub"

#: Of mmdebstrap: what a package's configuration does in other images.
MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")

#: Beside a root image that has its own kernel; the initrd is where QEMU is told to look for it.
KERNEL = "vmlinuz"
BOOT = {KERNEL: "./boot/vmlinuz-", initramfs.NAME: "./boot/initrd.img-"}


def recipe_for(arch: Arch) -> Recipe:
    """The one for kernels of this architecture that we build."""
    return {X86_64: PLAIN, ARM64: ARM}[arch]


def root_image(recipe: Recipe = PLAIN) -> Path:
    """Has ROOT and, where sshd works, HOST_KEY; made on the first call, in about a minute."""
    return cache.entry("vm-image", _key(recipe), lambda part: _make(recipe, part))


def _key(recipe: Recipe) -> str:
    files: list[object] = []
    for path in sorted(OVERLAY.rglob("*")):
        if path.is_file():
            files += [
                path.relative_to(OVERLAY),
                oct(path.stat().st_mode & 0o111),
                path.read_bytes(),
            ]
    foreign = [] if recipe.arch == X86_64 else [recipe.arch.name, *_configuring(recipe)]
    return cache.key_of(recipe.suite.name, *recipe.packages, recipe.size, *MASKED, *files, *foreign)


def _make(recipe: Recipe, part: Path) -> None:
    tar = part / rootfs.TAR
    with step(f"making the guest's root image ({recipe.suite.name})"):
        _debootstrap(recipe, tar)
        if not recipe.arch.is_foreign:
            (part / HOST_KEY).write_bytes(_read_member(tar, _HOST_KEY_IN_TAR))
        for name, prefix in BOOT.items() if recipe.boots else ():
            (part / name).write_bytes(_read_member(tar, prefix))
        _to_ext4(tar, part / ROOT, part / "tree", recipe.size)
        tar.unlink()


def _debootstrap(recipe: Recipe, tar: Path) -> None:
    hooks = [
        f'tar -C {_quote(OVERLAY)} --owner=0 --group=0 -c . | tar -x --no-same-permissions -C "$1"',
        *_configuring(recipe),
        'echo gs >"$1/etc/hostname"',
        'printf "127.0.0.1 localhost gs\\n" >"$1/etc/hosts"',
        'printf "/dev/vda / ext4 rw 0 0\\n" >"$1/etc/fstab"',
        # dpkg's of today makes it itself, Ubuntu 20.04's cannot do without.
        ': >>"$1/var/lib/dpkg/available"',
    ]
    words = [f"--architectures={recipe.arch.debian}"]
    if recipe.arch.is_foreign:
        words += ["--variant=extract", f"--hook-dir={MERGED_USR}"]
    else:
        words += ["--variant=minbase"]
    # Of the other variant it is the last stage that there is.
    stage = "extract" if recipe.arch.is_foreign else "customize"
    rootfs.make(tar, recipe.suite, recipe.packages, *words, *(f"--{stage}-hook={h}" for h in hooks))


def _configuring(recipe: Recipe) -> list[str]:
    """Hooks of mmdebstrap, beyond what each image gets."""
    if recipe.arch.is_foreign:
        master = '"$1/usr/share/base-passwd'
        return [
            f'for name in passwd group; do cp {master}/$name.master" "$1/etc/$name"; done',
            'mkdir -p -m 1777 "$1/var/tmp"',
        ]
    masks = " ".join(f'"$1/etc/systemd/system/{unit}"' for unit in MASKED)
    return [
        f'for unit in {masks}; do ln -sf /dev/null "$unit"; done',
        'chroot "$1" systemctl enable gs-payload.service systemd-networkd.service ssh.service',
    ]


def _to_ext4(tar: Path, image: Path, tree: Path, size: str) -> None:
    """A file system from the tar, with its owners. Device files come from the kernel's devtmpfs."""
    script = (
        "set -e; "
        f"mkdir {_quote(tree)}; "
        f"tar -xf {_quote(tar)} -C {_quote(tree)} --numeric-owner --exclude='./dev/*'; "
        f"truncate -s {size} {_quote(image)}; "
        f"mkfs.ext4 -q -F -E lazy_itable_init=1 -d {_quote(tree)} {_quote(image)}; "
        f"rm -rf {_quote(tree)}"
    )
    commands.run([*rootfs.as_owner_of_all(), "sh", "-c", script], timeout=600)


def _read_member(tar: Path, prefix: str) -> bytes:
    """The one file whose name begins so."""
    with tarfile.open(tar) as archive:
        names = [name for name in archive.getnames() if name.startswith(prefix)]
        member = archive.extractfile(names[0]) if len(names) == 1 else None
        if member is None:
            raise HostFailed(
                "the guest's root image is not as expected", f"{prefix}: {names or 'missing'}"
            )
        return member.read()


def _quote(path: Path) -> str:
    text = str(path)
    if "'" in text:
        raise HostFailed(
            "cannot build an image here", f"a quote in the path {text}", "use another directory"
        )
    return f"'{text}'"


def ssh_key() -> Path:
    """The private key for root in our machines; made once per cache, beside it ``.pub``."""
    key = config.cache_dir() / "vm" / "ssh" / "id_ed25519"
    with cache.exclusive(key):
        if not key.exists():
            key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = key.with_name("new")
            part.unlink(missing_ok=True)
            keygen = commands.which_or_hint("ssh-keygen", "openssh-client")
            commands.run(
                [keygen, "-q", "-t", "ed25519", "-N", "", "-C", "gs test machine", "-f", part]
            )
            part.with_name("new.pub").rename(key.with_suffix(".pub"))
            part.rename(key)
    return key

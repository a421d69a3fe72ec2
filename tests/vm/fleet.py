"""Hosts as the tasks see them: by names of a ssh_config, over ssh."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provisioning.config import REPO
from provisioning.vm import disk, image, machines

#: What sudo asks for, where it asks.
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Fleet:
    """Hosts by the names of a ssh_config, and where their logs are."""

    environment: dict[str, str]
    cache: Path

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "provisioning.program", *words]

    def invoke(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment,
            cwd=REPO,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @classmethod
    def of(cls, up: Sequence[machines.Machine], cache: Path) -> Fleet:
        """Machines of ours, by their names."""
        own = {"GS_SSH_CONFIG": str(up[0].ssh_config), "GS_CACHE": str(cache)}
        if len(up) > 1:
            together = up[0].folder / "ssh_config-all"
            together.write_text("".join(one.ssh_config.read_text() for one in up))
            own["GS_SSH_CONFIG"] = str(together)
        return cls({**os.environ, **own}, cache)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same, to be interrupted or waited for."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environment,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def by_sudo(self, machine: machines.Machine) -> Fleet:
        """One host, by a user of its own whom sudo asks for a password."""
        script = f"""
        useradd --create-home gs-asked && echo 'gs-asked:{PASSWORD}' | chpasswd &&
        echo 'gs-asked ALL=(ALL) ALL' >/etc/sudoers.d/gs-asked && cd /home/gs-asked &&
        cp -r /root/.ssh . && chown -R gs-asked: .ssh"""
        done = machine.run(["sh", "-c", script])
        assert done.returncode == 0, done.stderr
        config = machine.folder / "ssh_config-sudo"
        config.write_text(machine.ssh_config.read_text().replace("User root", "User gs-asked"))
        own = {"GS_SSH_CONFIG": str(config), "INVOKE_SUDO_PASSWORD": PASSWORD}
        return replace(self, environment={**self.environment, **own})

    def log_of(self, name: str) -> str:
        return max((self.cache / "hosts" / name).glob("*.log")).read_text()


def stock_disk() -> Path:
    """Of the system that GS_HOST_SYSTEM names: bookworm (default), or Ubuntu's focal, for which its
    archive must be reachable, and image.UBUNTU_KEYRING be there."""
    systems = {"bookworm": image.HOST, "focal": image.UBUNTU_HOST}
    return disk.of_host(systems[os.environ.get("GS_HOST_SYSTEM") or "bookworm"])


def state_of(machine: machines.Machine) -> str:
    """Packages, configuration, modules, what is in homes, and what is loaded."""
    script = """
    dpkg-query -W; lsmod | cut -d" " -f1 | sort; cat /boot/grub/grubenv 2>/dev/null
    find /etc /root /home /boot /lib/modules /usr/src -xdev -type f -printf "%p %m %s\\n" |
      grep -vE "/etc/(mtab|ld.so.cache)|/root/.bash_history" | sort
    """
    done = machine.run(["sh", "-c", script])
    assert done.returncode == 0, done.stderr
    return done.stdout


def open_to_all(machine: machines.Machine) -> str:
    """What on its disk everybody may write to, but for what is in the directories for that."""
    script = r"find / -xdev ! -type l -perm -o+w -print \( -path /tmp -o -path /var/tmp \) -prune"
    done = machine.run(["sh", "-c", f"{script} | sort"])
    assert done.stdout, done.stderr
    return done.stdout

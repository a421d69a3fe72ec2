"""The other program called gs works as before while our package comes, changes and goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fabric
import pytest

from provisioning import package
from provisioning.vm import image, machines
from tests.kernels import QUICK, kernel_or_skip
from tests.vm.recipes import said
from tests.vm.remote import connected

PAGE = r"%%!PS\n/Courier findfont 20 scalefont setfont 72 72 moveto (gs) show showpage\n"

#: Debian's policy keeps ImageMagick from calling Ghostscript; who uses both has taken this out.
ALLOW = "sed -i '/pattern=\"PDF\"/d' /etc/ImageMagick-6/policy.xml"


@pytest.fixture
def connection() -> Iterator[fabric.Connection]:
    """To a machine with Ghostscript and ImageMagick, and a page to print in /root."""
    name = f"tests-ghostscript-{os.getpid()}"
    try:
        base = image.root_image(image.GHOSTSCRIPT)
        machine = machines.up(kernel_or_skip(QUICK), name, memory_mb=768, base=base)
        with connected(machine) as connection:
            said(connection, f"printf '{PAGE}' >/root/page.ps; {ALLOW}")
            yield connection
    finally:
        machines.down(name)


def works(connection: fabric.Connection) -> None:
    """What people call gs for, by its own names and by ImageMagick."""
    assert said(connection, "dpkg -S $(command -v gs)") == "ghostscript: /usr/bin/gs\n"
    said(connection, "rm -f *.pdf *.png; ps2pdf page.ps && gs -q -dNODISPLAY -c quit")
    said(connection, "convert page.pdf page.png")
    assert said(connection, "head -c 5 page.pdf; head -c 4 page.png | tail -c 3") == "%PDF-PNG"


def files_of(connection: fabric.Connection) -> list[str]:
    """Everything in the root file system that a package could have left, by its path."""
    places = "/etc /opt /run/gs /srv /usr /var/lib /var/cache"
    changing = r"-name '*.pyc' -o -path '/var/lib/dpkg/*' -o -path '/var/lib/systemd/*'"
    found = said(
        connection, f"find {places} \\( {changing} \\) -prune -o -print 2>/dev/null || true"
    )
    return sorted(found.splitlines())


def test_installed_upgraded_and_removed(connection: fabric.Connection, tmp_path: Path) -> None:
    """After each of these Ghostscript works, and at the end nothing of ours is left."""
    before = files_of(connection)
    works(connection)
    deb = package.tool(tmp_path)
    connection.put(str(deb), "/root/gs-oom.deb")
    said(connection, "dpkg -i gs-oom.deb && gs-oom --version")
    works(connection)
    newer = "sed -i 's/^Version: .*/&+1/' next/DEBIAN/control && dpkg-deb -b next next.deb"
    said(connection, f"dpkg-deb -R gs-oom.deb next && {newer} && dpkg -i next.deb")
    assert said(connection, "dpkg-query -W -f '${Version}' gs-oom").endswith("+1")
    works(connection)
    said(connection, "dpkg -P gs-oom")
    works(connection)
    assert files_of(connection) == before

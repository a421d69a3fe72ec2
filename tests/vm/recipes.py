"""The pages of docs/recipes as what they tell a reader to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import fabric

from provisioning.config import REPO

PAGES = REPO / "docs" / "recipes"

#: A fenced block: what it is written in, its path if it is a file, its text.
_BLOCK = re.compile(r"^```(\w+)(?: (/\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)

#: Seconds for one block of commands: it may wait for an OOM, emulated on a busy host.
PATIENCE = 180


@dataclass(frozen=True)
class Block:
    """A file to be written, or commands where there is no path."""

    language: str
    path: str
    text: str


def blocks(page: str) -> list[Block]:
    """In the page's order. None may be passed over: neither file nor commands, it is a mistake."""
    text = (PAGES / page).read_text()
    found = [Block(*groups) for groups in _BLOCK.findall(text)]
    assert 2 * len(found) == text.count("```") > 0, page
    assert all(block.path or block.language == "sh" for block in found), page
    return found


def follow(connection: fabric.Connection, page: str) -> list[str]:
    """Do what the page says, as root. What each of its blocks of commands printed."""
    return list(_followed(connection, page))


def _followed(connection: fabric.Connection, page: str) -> Iterator[str]:
    for block in blocks(page):
        if block.path:
            put(connection, block)
        else:
            yield said(connection, block.text)


def put(connection: fabric.Connection, block: Block) -> None:
    """As an editor would: a new file is not executable."""
    path, text = shlex.quote(block.path), shlex.quote(block.text)
    said(connection, f'mkdir -p "$(dirname {path})"; printf %s {text} >{path}')


def said(connection: fabric.Connection, commands: str) -> str:
    """What they print; each of them must end well."""
    done = connection.run(f"sh -ec {shlex.quote(commands)}", timeout=PATIENCE)
    assert done.ok, f"{commands}\nended {done.exited}:\n{done.stdout}\n{done.stderr}"
    text: str = done.stdout
    return text

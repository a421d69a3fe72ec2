"""Marks each test by the directory that it is in, which says what it needs."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell's background job ignores SIGINT, and so would every program that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that stays is ended by its fixture, which must come to run.
signal.signal(signal.SIGTERM, signal.default_int_handler)

TESTS = Path(__file__).parent

#: These run inside the VM; test_guest.py takes them there.
collect_ignore = ["guest"]

KINDS = ("unit", "patches", "vm", "host")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The checks of a host are for hosts that are named."""
    if collection_path == TESTS / "host" and not config.getoption("hosts", None):
        return True
    return None  # as pytest decides


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`./dev test --only KIND` selects by these marks."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in KINDS:
            item.add_marker(folder)

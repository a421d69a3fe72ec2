"""The kernel's own parser, compiled for user space, against the shared table of lines."""

from __future__ import annotations

import ctypes
import errno
import shutil

import pytest

from provisioning import commands, config
from tests.unit.data import registry_lines

MAX_GRACE_MS = 30000
ROOM_FOR_NUL = 1


class Line(ctypes.Structure):
    """``struct gs_line`` of mm/graceful_shutdown_grammar.h."""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("grace_ms", ctypes.c_uint),
        ("words", ctypes.c_void_p),
        ("words_len", ctypes.c_size_t),
        ("argc", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The parser as a shared library, built with the sanitizers' traps on."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    library = tmp_path_factory.mktemp("grammar") / "grammar.so"
    source = config.REPO / "kernel_patches/files/mm/graceful_shutdown_grammar.c"
    flags = "-O1 -g -Wall -Wextra -Werror -fsanitize=undefined -fsanitize-undefined-trap-on-error"
    commands.run(["gcc", *flags.split(), "-shared", "-fPIC", "-o", library, source])
    loaded = ctypes.CDLL(str(library))
    loaded.gs_escape.restype = ctypes.c_size_t
    return loaded


def parse(grammar: ctypes.CDLL, text: bytes) -> tuple[int, Line, list[bytes]]:
    """What the kernel's parser makes of one line: its return value, the line, the words."""
    buffer = ctypes.create_string_buffer(text, len(text) + ROOM_FOR_NUL)
    line = Line()
    result = grammar.gs_line_parse(
        buffer, ctypes.c_size_t(len(text)), ctypes.c_uint(MAX_GRACE_MS), ctypes.byref(line)
    )
    words: list[bytes] = []
    if not result and line.words:
        words = ctypes.string_at(line.words, line.words_len).split(b"\0")[:-1]
    return result, line, words


def escape(grammar: ctypes.CDLL, word: bytes) -> bytes:
    """The word as the kernel writes it."""
    buffer = ctypes.create_string_buffer(4 * len(word) + ROOM_FOR_NUL)
    length = grammar.gs_escape(buffer, ctypes.c_size_t(len(buffer)), ctypes.c_char_p(word))
    return buffer.raw[:length]


def read_back(grammar: ctypes.CDLL, line: Line, words: list[bytes]) -> bytes:
    """The line in the form in which the registry shows it."""
    shown = [b"%d" % line.pid]
    if line.grace_ms:
        shown.append(b"grace_ms=%d" % line.grace_ms)
    return b" ".join(shown + [escape(grammar, word) for word in words])


def filled(text: str) -> bytes:
    """An entry of the table with its placeholders replaced."""
    return registry_lines.fill(
        text, pid=4711, exe="/bin/true", dir="/tmp", noexec="/etc/passwd"
    ).encode()


def skip_unless_known(text: str) -> None:
    """Lines with keys that the kernel's parser does not know yet say nothing about it."""
    source = (config.REPO / "kernel_patches/files/mm/graceful_shutdown_grammar.c").read_text()
    for key in registry_lines.keys_in(text):
        if f'"{key}' not in source:
            pytest.skip(f"the kernel's parser does not know {key}= yet")


@pytest.mark.parametrize(("text", "shown", "why"), registry_lines.GOOD)
def test_good_lines_read_back(grammar: ctypes.CDLL, text: str, shown: str, why: str) -> None:
    skip_unless_known(text)
    last = b""
    for one in filled(text).split(b"\n"):
        result, line, words = parse(grammar, one)
        assert result == 0, why
        if words:
            last = read_back(grammar, line, words)
    assert last == filled(shown), why


@pytest.mark.parametrize(("text", "name", "why"), registry_lines.BAD)
def test_bad_lines_are_refused(grammar: ctypes.CDLL, text: str, name: str, why: str) -> None:
    results = [parse(grammar, one)[0] for one in filled(text).split(b"\n")]
    first = next((result for result in results if result), 0)
    expected = -getattr(errno, name) if name in registry_lines.FROM_THE_TEXT else 0
    assert first == expected, why

"""The kernel's own parser of registry lines, compiled for user space, in the terms of gs."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from gs import procfile
from gs.errors import MalformedLine
from gs.procfile import Entry, Removal
from provisioning import commands, config

SOURCE = config.REPO / "kernel_patches/files/mm/graceful_shutdown_grammar.c"
_FLAGS = "-O1 -g -Wall -Wextra -Werror -fsanitize=undefined -fsanitize-undefined-trap-on-error"
_ROOM_FOR_NUL = 1
_EMPTY, _REGISTER, _REMOVE = range(3)
#: By the number of ``enum gs_scope``; the first is for a line that names none.
_SCOPES = (procfile.DEFAULT_SCOPE, *procfile.SCOPES)


class Line(ctypes.Structure):
    """``struct gs_line`` of mm/graceful_shutdown_grammar.h."""

    _fields_ = [
        ("kind", ctypes.c_int),
        ("pid", ctypes.c_int),
        ("grace_ms", ctypes.c_uint),
        ("signal", ctypes.c_uint),
        ("scope", ctypes.c_int),
        ("words", ctypes.c_void_p),
        ("words_len", ctypes.c_size_t),
        ("argc", ctypes.c_int),
    ]


class Grammar:
    """The parser as a shared library, built with the sanitizer's traps on."""

    def __init__(self, directory: Path) -> None:
        library = directory / "grammar.so"
        commands.run(["gcc", *_FLAGS.split(), "-shared", "-fPIC", "-o", library, SOURCE])
        self._library = ctypes.CDLL(str(library))
        self._library.gs_escape.restype = ctypes.c_size_t

    def parse(self, text: bytes) -> Entry | Removal | None:
        """What gs's parse_command() is for the kernel: the same results, the same errors."""
        buffer = ctypes.create_string_buffer(text, len(text) + _ROOM_FOR_NUL)
        line = Line()
        result = self._library.gs_line_parse(
            buffer,
            ctypes.c_size_t(len(text)),
            ctypes.c_uint(procfile.MAX_GRACE_MS),
            ctypes.byref(line),
        )
        if result:
            raise MalformedLine("the kernel refuses it", errno_name=errno.errorcode[-result])
        if line.kind == _EMPTY:
            return None
        if line.kind == _REMOVE:
            return Removal(line.pid)
        assert line.kind == _REGISTER
        words = ctypes.string_at(line.words, line.words_len).split(b"\0")[:-1]
        assert len(words) == line.argc
        return Entry(
            line.pid,
            [os.fsdecode(word) for word in words],
            line.grace_ms or None,
            line.signal or None,
            _SCOPES[line.scope],
        )

    def escape(self, word: bytes) -> bytes:
        """The word as the kernel writes it."""
        buffer = ctypes.create_string_buffer(4 * len(word) + _ROOM_FOR_NUL)
        size = ctypes.c_size_t(len(buffer))
        length = self._library.gs_escape(buffer, size, ctypes.c_char_p(word))
        return buffer.raw[:length]


def disagreement(grammar: Grammar, text: bytes) -> str:
    """What gs and the kernel make of each line of a text where that differs, else nothing."""
    for line in text.split(b"\n"):
        ours, theirs = _ours(line), _theirs(grammar, line)
        if ours != theirs:
            return f"{line!r}: gs says {ours!r}, the kernel {theirs!r}"
    return ""


def _ours(line: bytes) -> object:
    try:
        return procfile.parse_command(os.fsdecode(line))
    except MalformedLine as error:
        return error.errno_name


def _theirs(grammar: Grammar, line: bytes) -> object:
    try:
        return grammar.parse(line)
    except MalformedLine as error:
        return error.errno_name

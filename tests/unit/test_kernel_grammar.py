"""The kernel's own parser, compiled for user space, against the shared table and gs's parser."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gs import procfile
from gs.errors import MalformedLine
from tests.unit.data import registry_lines
from tests.unit.kernel_grammar import Grammar, disagreement
from tests.unit.test_gs_procfile import entries, pids


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Grammar:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    return Grammar(tmp_path_factory.mktemp("grammar"))


def filled(text: str) -> bytes:
    """An entry of the table with its placeholders replaced."""
    return registry_lines.fill(
        text, pid=4711, exe="/bin/true", dir="/tmp", noexec="/etc/passwd"
    ).encode()


# ---------------------------------------------------------------------------- the shared table


@pytest.mark.parametrize(("text", "shown", "why"), registry_lines.GOOD)
def test_good_lines_read_back(grammar: Grammar, text: str, shown: str, why: str) -> None:
    found = [grammar.parse(line) for line in filled(text).split(b"\n")]
    last = [command for command in found if command is not None][-1]
    assert os.fsencode(procfile.format_command(last)) == filled(shown), why


@pytest.mark.parametrize(("text", "name", "why"), registry_lines.BAD)
def test_bad_lines_are_refused(grammar: Grammar, text: str, name: str, why: str) -> None:
    lines = filled(text).split(b"\n")
    if name not in registry_lines.FROM_THE_TEXT:
        assert [grammar.parse(line) for line in lines], why
        return
    with pytest.raises(MalformedLine) as caught:
        for line in lines:
            grammar.parse(line)
    assert caught.value.errno_name == name, why


# ---------------------------------------------------------------------------- gs says the same

#: Pieces of lines, good and nearly good.
PIECES = st.sampled_from(
    [
        *(b"1", b"4711", b"-1", b"-4711", b"-", b"0", b"-0", b"007", b"2147483647", b"2147483648"),
        *(b"00000000001", b"4294967297", b"#", b"# x", b"=", b"grace_ms", b"grace_ms=", b"\0"),
        *(b"grace_ms=1", b"grace_ms=0", b"grace_ms=30000", b"grace_ms=30001", b"grace_ms=007"),
        *(b"signal=", b"signal=1", b"signal=064", b"signal=65", b"signal=0", b"signal=TERM"),
        *(b"scope=", b"scope=tree", b"scope=process", b"scope=trees", b"scope", b"nonsense=1"),
        *(b"/", b"/x", b"/bin/true", b"x", b"./x", b"\\040", b"\\134", b"\\377", b"\\400", b"\\"),
        *(b"\\000", b"\\08", b"\r", b"\v", b"\xc3\xa9", b"\xff", "\u0663".encode()),
    ]
)
SPACES = st.sampled_from([b" ", b" ", b" ", b"\t", b"  ", b""])
LONG = st.builds(
    lambda piece, length: b"/" + piece * (length // len(piece)),
    st.sampled_from([b"n", b"\\040", b"n "]),
    st.sampled_from([4094, 4095, 4096, 4 * 4095, 8185, 8192, 8193]),
)
LINES = st.lists(st.tuples(PIECES | st.binary(max_size=6), SPACES), max_size=9).map(
    lambda pairs: b"".join(word + space for word, space in pairs).replace(b"\n", b"")
)
#: What makes a line go on beyond its first word.
STARTS = st.sampled_from([b"", b"", b"4711 ", b"4711 ", b"4711 /bin/true ", b"1 signal=9 "])


@settings(max_examples=2000, deadline=None)
@given(STARTS, LINES, st.just(b"") | st.just(b"") | LONG)
@example(b"4711 /", b"", b"n" * 4096 + b" \\")
@example(b"# ", b"", b"n" * 8192)
def test_both_parsers_say_the_same(grammar: Grammar, start: bytes, line: bytes, end: bytes) -> None:
    assert not disagreement(grammar, start + line + end)


@given(entries | st.builds(procfile.Removal, pids))
def test_what_gs_writes_the_kernel_reads(
    grammar: Grammar, command: procfile.Entry | procfile.Removal
) -> None:
    assert grammar.parse(os.fsencode(procfile.format_command(command))) == command


@given(st.binary(min_size=1, max_size=60).filter(lambda data: b"\0" not in data))
def test_both_escape_alike(grammar: Grammar, word: bytes) -> None:
    escaped = grammar.escape(word)
    assert os.fsdecode(escaped) == procfile.escape(os.fsdecode(word))
    assert os.fsencode(procfile.unescape(os.fsdecode(escaped))) == word

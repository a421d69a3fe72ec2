"""What the words of a command line mean: the scanner of `gs run`, and the values of options.

Written by hand since `gs run` precedes every program: argparse, shlex and re would cost more time
than all the rest of it.
"""

from __future__ import annotations

from .errors import UsageError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

#: Options of `gs run` that take a value, and those that do not.
VALUED = (
    "--on-oom",
    "--grace",
    "--signal",
    "--scope",
    "--memory-max",
    "--swap-max",
    "--user",
    "--backend",
)
FLAGS = ("--freeze", "--allow-unprotected", "--dry-run")
HELP = ("-h", "--help")

_UNITS_OF_TIME = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS_OF_SIZE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
#: What a shell would act upon; unquoted it is surely a mistake.
_SHELL_ONLY = "$`<>|&;()"


class RunArguments(Record):
    """A scanned command line of `gs run`: options as they were written, and PROG with its words."""

    __slots__ = ("help", "options", "program")

    def __init__(self, options: dict[str, str], program: Sequence[str], help: bool = False) -> None:
        self.options = options
        self.program = list(program)
        self.help = help

    def __hash__(self) -> int:
        return hash((tuple(self.options.items()), tuple(self.program), self.help))


# ---------------------------------------------------------------------------- the scanner


def scan_run(words: Sequence[str]) -> RunArguments:
    """Split the words behind `gs run` into its options and PROG's command line.

    Options stand before PROG, or are the longest tail of words that parses wholly as options and
    contains --on-oom. ``--`` before PROG ends gs's options, the tail's too. Raises UsageError.
    """
    options: dict[str, str] = {}
    position, ended = 0, False
    while position < len(words) and words[position].startswith("-"):
        if words[position] == "--":
            position, ended = position + 1, True
            break
        if words[position] in HELP:
            return RunArguments(options, [], help=True)
        taken = _take_option(words, position)
        if taken is None:
            raise _not_an_option(words, position)
        position = _store(options, *taken)
    program = list(words[position:])
    if not ended:
        program, tail = _split_tail(program)
        for name, value in tail:
            _store(options, name, value, 0)
    if not program:
        raise UsageError("no program to run", hint="`gs-oom run --help` shows how")
    return RunArguments(options, program)


def _take_option(words: Sequence[str], position: int) -> tuple[str, str, int] | None:
    """The option at a position: its name, its value, the position behind it; None if it is none."""
    name, equals, value = words[position].partition("=")
    if name in FLAGS and not equals:
        return name, "yes", position + 1
    if name not in VALUED:
        return None
    if equals:
        return name, value, position + 1
    # No value of ours begins with a dash, so such a word is the next option.
    if position + 1 == len(words) or words[position + 1].startswith("-"):
        return None
    return name, words[position + 1], position + 2


def _not_an_option(words: Sequence[str], position: int) -> UsageError:
    name = words[position].partition("=")[0]
    if name in VALUED:
        return UsageError(f"{name} needs a value")
    if name in FLAGS:
        return UsageError(f"{name} takes no value")
    return UsageError(
        f"unknown option {name}", hint="`gs-oom run --help` lists them; PROG's own stand behind it"
    )


def _store(options: dict[str, str], name: str, value: str, behind: int) -> int:
    if name in options:
        raise UsageError(
            f"{name} is given twice", hint="write `--` before PROG if one of them is PROG's own"
        )
    options[name] = value
    return behind


def _split_tail(program: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """PROG's words, and the options of the longest tail that is made of options alone."""
    for start in range(1, len(program)):
        tail = _parse_tail(program, start)
        if tail is not None and any(name == "--on-oom" for name, _ in tail):
            return program[:start], tail
    return program, []


def _parse_tail(words: Sequence[str], start: int) -> list[tuple[str, str]] | None:
    found = []
    position = start
    while position < len(words):
        taken = _take_option(words, position)
        if taken is None:
            return None
        name, value, position = taken
        found.append((name, value))
    return found


# ---------------------------------------------------------------------------- values


def split_words(text: str) -> list[str]:
    """Words as a POSIX shell quotes them, and nothing else of a shell: no variables, no pipes."""
    words: list[str] = []
    word: list[str] | None = None
    position = 0
    while position < len(text):
        char = text[position]
        if char in " \t\n":
            if word is not None:
                words.append("".join(word))
            word = None
            position += 1
            continue
        piece, position = _take_piece(text, position)
        word = [*(word or []), piece]
    if word is not None:
        words.append("".join(word))
    return words


def _take_piece(text: str, start: int) -> tuple[str, int]:
    """What one character or one quoted stretch stands for, and the position behind it."""
    char = text[start]
    if char == "'":
        end = text.find("'", start + 1)
        if end < 0:
            raise UsageError(f"a quote is left open in {text!r}")
        return text[start + 1 : end], end + 1
    if char == '"':
        return _take_double_quoted(text, start + 1)
    if char == "\\":
        if start + 1 == len(text):
            raise UsageError(f"a backslash at the end of {text!r}")
        return text[start + 1].replace("\n", ""), start + 2
    if char in _SHELL_ONLY:
        raise _needs_shell(char, text)
    return char, start + 1


def _take_double_quoted(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    while position < len(text):
        char = text[position]
        if char == '"':
            return "".join(out), position + 1
        if char in "$`":
            raise _needs_shell(char, text)
        if char == "\\" and text[position + 1 : position + 2] in ("\\", '"', "$", "`", "\n"):
            position += 1
            char = text[position].replace("\n", "")
        out.append(char)
        position += 1
    raise UsageError(f"a quote is left open in {text!r}")


def _needs_shell(char: str, text: str) -> UsageError:
    return UsageError(
        f"{char} in {text!r}",
        "no shell reads the handler's command",
        "quote it to mean the character, or use: sh -c '...'",
    )


def parse_grace(text: str) -> float:
    """A time such as 500ms, 5s, 1.5m, in seconds; a bare number is seconds."""
    digits, unit = _number_and_unit(text)
    try:
        return float(digits) * _UNITS_OF_TIME[unit or "s"]
    except (KeyError, ValueError):
        raise UsageError(f"no time: {text!r}", hint="write 5s, 500ms or 2m") from None


def parse_size(text: str) -> int:
    """A size such as 500M or 1.5G in bytes; units are powers of 1024."""
    digits, unit = _number_and_unit(text)
    try:
        return int(float(digits) * _UNITS_OF_SIZE[unit.upper()])
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"no size: {text!r}", hint="write 500M or 2G") from None


def _number_and_unit(text: str) -> tuple[str, str]:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    # float() knows signs, exponents and underscores; here digits and one point are enough.
    if set(digits) - set("0123456789."):
        digits = ""
    return digits, text[len(digits) :]


def parse_signal(text: str) -> int:
    """A signal by name, with or without SIG, or by number; UsageError if there is none of it."""
    # The module `signal` wraps this one in enums, which cost more than the rest of the start-up.
    import _signal  # type: ignore[import-not-found]

    if text.isdigit() and text.isascii():
        value: object = int(text)
    else:
        name = text.upper()
        value = getattr(_signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if isinstance(value, int) and 1 <= value <= 64:
        return value
    raise UsageError(f"no signal: {text!r}", hint="write TERM, SIGUSR1 or 15")

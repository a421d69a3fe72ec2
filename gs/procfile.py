"""The only module that knows the grammar of the registry and of the event stream.

Text in, records out, and back; no file is opened here. Strict as the kernel is: what it would
refuse is refused here with the same errno, what it would accept is accepted. Text is what
os.fsdecode() makes of the files' bytes, so that any byte survives the way there and back.
"""

from __future__ import annotations

import sys

from .errors import MalformedLine
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping, Sequence, Union

    Value = Union[int, str, None]

PATH_MAX = 4096
LINE_MAX = 2 * PATH_MAX
INT_MAX = 2**31 - 1
#: The kernel's ceiling of a grace time unless vm.graceful_shutdown_max_grace_ms says otherwise.
MAX_GRACE_MS = 30000
MAX_SIGNAL = 64
SCOPES = ("process", "tree")
#: As the kernel has it: what is not written down means this.
DEFAULT_SCOPE = "process"

_BLANKS = " \t"
_ESCAPED = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}
_DIGITS = frozenset("0123456789")
_OCTAL = frozenset("01234567")


# ---------------------------------------------------------------------------- words


def escape(word: str) -> str:
    """The word with every byte that would split it written as a backslash and three digits."""
    if not any(c in word for c in _ESCAPED):
        return word
    return "".join(_ESCAPED.get(c, c) for c in word)


def unescape(text: str) -> str:
    """The word that was escaped; anything but three octal digits behind a backslash is refused."""
    first, *rest = text.split("\\")
    if not rest:
        return text
    # Bytes above 127 are pieces of characters, so they are put together as bytes.
    out = _bytes(first)
    for part in rest:
        digits = part[:3]
        if len(digits) < 3 or not _OCTAL.issuperset(digits):
            raise MalformedLine(f"bad escape in {text!r}", "a backslash takes three octal digits")
        code = int(digits, 8)
        if not 0 < code <= 0o377:
            raise MalformedLine(f"bad escape in {text!r}", f"\\{digits} is not a byte of a string")
        out += bytes((code,)) + _bytes(part[3:])
    return _text(out)


def _bytes(text: str) -> bytes:
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode(sys.getfilesystemencoding(), "surrogateescape")


def _split(line: str) -> list[str]:
    """Words between blanks and tabs; str.split() alone would split at other white space too."""
    return [word for word in line.replace("\t", " ").split(" ") if word]


def number(text: str, most: int) -> int | None:
    """A decimal number from 1 to ``most`` in digits alone, or None."""
    if not text or len(text) > 10 or not _DIGITS.issuperset(text):
        return None
    value = int(text)
    return value if 1 <= value <= most else None


# ---------------------------------------------------------------------------- the registry


class Entry(Record):
    """One registration as it stands in the registry.

    ``argv`` is the handler and its arguments, empty if there is only a signal; ``grace_ms`` is in
    milliseconds, None for the kernel's default; ``signal`` is None for none; ``scope`` is one of
    SCOPES; ``uid`` is the registrant's user number where the kernel shows somebody else's entry
    (a line ``# uid=<n> …``), else None.
    """

    __slots__ = ("argv", "grace_ms", "pid", "scope", "signal", "uid")

    def __init__(
        self,
        pid: int,
        argv: Sequence[str] = (),
        grace_ms: int | None = None,
        signal: int | None = None,
        scope: str = DEFAULT_SCOPE,
        uid: int | None = None,
    ) -> None:
        self.pid = pid
        self.argv = tuple(argv)
        self.grace_ms = grace_ms
        self.signal = signal
        self.scope = scope
        self.uid = uid


class Removal(Record):
    """The command that takes the entry of a process back."""

    __slots__ = ("pid",)

    def __init__(self, pid: int) -> None:
        self.pid = pid


def parse_command(line: str, max_grace_ms: int = MAX_GRACE_MS) -> Entry | Removal | None:
    """One line that may be written to the registry; None for a blank line or a comment."""
    if len(_bytes(line)) > LINE_MAX:
        raise MalformedLine(_quoted(line), f"longer than {LINE_MAX} bytes", errno_name="E2BIG")
    if "\0" in line:
        raise MalformedLine(_quoted(line), "a NUL byte")
    words = _split(line)
    if not words or line.startswith("#"):
        return None
    if words[0].startswith("-"):
        return _parse_removal(words, line)
    pid = number(words[0], INT_MAX)
    if pid is None:
        raise MalformedLine(_quoted(line), f"{words[0]!r} is no process number")
    return _parse_entry(pid, words[1:], line, max_grace_ms)


def _parse_removal(words: list[str], line: str) -> Removal:
    pid = number(words[0][1:], INT_MAX)
    if pid is None or len(words) > 1:
        raise MalformedLine(_quoted(line), "a removal is a dash and a process number, no more")
    return Removal(pid)


def _parse_entry(pid: int, words: list[str], line: str, max_grace_ms: int) -> Entry:
    options: dict[str, int | str] = {}
    position = 0
    while position < len(words) and not words[position].startswith("/"):
        key, value = _parse_option(words[position], line, max_grace_ms)
        if key in options:
            raise MalformedLine(_quoted(line), f"{key} twice")
        options[key] = value
        position += 1
    argv = _parse_argv(words[position:], line)
    if not argv and "signal" not in options:
        raise MalformedLine(_quoted(line), "neither an absolute path nor a signal")
    return Entry(pid, argv, **options)  # type: ignore[arg-type]


def _parse_argv(words: list[str], line: str) -> list[str]:
    argv: list[str] = []
    for word in words:
        argv.append(unescape(word))
        # The kernel too calls a path too long before it looks at the words behind it.
        if len(argv) == 1 and len(_bytes(argv[0])) >= PATH_MAX:
            raise MalformedLine(_quoted(line), "the path is too long", errno_name="ENAMETOOLONG")
    return argv


def _parse_option(word: str, line: str, max_grace_ms: int) -> tuple[str, int | str]:
    key, equals, text = word.partition("=")
    value: int | str | None = None
    if key == "grace_ms":
        value = number(text, max_grace_ms)
    elif key == "signal":
        value = number(text, MAX_SIGNAL)
    elif key == "scope":
        value = text if text in SCOPES else None
    elif equals:
        raise MalformedLine(_quoted(line), f"unknown key {key!r}")
    else:
        raise MalformedLine(_quoted(line), f"{word!r} is neither key=value nor an absolute path")
    if value is None:
        raise MalformedLine(_quoted(line), f"{text!r} is no value of {key}")
    return key, value


def _quoted(line: str) -> str:
    return f"bad registry line {line[:80]!r}"


def parse_commands(text: str, max_grace_ms: int = MAX_GRACE_MS) -> list[Entry | Removal]:
    """Everything that one write holds, in order; blank lines and comments are left out."""
    commands = (parse_command(line, max_grace_ms) for line in text.split("\n"))
    return [command for command in commands if command is not None]


def format_command(command: Entry | Removal) -> str:
    """The line, without its newline, that says this; the inverse of :func:`parse_command`.

    It is the one that the kernel shows: what is the default is not written.
    """
    if isinstance(command, Removal):
        return f"-{command.pid}"
    words = [str(command.pid)]
    if command.grace_ms is not None:
        words.append(f"grace_ms={command.grace_ms}")
    if command.signal is not None:
        words.append(f"signal={command.signal}")
    if command.scope != DEFAULT_SCOPE:
        words.append(f"scope={command.scope}")
    words += [escape(word) for word in command.argv]
    return " ".join(words)


def parse_registry(text: str) -> list[Entry]:
    """What reading the registry gives; root sees others' entries as ``# uid=<n> …``.

    Nothing is held against the ceiling of a grace time here: it may have been lowered since.
    """
    entries = []
    for line in text.split("\n"):
        uid, line = _strip_owner(line)
        command = parse_command(line, INT_MAX)
        if isinstance(command, Entry):
            entries.append(command.replace(uid=uid))
        elif command is not None:
            raise MalformedLine(_quoted(line), "the registry shows no removals")
    return entries


def _strip_owner(line: str) -> tuple[int | None, str]:
    if not line.startswith("# uid="):
        return None, line
    text, _, rest = line[len("# uid=") :].partition(" ")
    if not text or not _DIGITS.issuperset(text):
        return None, line
    return int(text), rest


# ---------------------------------------------------------------------------- the features


def parse_features(text: str) -> dict[str, str]:
    """The features file: one ``key=value`` a line; a key that comes twice is an error."""
    features: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        key, equals, value = line.partition("=")
        if not key or not equals or key in features:
            raise MalformedLine(f"bad line in the features file: {line!r}")
        features[key] = value
    return features


def feature_list(features: Mapping[str, str], key: str) -> tuple[str, ...]:
    """A feature whose value is a list with commas, such as ``keys``."""
    return tuple(filter(None, features.get(key, "").split(",")))


# ---------------------------------------------------------------------------- the event stream

#: Values that are text; every other value is a number. ``-`` is "cannot tell" in both.
TEXT_KEYS = frozenset(
    ("event", "comm", "constraint", "memcg", "handler", "outcome", "by_comm", "gfp", "flags")
)
#: Values that are numbers, whatever they hold.
_NUMBER_KEYS = frozenset(
    """
    seq time_ns pid uid count handler_pid signal grace_ms rss_kb swap_kb total_pages points
    oom_score_adj exit_status elapsed_us errno free_kb group mem_kb mem_max_kb mem_low_kb
    mem_swap_kb mem_swap_max_kb memsw_kb memsw_max_kb swappiness anon_kb file_kb shmem_kb
    swapents_kb pgtables_kb total_vm_kb hiwater_rss_kb hiwater_vm_kb locked_kb pinned_kb
    data_kb exec_kb stack_kb task_size_kb threads prio static_prio minflt majflt utime_ns
    stime_ns gtime_ns start_time_ns start_boottime_ns by_pid order
    """.split()  # noqa: SIM905 - a list of fifty quoted words reads badly
)
#: Text that may really be "-": a process may call itself so, and then it is.
_NAMES = frozenset(("comm", "by_comm"))
_ALWAYS = ("seq", "time_ns", "event")
_COMMON = ("pid", "comm", "uid", "constraint", "memcg")


def parse_event(line: str) -> dict[str, Value]:
    """One record of the stream, without its newline: its keys and values, in their order.

    Numbers are int, ``-`` is None. A key that this version does not know keeps its place: as a
    number if it is one, else as text, so that a newer kernel can still be followed.
    """
    record: dict[str, Value] = {}
    for word in line.split(" "):
        key, equals, text = word.partition("=")
        if not key or not equals:
            raise MalformedLine(f"bad event record {line[:80]!r}", f"{word!r} is not key=value")
        if key in record:
            raise MalformedLine(f"bad event record {line[:80]!r}", f"{key} twice")
        record[key] = _parse_value(key, text, line)
    needed = _ALWAYS + (("count",) if record.get("event") == "lost" else _COMMON)
    missing = [key for key in needed if key not in record]
    missing += [key for key in _ALWAYS if record.get(key, "") is None]
    if missing:
        raise MalformedLine(f"bad event record {line[:80]!r}", f"no {', '.join(missing)}")
    return record


def _parse_value(key: str, text: str, line: str) -> Value:
    if text == "-" and key not in _NAMES:
        return None
    if key in TEXT_KEYS:
        return unescape(text)
    value = _signed(text)
    if value is not None:
        return value
    if key in _NUMBER_KEYS:
        raise MalformedLine(f"bad event record {line[:80]!r}", f"{key}={text!r} is no number")
    return unescape(text)


def _signed(text: str) -> int | None:
    digits = text[1:] if text.startswith("-") else text
    if not digits or not _DIGITS.issuperset(digits):
        return None
    # Only what is written back as it stood is taken for a number.
    return int(text) if str(int(text)) == text else None


def format_event(record: Mapping[str, Value]) -> str:
    """The line, without its newline, of one record; the inverse of :func:`parse_event`."""
    return " ".join(f"{key}={_format_value(value)}" for key, value in record.items())


def _format_value(value: Value) -> str:
    if value is None:
        return "-"
    return escape(value) if isinstance(value, str) else str(value)


def split_lines(data: bytes) -> tuple[Iterable[str], bytes]:
    """The whole lines in a piece of a stream, and the rest that waits for its newline."""
    whole, newline, rest = data.rpartition(b"\n")
    return (_text(whole).split("\n") if newline else ()), rest

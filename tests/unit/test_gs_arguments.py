"""The scanner of `gs run`, shell words, and the values of options."""

from __future__ import annotations

import shlex
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gs import arguments
from gs.errors import UsageError

H = {"--on-oom": "h"}

#: A command line of `gs run`, the options it gives, and PROG's words.
SCANNED = [
    # before PROG
    ("--on-oom h prog", H, "prog"),
    ("--on-oom=h prog", H, "prog"),
    ("--on-oom= prog", {"--on-oom": ""}, "prog"),
    ("--on-oom 'h a' prog x", {"--on-oom": "h a"}, "prog x"),
    ("--on-oom=h=1 prog", {"--on-oom": "h=1"}, "prog"),
    ("--on-oom h --grace 5s prog", {**H, "--grace": "5s"}, "prog"),
    ("--grace=5s --on-oom h prog a b", {**H, "--grace": "5s"}, "prog a b"),
    ("--dry-run --on-oom h prog", {**H, "--dry-run": "yes"}, "prog"),
    ("--freeze --on-oom h prog", {**H, "--freeze": "yes"}, "prog"),
    ("prog --freeze --on-oom h", {**H, "--freeze": "yes"}, "prog"),
    ("prog --freeze -- --on-oom h", {**H}, "prog --freeze --"),
    ("--allow-unprotected --on-oom h prog", {**H, "--allow-unprotected": "yes"}, "prog"),
    ("--memory-max 5M --swap-max 1M --on-oom h p", {**H, "--memory-max": "5M", "--swap-max": "1M"},
     "p"),
    ("--user u:g --backend kernel --scope tree --signal TERM --on-oom h p",
     {**H, "--user": "u:g", "--backend": "kernel", "--scope": "tree", "--signal": "TERM"}, "p"),
    ("--signal TERM prog", {"--signal": "TERM"}, "prog"),
    # what is behind PROG belongs to PROG
    ("--on-oom h prog --help", H, "prog --help"),
    ("--on-oom h prog -x --grace 5s", H, "prog -x --grace 5s"),
    ("--on-oom h prog --dry-run", H, "prog --dry-run"),
    ("--on-oom h prog -- x", H, "prog -- x"),
    ("--on-oom h prog --", H, "prog --"),
    ("--on-oom h prog '' x", H, "prog '' x"),
    ("--on-oom h ''", H, "''"),
    # -- before PROG
    ("--on-oom h -- prog", H, "prog"),
    ("--on-oom h -- -prog", H, "-prog"),
    ("--on-oom h -- --on-oom", H, "--on-oom"),
    ("--on-oom h -- -- prog", H, "-- prog"),
    ("--on-oom h -- prog --on-oom x", H, "prog --on-oom x"),
    ("--on-oom h -- prog -- --on-oom x", H, "prog -- --on-oom x"),
    ("-- prog --on-oom h", {}, "prog --on-oom h"),
    ("--grace 5s -- prog --on-oom h", {"--grace": "5s"}, "prog --on-oom h"),
    # the trailing block
    ("prog --on-oom h", H, "prog"),
    ("prog --on-oom=h", H, "prog"),
    ("prog a b --on-oom h", H, "prog a b"),
    ("prog --on-oom h --grace 5s", {**H, "--grace": "5s"}, "prog"),
    ("prog --grace 5s --on-oom h", {**H, "--grace": "5s"}, "prog"),
    ("prog --dry-run --on-oom h", {**H, "--dry-run": "yes"}, "prog"),
    ("prog --on-oom h --dry-run", {**H, "--dry-run": "yes"}, "prog"),
    ("prog -x --on-oom h", H, "prog -x"),
    ("prog --verbose --on-oom h", H, "prog --verbose"),
    ("prog --grace --on-oom h", H, "prog --grace"),
    ("prog --grace 5s x --on-oom h", H, "prog --grace 5s x"),
    ("prog --dry-run=1 --on-oom h", H, "prog --dry-run=1"),
    ("prog --mem 5 --on-oom h", H, "prog --mem 5"),
    ("prog -- --on-oom h", H, "prog --"),
    ("prog -- x --on-oom h", H, "prog -- x"),
    ("prog x -- --grace 5s --on-oom h", {**H, "--grace": "5s"}, "prog x --"),
    ("prog --on-oom x y --on-oom h", H, "prog --on-oom x y"),
    # not a trailing block: it goes to PROG as it is
    ("prog --grace 5s", {}, "prog --grace 5s"),
    ("prog --on-oom", {}, "prog --on-oom"),
    ("prog --on-oom h x", {}, "prog --on-oom h x"),
    ("prog --on-oom h --help", {}, "prog --on-oom h --help"),
    ("prog --on-oom --grace 5s", {}, "prog --on-oom --grace 5s"),
    ("prog --on-o h", {}, "prog --on-o h"),
    ("prog -on-oom h", {}, "prog -on-oom h"),
    ("prog", {}, "prog"),
    # both places
    ("--grace 5s prog --on-oom h", {**H, "--grace": "5s"}, "prog"),
    ("--dry-run prog x --on-oom h --signal 9", {**H, "--dry-run": "yes", "--signal": "9"},
     "prog x"),
]  # fmt: skip

#: A command line of `gs run` that is refused, and a word of the reason.
REFUSED = [
    ("", "no program"),
    ("--on-oom h", "no program"),
    ("--on-oom h --", "no program"),
    ("--", "no program"),
    ("--on-oom", "needs a value"),
    ("--on-oom --grace 5s prog", "needs a value"),
    ("--grace -5 prog", "needs a value"),
    ("--dry-run=yes prog", "takes no value"),
    ("--nonsense prog", "unknown option --nonsense"),
    ("--nonsense=1 prog", "unknown option --nonsense"),
    ("--on h prog", "unknown option --on"),
    ("--on-oo h prog", "unknown option --on-oo"),
    ("-x prog --on-oom h", "unknown option -x"),
    ("- prog", "unknown option -"),
    ("--on-oom h --on-oom h prog", "twice"),
    ("--on-oom h --on-oom=i prog", "twice"),
    ("--dry-run --dry-run --on-oom h prog", "twice"),
    ("--on-oom h prog --on-oom i", "twice"),
    ("--grace 5s prog --grace 6s --on-oom h", "twice"),
    ("prog --on-oom h --on-oom i", "twice"),
    ("prog --grace 1s --grace 2s --on-oom h", "twice"),
]


@pytest.mark.parametrize(("line", "options", "program"), SCANNED, ids=[c[0] for c in SCANNED])
def test_scanned(line: str, options: dict[str, str], program: str) -> None:
    scanned = arguments.scan_run(shlex.split(line))
    assert scanned.options == options
    assert scanned.program == shlex.split(program)
    assert not scanned.help


@pytest.mark.parametrize(("line", "reason"), REFUSED, ids=[c[0] or "nothing" for c in REFUSED])
def test_refused(line: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        arguments.scan_run(shlex.split(line))


@pytest.mark.parametrize("line", ["--help", "-h", "--on-oom h --help", "--help prog --nonsense"])
def test_help_is_asked_for(line: str) -> None:
    assert arguments.scan_run(shlex.split(line)).help


def test_the_tables_are_as_long_as_promised() -> None:
    assert len(SCANNED) + len(REFUSED) >= 40


@given(
    st.lists(st.sampled_from([*arguments.VALUED, *arguments.FLAGS, "--", "x", "-y", "--on-oom=z"]))
)
def test_no_word_is_lost_or_invented(words: list[str]) -> None:
    try:
        scanned = arguments.scan_run(words)
    except UsageError:
        return
    spent = sum(
        1 if name in arguments.FLAGS or f"{name}={value}" in words else 2
        for name, value in scanned.options.items()
    )
    dashes = len(words) - spent - len(scanned.program)
    assert dashes in (0, 1)
    assert scanned.program == words[-len(scanned.program) :] or "--on-oom" in scanned.options


# ---------------------------------------------------------------------------- shell words


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert arguments.split_words(" ".join(map(shlex.quote, words))) == words


@given(st.text(alphabet="ab \t\n'\"\\#*~=", max_size=12))
def test_words_are_split_as_a_posix_shell_splits_them(text: str) -> None:
    # shlex keeps a backslash before a newline; a shell takes both away.
    if "\\\n" in text:
        return
    try:
        expected = shlex.split(text)
    except ValueError:
        with pytest.raises(UsageError):
            arguments.split_words(text)
    else:
        assert arguments.split_words(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a 'b c' \"d e\" f\\ g", ["a", "b c", "d e", "f g"]),
        ("a''b \"\" ''", ["ab", "", ""]),
        ("'$HOME' \"\\$x\" \\$y '>' '`'", ["$HOME", "$x", "$y", ">", "`"]),
        ("sh -c 'ps > /tmp/x; sync'", ["sh", "-c", "ps > /tmp/x; sync"]),
        ("a\\\nb", ["ab"]),
        ("  ", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert arguments.split_words(text) == words


@pytest.mark.parametrize(
    "text",
    ["h $X", 'h "$X"', "h `x`", 'h "`x`"', "h > f", "h < f", "h | g", "h & ", "h; g", "(h)"],
)
def test_what_only_a_shell_can_do_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(UsageError, match="sh -c"):
        arguments.split_words(text)


@pytest.mark.parametrize("text", ["'", '"', "a 'b", 'a "b', "a\\", "'a' '"])
def test_open_quotes_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.split_words(text)


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5), ("5s", 5), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), (".5", 0.5)],
)
def test_times(text: str, seconds: float) -> None:
    assert arguments.parse_grace(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "5x", "-5", "+5", "5 s", "1e3", "nan", "inf", "1_0", "5S", "1.2.3", "\u0665"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_grace(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("1K", 1024), ("500M", 500 << 20), ("500m", 500 << 20), ("1.5G", 3 << 29),
     ("2T", 2 << 40), ("0", 0)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert arguments.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "5X", "5MB", "-5M", "1e3", "max", "50%", "5 M"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_size(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", signal.SIGTERM), ("SIGUSR1", signal.SIGUSR1), ("term", signal.SIGTERM), ("64", 64),
     ("1", 1), ("RTMIN", signal.SIGRTMIN)],
)  # fmt: skip
def test_signals(text: str, number: int) -> None:
    assert arguments.parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "NOTHING", "_DFL", "SIG_DFL", "\u0669"])
def test_no_signals(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_signal(text)

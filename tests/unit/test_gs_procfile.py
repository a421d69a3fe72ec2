"""The grammar of the registry, the features, and the event stream."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gs import procfile
from gs.errors import MalformedLine
from gs.procfile import Entry, Removal
from tests.unit.data import registry_lines

EVENT = (
    "seq=7 time_ns=123456789 event=grace pid=42 comm=a\\040b uid=0 constraint=memcg memcg=/x"
    " handler=/h handler_pid=43 signal=- grace_ms=2000 rss_kb=9 swap_kb=0 total_pages=100"
    " points=50 oom_score_adj=-5"
)


def fill(text: str) -> str:
    return registry_lines.fill(text, pid=4242, exe="/bin/true", dir="/tmp", noexec="/etc/passwd")


# ---------------------------------------------------------------------------- the shared table


def test_the_table_is_as_large_as_promised() -> None:
    assert len(registry_lines.BAD) >= 60
    assert len({line for line, _, _ in registry_lines.BAD}) == len(registry_lines.BAD)


@pytest.mark.parametrize("case", registry_lines.GOOD, ids=lambda case: case[2])
def test_good_lines_read_back_as_the_table_says(case: tuple[str, str, str]) -> None:
    written, expected, _ = map(fill, case)
    last = procfile.parse_commands(written)[-1]
    assert procfile.format_command(last) == expected


@pytest.mark.parametrize("case", registry_lines.BAD, ids=lambda case: case[2])
def test_bad_lines_get_the_errno_that_the_table_says(case: tuple[str, str, str]) -> None:
    written, errno_name, _ = case
    if errno_name in registry_lines.FROM_THE_TEXT:
        with pytest.raises(MalformedLine) as caught:
            procfile.parse_commands(fill(written))
        assert caught.value.errno_name == errno_name
    else:
        # Only a kernel can see what is wrong with it: as text it is good.
        assert procfile.parse_commands(fill(written))


def test_the_limits_are_exact() -> None:
    path = "/" + "p" * (procfile.PATH_MAX - 2)
    assert procfile.parse_command(f"1 {path}") == Entry(1, [path])
    with pytest.raises(MalformedLine) as caught:
        procfile.parse_command(f"1 {path}p")
    assert caught.value.errno_name == "ENAMETOOLONG"
    line = "1 /x " + "a" * (procfile.LINE_MAX - 5)
    assert len(line) == procfile.LINE_MAX
    assert procfile.parse_command(line) is not None
    with pytest.raises(MalformedLine) as caught:
        procfile.parse_command(line + "a")
    assert caught.value.errno_name == "E2BIG"


def test_the_ceiling_of_a_grace_is_the_callers() -> None:
    assert procfile.parse_command("1 grace_ms=60000 /x", 60000) == Entry(1, ["/x"], 60000)
    with pytest.raises(MalformedLine):
        procfile.parse_command("1 grace_ms=60001 /x", 60000)


@pytest.mark.parametrize("line", ["", " ", "\t ", "#", "# 1 /x", "#1 /x"])
def test_blank_lines_and_comments_say_nothing(line: str) -> None:
    assert procfile.parse_command(line) is None


def test_keys_of_the_full_abi() -> None:
    line = "1 grace_ms=5 signal=15 scope=tree /x a"
    entry = Entry(1, ["/x", "a"], 5, 15, "tree")
    assert procfile.parse_command(line) == entry
    assert procfile.format_command(entry) == line
    assert procfile.parse_command("1 signal=9") == Entry(1, (), signal=9)
    assert procfile.parse_command("1 scope=process /x") == Entry(1, ["/x"])


def test_what_is_the_default_is_not_written() -> None:
    assert procfile.format_command(Entry(1, ["/x"], None, None, "process")) == "1 /x"
    assert procfile.format_command(Entry(1, (), signal=9, scope="process")) == "1 signal=9"


# ---------------------------------------------------------------------------- properties

words = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=40
)
pids = st.integers(1, procfile.INT_MAX)
commands_of_handlers = st.builds(
    lambda path, rest: ["/" + path, *rest], words, st.lists(words, max_size=5)
)
entries = st.builds(
    Entry,
    pids,
    st.just([]) | commands_of_handlers,
    st.none() | st.integers(1, procfile.MAX_GRACE_MS),
    st.none() | st.integers(1, procfile.MAX_SIGNAL),
    st.sampled_from(procfile.SCOPES),
).filter(lambda entry: entry.argv or entry.signal)


@given(entries | st.builds(Removal, pids))
def test_what_is_formatted_parses_as_itself(command: Entry | Removal) -> None:
    line = procfile.format_command(command)
    assert "\n" not in line
    assert procfile.parse_command(line) == command
    assert procfile.format_command(procfile.parse_command(line) or Removal(1)) == line


@given(st.text(max_size=60))
@example("1 signal=9 scope=process")
@example("1 scope=process /x")
@example("1 /x\\")
@example("1 /\\777")
@example("-1 ")
@example("00000000000001 /x")
@example("\u0663 /x")
@example("1 grace_ms=\u0663 /x")
def test_any_text_is_parsed_or_refused_and_stays_what_it_was(text: str) -> None:
    try:
        commands = procfile.parse_commands(text)
    except MalformedLine as error:
        assert error.errno_name in registry_lines.FROM_THE_TEXT
        assert "\n" not in str(error)
    else:
        again = "\n".join(map(procfile.format_command, commands))
        assert procfile.parse_commands(again) == commands


@given(st.binary(min_size=1).filter(lambda data: b"\0" not in data))
def test_every_byte_survives_the_escapes(data: bytes) -> None:
    word = data.decode("utf-8", "surrogateescape")
    escaped = procfile.escape(word)
    assert not set(escaped) & set(" \t\n")
    assert procfile.unescape(escaped) == word


def test_an_escape_may_be_any_byte() -> None:
    assert procfile.unescape("\\303\\251") == "\u00e9"
    assert procfile.unescape("\\377").encode("utf-8", "surrogateescape") == b"\xff"


# ---------------------------------------------------------------------------- reading it back


def test_the_registry_with_entries_of_others() -> None:
    text = "1 /x\n# uid=1000 2 grace_ms=5 /y a\\040b\n# uid= 3 /z\n"
    text += "# uid=1001 4 signal=10 scope=tree\n"
    assert procfile.parse_registry(text) == [
        Entry(1, ["/x"]),
        Entry(2, ["/y", "a b"], 5, uid=1000),
        Entry(4, (), signal=10, scope="tree", uid=1001),
    ]


def test_a_registry_longer_than_any_ceiling_can_be_read() -> None:
    assert procfile.parse_registry("1 grace_ms=3600000 /x\n") == [Entry(1, ["/x"], 3600000)]


def test_a_registry_with_a_removal_is_none() -> None:
    with pytest.raises(MalformedLine):
        procfile.parse_registry("-1\n")


def test_features() -> None:
    features = procfile.parse_features("abi=1\nkeys=grace_ms,signal\nempty=\n")
    assert features == {"abi": "1", "keys": "grace_ms,signal", "empty": ""}
    assert procfile.feature_list(features, "keys") == ("grace_ms", "signal")
    assert procfile.feature_list(features, "empty") == ()
    assert procfile.feature_list(features, "nothing") == ()


@pytest.mark.parametrize("text", ["abi", "=1", "abi=1\nabi=1", "hello world"])
def test_bad_features(text: str) -> None:
    with pytest.raises(MalformedLine):
        procfile.parse_features(text)


# ---------------------------------------------------------------------------- events


def test_an_event_and_back() -> None:
    record = procfile.parse_event(EVENT)
    assert record["comm"] == "a b"
    assert record["signal"] is None
    assert record["oom_score_adj"] == -5
    assert procfile.format_event(record) == EVENT


def test_a_grace_of_a_signal_alone() -> None:
    line = EVENT.replace("handler=/h handler_pid=43 signal=-", "handler=- handler_pid=- signal=15")
    record = procfile.parse_event(line)
    assert (record["handler"], record["handler_pid"], record["signal"]) == (None, None, 15)
    assert procfile.format_event(record) == line


def test_a_lost_record_needs_no_process() -> None:
    record = procfile.parse_event("seq=9 time_ns=1 event=lost count=3")
    assert record == {"seq": 9, "time_ns": 1, "event": "lost", "count": 3}


def test_a_process_may_be_called_dash_and_numbers_may_be_names() -> None:
    line = "seq=1 time_ns=2 event=gone pid=3 comm=- uid=0 constraint=none memcg=- elapsed_us=1"
    record = procfile.parse_event(line)
    assert record["comm"] == "-" and record["memcg"] is None
    assert procfile.parse_event(line.replace("comm=-", "comm=007"))["comm"] == "007"
    assert procfile.parse_event(line.replace("comm=-", "comm="))["comm"] == ""


def test_keys_of_a_newer_kernel_are_kept() -> None:
    line = EVENT + " colour=blue depth=3 odd=007"
    record = procfile.parse_event(line)
    assert (record["colour"], record["depth"], record["odd"]) == ("blue", 3, "007")
    assert procfile.format_event(record) == line


BAD_EVENTS = {
    "nothing": "",
    "a word": "hello",
    "no value sign": EVENT + " extra",
    "no key": EVENT + " =1",
    "two blanks": EVENT.replace(" pid", "  pid"),
    "a blank at the end": EVENT + " ",
    "a key twice": EVENT + " pid=43",
    "no seq": EVENT.replace("seq=7 ", ""),
    "no time": EVENT.replace("time_ns=123456789 ", ""),
    "no event": EVENT.replace("event=grace ", ""),
    "no pid": EVENT.replace("pid=42 ", "", 1),
    "no comm": EVENT.replace("comm=a\\040b ", ""),
    "no memcg": EVENT.replace("memcg=/x ", ""),
    "unknown seq": EVENT.replace("seq=7", "seq=-"),
    "unknown event": EVENT.replace("event=grace", "event=-"),
    "seq is a word": EVENT.replace("seq=7", "seq=seven"),
    "pid is hexadecimal": EVENT.replace("pid=42", "pid=0x2a"),
    "pid has a plus": EVENT.replace("pid=42", "pid=+42"),
    "rss has leading zeros": EVENT.replace("rss_kb=9", "rss_kb=09"),
    "rss is empty": EVENT.replace("rss_kb=9", "rss_kb="),
    "points is a float": EVENT.replace("points=50", "points=5.0"),
    "a bad escape": EVENT.replace("a\\040b", "a\\x20b"),
    "half an escape": EVENT.replace("a\\040b", "a\\04"),
    "cut in the middle": EVENT[:30],
    "lost without a count": "seq=9 time_ns=1 event=lost",
}


@pytest.mark.parametrize("line", BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
def test_bad_events_are_refused(line: str) -> None:
    with pytest.raises(MalformedLine):
        procfile.parse_event(line)


names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=15)
numbers = st.integers(-(2**63), 2**64)
records = st.fixed_dictionaries(
    {
        "seq": st.integers(0, 2**64),
        "time_ns": st.integers(0, 2**64),
        "event": st.sampled_from(["grace", "done", "kill", "averted", "a new one"]),
        "pid": st.integers(1, 2**22),
        "comm": names,
        "uid": st.integers(0, 2**32),
        "constraint": st.sampled_from(["none", "memcg", "cpuset", "mempolicy"]),
        "memcg": st.none() | names.filter(lambda text: text != "-"),
        "handler": st.none() | names.filter(lambda text: text != "-"),
        "rss_kb": st.none() | numbers,
        "by_comm": names,
    }
)


@given(records)
def test_events_survive_the_way_there_and_back(record: dict[str, procfile.Value]) -> None:
    line = procfile.format_event(record)
    assert procfile.parse_event(line) == record
    assert procfile.format_event(procfile.parse_event(line)) == line


@given(st.integers(0, len(EVENT)), st.integers(0, 3), st.text("= -\\013x\n", max_size=3))
def test_a_damaged_event_is_refused_or_stays_what_it_is(at: int, cut: int, put: str) -> None:
    line = EVENT[:at] + put + EVENT[at + cut :]
    try:
        record = procfile.parse_event(line)
    except MalformedLine:
        return
    assert procfile.parse_event(procfile.format_event(record)) == record


@given(st.lists(st.binary(max_size=9).filter(lambda data: b"\n" not in data)), st.binary())
def test_lines_are_whole_however_they_arrive(lines: list[bytes], tail: bytes) -> None:
    tail = tail.replace(b"\n", b"")
    data = b"".join(line + b"\n" for line in lines) + tail
    whole, rest = procfile.split_lines(data)
    assert [text.encode("utf-8", "surrogateescape") for text in whole] == lines
    assert rest == tail

"""The command apart from `run`: its exit codes, its output, the zipapp, the way to Ghostscript."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipapp
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gs import cgroup, cli, scope, shadowing
from gs.eventstream import OomEvent
from tests.unit.gs_support import FULL_FEATURES, REPO, environment, gs, make_procfs
from tests.unit.test_gs_events import DONE, GRACE, KILL, LOST, STREAM

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    directory = make_procfs(tmp_path / "proc")
    (directory / "graceful_shutdown_events").write_text(STREAM)
    return directory


def registry(procfs: Path) -> list[str]:
    return (procfs / "graceful_shutdown").read_text().splitlines()


# ---------------------------------------------------------------------------- help and usage


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_names_every_command_and_exit_code(word: str) -> None:
    done = gs(word)
    assert (done.returncode, done.stderr) == (0, "")
    for command in cli.COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert "4 no such process" in done.stdout


@pytest.mark.parametrize("command", [c for c in cli.COMMANDS if c != "run"])
def test_each_command_explains_itself(command: str) -> None:
    done = gs(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: gs-oom {command}" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nonsense",),
        ("--nonsense",),
        ("top",),
        ("register",),
        ("register", "x", "--on-oom", "true"),
        ("register", "1", "--on-o", "true"),
        ("register", "1", "--on-oom", "true", "--scope", "world"),
        ("unregister",),
        ("unregister", "1", "2"),
        ("list", "extra"),
        ("watch", "--tim", "1"),
        ("doctor", "--nonsense"),
    ],
)
def test_usage_is_2(words: tuple[str, ...]) -> None:
    done = gs(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("register",), "register: the following arguments are required: PID; "),
        (("register", "x"), "'x' is no process number; "),
        (("register", "1_0"), "'1_0' is no process number; "),
        (("register", "\u0663"), "is no process number; "),
        (("register", "1", "--on-o", "true"), "unrecognized arguments: --on-o true; "),
        (("register", "1", "--scope", "world"), "--scope: invalid choice: 'world'"),
        (("unregister", "1", "2"), "unrecognized arguments: 2; "),
        (("list", "extra"), "unrecognized arguments: extra; "),
        (("watch", "--pid"), "--pid: expected one argument; "),
        (("watch", "--pid", "x\ny"), "is no process number; "),
        (("nonsense",), "unknown command 'nonsense'; "),
        (("register", "1"), "neither a handler nor a signal was given; "),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_in_one_line_with_what_to_do(
    words: tuple[str, ...], said: str
) -> None:
    done = gs(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gs-oom: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_version() -> None:
    assert gs("--version").stdout.startswith("gs-oom 0.")


# ---------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    "words",
    [("register", "1", "--on-oom", "true"), ("unregister", "1"), ("list",), ("watch",)],
    ids=lambda words: words[0],
)
def test_3_and_one_line_without_a_patched_kernel(words: tuple[str, ...]) -> None:
    done = gs(*words)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("gs-oom: this kernel has no /nowhere/graceful_shutdown")
    assert "gs-oom doctor" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("register", "0", "--on-oom", "true"), 4),
        (("unregister", "0"), 4),
        (("register", "99999999999", "--on-oom", "true"), 4),
        (("register", "-5", "--on-oom", "true"), 4),
        (("unregister", "99999999999"), 4),
        (("unregister", "2147483648"), 4),
        (("register", "1", "--signal", "TERM"), 3),
        (("register", "1", "--on-oom", "true", "--signal", "15"), 3),
        (("register", "1", "--on-oom", "true", "--scope", "tree"), 3),
        (("register", "1", "--on-oom", "/nowhere/handler"), 6),
        (("register", "1", "--on-oom", "/etc/passwd"), 6),
        (("register", "1", "--on-oom", "/tmp"), 6),
        (("register", "1", "--on-oom", ""), 6),
        (("register", "1"), 2),
        (("register", "1", "--on-oom", "true > x"), 2),
        (("register", "1", "--on-oom", "true", "--grace", "soon"), 2),
        (("register", "1", "--on-oom", "true", "--signal", "WINK"), 2),
        (("register", "1", "--on-oom", "true", "--signal", "65"), 2),
        (("watch", "--timeout", "soon"), 2),
    ],
)
def test_exit_codes(procfs: Path, words: tuple[str, ...], code: int) -> None:
    done = gs(*words, procfs=procfs)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("gs-oom: ") and done.stderr.count("\n") == 1
    assert registry(procfs) == []


@root_only
def test_5_where_it_is_not_allowed(procfs: Path) -> None:
    for name in ("graceful_shutdown", "graceful_shutdown_events"):
        (procfs / name).chmod(0o600)
    for directory in (procfs, *list(procfs.parents)[:3]):
        directory.chmod(0o755)
    as_nobody = ["setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/python3", "-S", "-c"]
    start = "import sys; sys.dont_write_bytecode = True; sys.path.insert(0, sys.argv.pop(1));"
    copy = procfs.parent / "copy"
    shutil.copytree(REPO / "gs", copy / "gs")

    def as_user(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*as_nobody, f"{start} from gs.cli import main; sys.exit(main())", str(copy), *words],
            env=environment(procfs), capture_output=True, text=True, check=False,
        )  # fmt: skip

    for words in (["list"], ["watch"], ["unregister", "42"], ["run", "--on-oom", "true", "true"]):
        done = as_user(*words)
        assert done.returncode == (125 if words[0] == "run" else 5), done.stderr
        assert done.stderr.count("\n") == 1 and "root" in done.stderr
    # As the kernel's file is: open to all, and judged when it is written.
    (procfs / "graceful_shutdown").chmod(0o666)
    denied = as_user("run", "--on-oom", "true", "true")
    assert denied.returncode == 125 and "CAP_SYS_ADMIN" in denied.stderr
    sysctl = procfs / "sys/vm/graceful_shutdown_unprivileged"
    sysctl.write_text("1\n")
    done = as_user("run", "--scope", "process", "--on-oom", "/bin/true", "sh", "-c", "echo $$")
    assert (done.returncode, done.stderr) == (0, "")
    assert registry(procfs) == [f"{done.stdout.strip()} /bin/true"]


# ---------------------------------------------------------------------------- what they print


def test_register_and_list(procfs: Path) -> None:
    me = str(os.getpid())
    done = gs("register", me, "--on-oom", "/bin/true 'a b'", "--grace", "1500ms", procfs=procfs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"registered: {me} grace_ms=1500 /bin/true a\\040b\n"
    assert registry(procfs) == [f"{me} grace_ms=1500 /bin/true a\\040b"]

    head, row = gs("list", procfs=procfs).stdout.splitlines()
    assert head.split() == ["PID", "COMMAND", "GRACE", "SIGNAL", "SCOPE", "HANDLER"]
    assert row.split()[0] == me
    assert row.split(None, 2)[2].split(None, 3) == ["1.5s", "-", "process", "/bin/true 'a b'"]


def test_a_signal_and_a_tree(tmp_path: Path) -> None:
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    for words, line in (
        (("--signal", "SIGUSR1"), "4194305 signal=10"),
        (("--signal", "35", "--scope", "tree"), "4194305 signal=35 scope=tree"),
        (("--signal", "term", "--scope", "process", "--on-oom", "/bin/true"),
         "4194305 signal=15 /bin/true"),
    ):  # fmt: skip
        done = gs("register", "4194305", *words, procfs=procfs)
        assert (done.returncode, done.stdout) == (0, f"registered: {line}\n")
    rows = [row.split()[1:] for row in gs("list", procfs=procfs).stdout.splitlines()[1:]]
    assert rows == [
        ["?", "default", "USR1", "process", "-"],
        ["?", "default", "35", "tree", "-"],
        ["?", "default", "TERM", "process", "/bin/true"],
    ]
    first, second, _ = json.loads(gs("list", "--json", procfs=procfs).stdout)
    assert (first["argv"], first["signal"], first["scope"]) == ([], 10, "process")
    assert (second["signal"], second["scope"], second["line"]) == (
        35, "tree", "4194305 signal=35 scope=tree",
    )  # fmt: skip


def test_what_this_kernel_lacks_is_said_with_a_way_around_it(procfs: Path) -> None:
    done = gs("register", "7", "--signal", "TERM", "--on-oom", "true", procfs=procfs)
    assert done.returncode == 3
    assert "no signal= (its keys: grace_ms); " in done.stderr
    assert "sh -c 'kill -15 $GS_PID'" in done.stderr
    assert registry(procfs) == []


def test_list_where_there_are_only_guards_and_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GS_PROCFS", "/nowhere")
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(cgroup, "hierarchy", lambda *_: cgroup.Hierarchy(2, "/cg", "/cg/x"))
    monkeypatch.setattr(cgroup, "find_place", lambda where: "/cg/x")
    assert cli.main(["list"]) == 0
    (head,) = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "PID"
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    monkeypatch.setattr(cgroup, "hierarchy", lambda *_: None)
    assert cli.main(["list"]) == 3
    assert "not patched" in capsys.readouterr().err
    monkeypatch.setattr(scope, "is_available", lambda: True)
    assert cli.main(["list"]) == 0


def test_list_as_json_with_the_entry_of_another(procfs: Path) -> None:
    (procfs / "graceful_shutdown").write_text("7 /bin/true\n# uid=1000 8 grace_ms=5 /bin/false x\n")
    first, second = json.loads(gs("list", "--json", procfs=procfs).stdout)
    assert (first["pid"], first["uid"], first["grace"]) == (7, None, None)
    assert (second["pid"], second["uid"], second["grace"]) == (8, 1000, 0.005)
    assert second["argv"] == ["/bin/false", "x"] and second["line"] == "8 grace_ms=5 /bin/false x"
    assert "(uid 1000)" in gs("list", procfs=procfs).stdout


def test_register_as_json(procfs: Path) -> None:
    done = gs("register", "7", "--on-oom", "/bin/true", "--json", procfs=procfs)
    assert json.loads(done.stdout)["argv"] == ["/bin/true"]


def test_unregister(procfs: Path) -> None:
    assert gs("unregister", "7", procfs=procfs).returncode == 0
    assert registry(procfs) == ["-7"]


def test_watch_in_three_forms(procfs: Path) -> None:
    plain = gs("watch", "--no-follow", procfs=procfs).stdout.splitlines()
    assert len(plain) == 4
    assert "42 (hog) in /a b: handler=/h" in plain[0] and "signal" not in plain[0]
    assert "6 events were overwritten" in plain[3]
    assert gs("watch", "--raw", procfs=procfs).stdout == STREAM
    records = gs("watch", "--json", procfs=procfs).stdout.splitlines()
    assert [json.loads(record)["event"] for record in records] == ["grace", "done", "kill", "lost"]


def test_watch_of_a_signal_alone(procfs: Path) -> None:
    grace = GRACE.replace("handler=/h handler_pid=43 signal=-", "handler=- handler_pid=- signal=15")
    kill = KILL.replace("handler=/h outcome=done", "handler=- outcome=signal")
    (procfs / "graceful_shutdown_events").write_text(f"{grace}\n{kill}\n")
    first, second = gs("watch", procfs=procfs).stdout.splitlines()
    assert " in /a b: signal=TERM grace_ms=2000 " in first and "handler" not in first
    assert " outcome=signal " in second and "handler" not in second
    record = json.loads(gs("watch", "--json", procfs=procfs).stdout.splitlines()[0])
    assert (record["handler"], record["signal"]) == (None, 15)


def test_watch_takes_a_name_that_is_no_utf8(procfs: Path) -> None:
    """The kernel cuts a name at 15 bytes, also within a character."""
    line = GRACE.replace("comm=hog", "comm=caf\udcc3")
    assert line != GRACE
    (procfs / "graceful_shutdown_events").write_text(line + "\n", errors="surrogateescape")
    code = "import sys; from gs.cli import main; sys.exit(main(['watch', '--raw']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, check=True,
        env={**environment(procfs), "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert b"comm=caf\xc3 " in done.stdout


def test_watch_one_process(procfs: Path) -> None:
    done = gs("watch", "--pid", "43", "--raw", procfs=procfs)
    assert done.stdout == LOST + "\n"
    assert gs("watch", "--new", procfs=procfs).stdout == ""


def test_watch_ends_quietly_when_its_reader_goes(procfs: Path) -> None:
    (procfs / "graceful_shutdown_events").write_text(STREAM * 3000)
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m gs watch --raw | head -n 1"],
        cwd=REPO, env=environment(procfs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (GRACE + "\n", "")


@contextmanager
def watching(procfs: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`gs watch` in front of a stream that does not end, once it has told the two events in it."""
    stream = procfs / "graceful_shutdown_events"
    stream.unlink()
    os.mkfifo(stream)
    hold = os.open(stream, os.O_RDWR)
    os.write(hold, f"{DONE}\n{KILL}\n".encode())
    with subprocess.Popen(
        [sys.executable, "-m", "gs", "watch", "--raw"], cwd=REPO,
        env={**environment(procfs), **variables},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == DONE + "\n"
            assert process.stdout.readline() == KILL + "\n"
            yield process
        finally:
            process.kill()
    os.close(hold)


def test_watch_ends_quietly_at_ctrl_c(procfs: Path) -> None:
    with watching(procfs) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == -signal.SIGINT  # 130 in a shell
        assert process.stderr is not None and process.stderr.read() == ""


#: Ctrl-C at the worst of times: when Python has looked for signals, and sleeps next.
CTRL_C_BEFORE_POLL = """\
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stddef.h>

int poll(struct pollfd *files, nfds_t count, int timeout)
{
	raise(SIGINT);
	return ppoll(files, count, NULL, NULL);
}
"""


def test_watch_ends_at_a_ctrl_c_right_before_it_sleeps(procfs: Path, tmp_path: Path) -> None:
    source, library = tmp_path / "poll.c", tmp_path / "poll.so"
    source.write_text(CTRL_C_BEFORE_POLL)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    with watching(procfs, LD_PRELOAD=str(library)) as process:
        assert process.wait(20) == -signal.SIGINT


def in_a_shell(procfs: Path, text: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which $GS is the command."""
    start = f"import sys; sys.path.insert(0, {str(REPO)!r}); from gs.cli import main; "
    words = [sys.executable, "-S", "-c", f'"{start}sys.exit(main())"']
    return subprocess.run(
        ["bash", "-c", f"gs() {{ {' '.join(words)} \"$@\"; }}; {text}"],
        env=environment(procfs), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


DRY_RUN = "run --dry-run --scope process --on-oom true true"
OUTPUT = ["list", "watch --no-follow", "doctor", "completion bash", "module status", "--help",
          "list --help", "run --help", DRY_RUN]  # fmt: skip


@root_only
@pytest.mark.parametrize("words", OUTPUT)
def test_output_that_cannot_be_written(procfs: Path, words: str) -> None:
    closed = in_a_shell(procfs, f"gs {words} >&-")
    assert closed.returncode in (0, 3) and "Traceback" not in closed.stderr
    full = in_a_shell(procfs, f"gs {words} >/dev/full")
    assert full.returncode == (125 if words.startswith("run") else 1)
    assert full.stderr == "gs-oom: cannot write the output: No space left on device\n"
    gone = in_a_shell(procfs, f"{{ sleep 0.5; gs {words}; echo $? >&2; }} | true")
    assert gone.stderr == "141\n"


def test_a_handler_of_a_directory_that_is_gone(procfs: Path, tmp_path: Path) -> None:
    (tmp_path / "save").write_text("#!/bin/sh\n")
    (tmp_path / "save").chmod(0o755)
    enter = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone"
    for words, code in (("run --on-oom ../save true", 125), ("register 1 --on-oom ../save", 6)):
        done = in_a_shell(procfs, f"{enter}; gs {words}")
        assert done.returncode == code and "give its absolute path" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_newer_kernels_event_is_shown_too() -> None:
    line = "seq=1 time_ns=1 event=paused pid=1 comm=a uid=0 constraint=none memcg=- why=cold"
    assert cli.describe(OomEvent.parse(line)).endswith("paused   1 (a) in none: why=cold")


def test_names_of_processes_do_not_steer_the_terminal() -> None:
    event = OomEvent.parse(GRACE.replace("comm=hog", "comm=\x1b[2J\\012x"))
    assert "(\\x1b[2J\\nx)" in cli.describe(event)


# ---------------------------------------------------------------------------- one file


@root_only
def test_as_a_zipapp(procfs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(REPO / "gs", source / "gs", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "gs-oom.pyz"
    zipapp.create_archive(source, target, "/usr/bin/env python3", "gs.cli:main", compressed=True)
    run = [str(target), "run", "--on-oom", "/bin/true", "--", "sh", "-c", "exit 9"]
    done = subprocess.run(run, env=environment(procfs), check=False, capture_output=True)
    assert done.returncode == 9
    assert len(registry(procfs)) == 1
    code = "import gs; print(gs.run(['true'], on_oom='/bin/true').returncode)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {code}"],
        env=environment(procfs), check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == b"0\n"


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gs", "--version"], cwd=REPO, capture_output=True, check=True
    )
    assert done.stdout.startswith(b"gs-oom ")


# ---------------------------------------------------------------------------- Ghostscript


@pytest.fixture
def two_of_one_name(tmp_path: Path) -> tuple[Path, Path]:
    """Our `gs` in one directory, and in another a program that says what it was called with."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    text = f"#!{sys.executable} -S\nimport sys\nsys.path.insert(0, {str(REPO)!r})\n"
    (ours / "gs").write_text(text + "from gs.cli import main\nsys.exit(main())\n")
    (theirs / "gs").write_text('#!/bin/sh\necho "ghostscript: $@"\n')
    for path in (ours / "gs", theirs / "gs"):
        path.chmod(0o755)
    return ours, theirs


def call(words: list[str], *path: Path) -> subprocess.CompletedProcess[str]:
    env = environment(PATH=":".join([*map(str, path), "/usr/bin", "/bin"]))
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words", [["-q", "-dNOPAUSE", "a b.ps"], ["--version"], ["file.ps"], ["eps"]]
)
def test_words_of_ghostscript_go_to_it(
    two_of_one_name: tuple[Path, Path], words: list[str]
) -> None:
    ours, theirs = two_of_one_name
    for first in ("gs", str(ours / "gs")):
        done = call([first, *words], ours, theirs)
        assert (done.returncode, done.stdout) == (0, f"ghostscript: {' '.join(words)}\n")


def test_our_words_stay_ours(two_of_one_name: tuple[Path, Path]) -> None:
    ours, theirs = two_of_one_name
    assert call(["gs", "list"], ours, theirs).returncode == 3
    assert call(["gs", "run"], ours, theirs).returncode == 125
    assert "gs-oom" in call(["gs", "--help"], ours, theirs).stdout
    assert call(["gs"], ours, theirs).returncode == 2


def test_help_says_who_is_shadowed(two_of_one_name: tuple[Path, Path]) -> None:
    ours, theirs = two_of_one_name
    for words in ([], ["--help"]):
        said = call(["gs", *words], ours, theirs).stderr.splitlines()
        assert said[-1].startswith(f"gs-oom: this gs shadows {theirs}/gs ")
        assert "shadows" not in call(["gs", *words], ours).stderr
    (ours / "gs").rename(ours / "gs-oom")
    assert call(["gs-oom", "--help"], ours, theirs).stderr == ""


def test_without_a_ghostscript_behind_there_is_an_error(
    two_of_one_name: tuple[Path, Path], tmp_path: Path
) -> None:
    ours, theirs = two_of_one_name
    assert call(["gs", "-q"], ours).returncode == 2
    # In front of ours it would have been called itself: nothing is handed back to it.
    assert call([str(ours / "gs"), "-q"], theirs, ours).returncode == 2
    # Another copy of ours is no Ghostscript: two of them must not call each other for ever.
    copy = tmp_path / "copy"
    shutil.copytree(ours, copy)
    assert call(["gs", "-q"], ours, copy).returncode == 2
    # Nor does gs-oom ever hand anything over.
    (ours / "gs").rename(ours / "gs-oom")
    assert call(["gs-oom", "-q"], ours, theirs).returncode == 2


def test_who_is_ours(two_of_one_name: tuple[Path, Path]) -> None:
    ours, theirs = two_of_one_name
    assert shadowing.is_ours(str(ours / "gs"))
    assert not shadowing.is_ours(str(theirs / "gs"))
    assert not shadowing.is_ours("/bin/true")

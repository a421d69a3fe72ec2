"""`gs run` as the real command: what it starts, how it ends, what it takes back.

The registry here is a recorded file: these tests see what is written to it, and in what order.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gs import backends, cgroup, runfile, runner
from gs.backends import kernel
from gs.errors import GsError, NotSupported
from gs.procfile import Entry
from gs.scope import scoped_command
from tests.unit.gs_support import (
    FEATURES,
    FULL_FEATURES,
    NO_RUN_DIRECTORY,
    REPO,
    environment,
    gs,
    make_procfs,
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="registering takes root")


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    return make_procfs(tmp_path / "proc")


def registry(procfs: Path) -> list[str]:
    return (procfs / "graceful_shutdown").read_text().splitlines()


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# ---------------------------------------------------------------------------- it runs PROG


@root_only
def test_prog_is_the_registered_process(procfs: Path) -> None:
    done = gs("run", "--on-oom", "true a\\ b", "--", "sh", "-c", "echo $$; exit 7", procfs=procfs)
    assert done.returncode == 7
    pid, path = int(done.stdout), registry(procfs)[0].split()[1]
    assert registry(procfs) == [f"{pid} {path} a\\040b"]
    assert path.startswith("/") and os.access(path, os.X_OK)


@root_only
def test_options_may_stand_at_the_end(procfs: Path) -> None:
    done = gs("run", "echo", "hi", "--grace", "1.5s", "--on-oom", "/bin/true", procfs=procfs)
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert registry(procfs)[0].endswith(" grace_ms=1500 /bin/true")


@root_only
def test_only_the_process_is_covered_and_that_is_said(procfs: Path) -> None:
    warned = gs("run", "--on-oom", "/bin/true", "true", procfs=procfs)
    assert warned.stderr.count("\n") == 1
    assert "only the process itself is covered" in warned.stderr
    silent = gs("run", "--on-oom", "/bin/true", "--scope", "process", "true", procfs=procfs)
    assert (silent.returncode, silent.stderr) == (0, "")
    assert "scope" not in (procfs / "graceful_shutdown").read_text()


@root_only
def test_a_process_that_is_never_chosen_is_told_so(procfs: Path) -> None:
    if subprocess.run(["choom", "-n", "-1000", "--", "true"], check=False).returncode:
        pytest.skip("oom_score_adj cannot be lowered here: that takes CAP_SYS_RESOURCE")
    words = f"import sys; sys.path.insert(0, {str(REPO)!r}); from gs.cli import main; main()"
    run = [sys.executable, "-S", "-c", words, "run", "--scope", "process", "--on-oom", "true"]
    for value, warnings in (("-1000", 1), ("-999", 0)):
        done = subprocess.run(
            ["choom", "-n", value, "--", *run, "true"],
            env=environment(procfs), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr.count("oom_score_adj is -1000") == done.stderr.count("\n") == warnings


@root_only
def test_tree_is_the_default_where_the_kernel_has_it(tmp_path: Path) -> None:
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    done = gs("run", "--on-oom", "/bin/true", "--signal", "TERM", "true", procfs=procfs)
    assert (done.returncode, done.stderr) == (0, "")
    for scope in ("process", "tree"):
        done = gs("run", "--on-oom", "/bin/true", "--scope", scope, "true", procfs=procfs)
        assert (done.returncode, done.stderr) == (0, "")
    first, second, third = (line.split(" ", 1)[1] for line in registry(procfs))
    assert first == "signal=15 scope=tree /bin/true"
    assert (second, third) == ("/bin/true", "scope=tree /bin/true")


@root_only
@pytest.mark.parametrize("words", [("--scope", "tree"), ("--signal", "TERM")])
def test_what_the_kernel_lacks_is_refused_when_asked_for(
    procfs: Path, words: tuple[str, ...]
) -> None:
    for dry in ((), ("--dry-run",)):
        done = gs("run", *dry, "--on-oom", "/bin/true", *words, "true", procfs=procfs)
        assert done.returncode == 125 and done.stderr.count("\n") == 1
        assert f"this kernel takes no {words[0][2:]}= (its keys: grace_ms); " in done.stderr
    assert registry(procfs) == []


@root_only
@pytest.mark.parametrize("sig", ["TERM", "15", "SIGTERM", "sigterm"])
def test_a_signal_may_be_all_there_is(tmp_path: Path, sig: str) -> None:
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    words = ("run", "--signal", sig, "sh", "-c", "echo $$")
    done = gs(*words, procfs=procfs)
    assert (done.returncode, done.stderr) == (0, "")
    assert registry(procfs) == [f"{done.stdout.strip()} signal=15 scope=tree"]
    shown = gs("run", "--dry-run", *words[1:], procfs=procfs).stdout
    assert "none, signal 15\n" in shown and "PID signal=15 scope=tree\n" in shown


def test_neither_a_handler_nor_a_signal(procfs: Path) -> None:
    done = gs("run", "true", procfs=procfs)
    assert done.returncode == 125 and done.stderr.count("\n") == 1
    assert "--on-oom" in done.stderr and "--signal SIG" in done.stderr


@root_only
def test_a_death_by_signal_stays_one(procfs: Path) -> None:
    done = gs("run", "--on-oom", "/bin/true", "sh", "-c", "kill -KILL $$", procfs=procfs)
    assert done.returncode == -signal.SIGKILL


@root_only
def test_prog_gets_signals_descriptors_and_environment_as_gs_did(procfs: Path) -> None:
    look = "grep SigIgn /proc/self/status; ls /proc/self/fd; env | sort"
    want = subprocess.run(
        ["sh", "-c", look], env=environment(procfs), capture_output=True, text=True, check=True
    )
    got = gs("run", "--on-oom", "/bin/true", "sh", "-c", look, procfs=procfs)
    assert got.stdout == want.stdout


@root_only
def test_python_leaves_no_locale_behind(procfs: Path) -> None:
    done = gs("run", "--on-oom", "/bin/true", "env", procfs=procfs, LANG="C")
    assert "LC_CTYPE" not in done.stdout and "LANG=C\n" in done.stdout
    kept = gs("run", "--on-oom", "/bin/true", "env", procfs=procfs, LANG="C", LC_CTYPE="C.UTF-8")
    assert "LC_CTYPE=C.UTF-8\n" in kept.stdout


@root_only
def test_argv_0_is_the_word_that_was_given(procfs: Path) -> None:
    done = gs("run", "--on-oom", "/bin/true", "cat", "/proc/self/cmdline", procfs=procfs)
    assert done.stdout == "cat\0/proc/self/cmdline\0"


@root_only
def test_a_script_without_an_interpreter_line_is_the_shells(procfs: Path, tmp_path: Path) -> None:
    path = script(tmp_path / "plain", "echo from $0 $1\n")
    done = gs("run", "--on-oom", "/bin/true", str(path), "x", procfs=procfs)
    assert (done.returncode, done.stdout) == (0, f"from {path} x\n")


@root_only
def test_the_handler_of_here_is_made_absolute(procfs: Path, tmp_path: Path) -> None:
    script(tmp_path / "save", "#!/bin/sh\n")
    for word in ("./save", f"{tmp_path}/save"):
        gs("run", "--on-oom", word, "true", procfs=procfs, cwd=tmp_path)
    assert [line.split()[1] for line in registry(procfs)] == [f"{tmp_path}/save"] * 2


# ---------------------------------------------------------------------------- it does not


@root_only
def test_not_found_and_not_executable_are_those_of_env(procfs: Path, tmp_path: Path) -> None:
    plain = script(tmp_path / "plain", "echo\n", 0o644)
    cases = [("/nowhere/prog", 127), ("no-such-program", 127), ("", 127), (str(plain), 126),
             (str(tmp_path), 126)]  # fmt: skip
    for prog, code in cases:
        done = gs("run", "--on-oom", "/bin/true", prog, procfs=procfs)
        assert done.returncode == code, prog
        assert done.stderr.startswith("gs run: ") and done.stderr.count("\n") == 1
    assert registry(procfs) == []


@root_only
@pytest.mark.parametrize(
    ("text", "code"), [("#!/nowhere/sh\n", 127), ("#!/etc/passwd\n", 126)], ids=["127", "126"]
)
def test_a_failed_exec_takes_the_registration_back(
    procfs: Path, tmp_path: Path, text: str, code: int
) -> None:
    path = script(tmp_path / "broken", text)
    done = gs("run", "--on-oom", "/bin/true", str(path), procfs=procfs)
    assert done.returncode == code
    registered, removed = registry(procfs)
    assert removed == "-" + registered.split()[0]


@root_only
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("true",),
        ("--nonsense", "true"),
        ("--on-oom", "/bin/true"),
        ("--on-oom", "/nowhere", "true"),
        ("--on-oom", "no-such-handler", "true"),
        ("--on-oom", "/tmp", "true"),
        ("--on-oom", "/dev/null", "true"),
        ("--on-oom", "/etc/passwd", "true"),
        ("--on-oom", "", "true"),
        ("--on-oom", "true ''", "true"),
        ("--on-oom", "true > /tmp/x", "true"),
        ("--on-oom", "true " + "x" * 9000, "true"),
        ("--on-oom", "/bin/true", "--grace", "never", "true"),
        ("--on-oom", "/bin/true", "--grace", "0", "true"),
        ("--on-oom", "/bin/true", "--signal", "NOTHING", "true"),
        ("--on-oom", "/bin/true", "--scope", "world", "true"),
        ("--on-oom", "/bin/true", "--backend", "magic", "true"),
        ("--on-oom", "/bin/true", "--backend", "cgroup2", "true"),
        ("--on-oom", "/bin/true", "--memory-max", "lots", "true"),
        ("--on-oom", "/bin/true", "--memory-max", "4K", "true"),
        ("--on-oom", "/bin/true", "--swap-max", "1M", "true"),
        ("--on-oom", "/bin/true", "--user", "no-such-user", "true"),
        ("--on-oom", "/bin/true", "--user", "root:no-such-group", "true"),
        ("--on-oom", "/bin/true", "--user", "nobody:99999999999", "true"),
        ("--on-oom", "/bin/true", "--user", "²", "true"),
    ],
    ids=lambda words: " ".join(words)[:40] or "nothing",
)
def test_125_with_one_line_and_nothing_left_registered(
    procfs: Path, words: tuple[str, ...]
) -> None:
    done = gs("run", *words, procfs=procfs)
    assert done.returncode == 125
    assert done.stderr.count("\n") <= 2 and done.stderr.splitlines()[-1].startswith("gs run: ")
    lines = registry(procfs)
    assert lines == [] or lines[1:] == ["-" + lines[0].split()[0]]


def test_without_a_patched_kernel() -> None:
    done = gs("run", "--backend", "kernel", "--on-oom", "/bin/true", "echo", "hi")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.count("\n") == 1
    assert "/nowhere/graceful_shutdown_features" in done.stderr
    assert "--allow-unprotected" in done.stderr


def test_unprotected_is_allowed_by_name_only() -> None:
    done = gs("run", "--allow-unprotected", "--on-oom", "/bin/true", "echo", "hi")
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert done.stderr.startswith("gs run: NOT protected: ") and done.stderr.count("\n") == 1
    # A wrong handler is a mistake wherever it is made.
    assert gs("run", "--allow-unprotected", "--on-oom", "/nowhere", "echo").returncode == 125


def test_a_newer_abi_is_not_guessed_at(tmp_path: Path) -> None:
    procfs = make_procfs(tmp_path / "proc", FEATURES.replace("abi=1", "abi=2"))
    done = gs("run", "--backend", "kernel", "--on-oom", "/bin/true", "true", procfs=procfs)
    assert done.returncode == 125 and "abi=2" in done.stderr


def test_help_is_on_stdout() -> None:
    done = gs("run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--on-oom" in done.stdout and "127" in done.stdout


# ---------------------------------------------------------------------------- --dry-run


@root_only
def test_a_dry_run_shows_both_command_lines_and_does_nothing(procfs: Path) -> None:
    done = gs("run", "--dry-run", "--on-oom", "/bin/true 'a b'", "--grace", "5s", "/bin/echo",
              "x y", procfs=procfs)  # fmt: skip
    assert done.returncode == 0
    assert "kernel (builtin, abi 1)" in done.stdout
    assert "/bin/true 'a b'\n" in done.stdout
    assert "/bin/echo 'x y'\n" in done.stdout
    assert "PID grace_ms=5000 /bin/true a\\040b\n" in done.stdout
    assert registry(procfs) == []


@root_only
def test_a_dry_run_knows_the_ceiling_and_the_length(procfs: Path) -> None:
    for words, reason in (
        (("--on-oom", "true", "--grace", "31s"), "ceiling of 30000 ms"),
        (("--on-oom", "true " + "x" * 9000), "8192"),
    ):
        done = gs("run", "--dry-run", *words, "true", procfs=procfs)
        assert done.returncode == 125 and reason in done.stderr


@root_only
def test_a_dry_run_looks_at_the_place_of_the_memory_cgroup(procfs: Path) -> None:
    """Also for real: nothing is registered for a program that cannot be confined."""
    words = ("--on-oom", "true", "--memory-max", "50M", "true")
    done = gs("run", "--dry-run", *words, procfs=procfs)
    try:
        place = cgroup.find_place(cgroup.require())
    except GsError as error:
        assert done.returncode == 125 and error.what in done.stderr and error.hint in done.stderr
        assert gs("run", *words, procfs=procfs).returncode == 125
    else:
        assert f"52428800 bytes, swap 0 bytes, a cgroup in {place}\n" in done.stdout
        assert cgroup.stale(place) == []
    assert registry(procfs) == []


def test_a_dry_run_finds_what_would_fail() -> None:
    assert gs("run", "--dry-run", "--on-oom", "/nowhere", "true").returncode == 125
    assert gs("run", "--dry-run", "--on-oom", "/bin/true", "no-such-prog").returncode == 127
    assert gs("run", "--dry-run", "--on-oom", "/bin/true", "true").returncode == 125


# ---------------------------------------------------------------------------- swap


@pytest.fixture
def without_swap_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cgroup.Hierarchy:
    """A memory controller that does not account for swap, on a machine that has some."""
    where = cgroup.Hierarchy(1, str(tmp_path), str(tmp_path))
    (tmp_path / where.limit_file).touch()
    monkeypatch.setattr(cgroup, "require", lambda: where)
    monkeypatch.setattr(cgroup, "find_place", lambda where: where.own)
    monkeypatch.setattr(cgroup, "has_swap", lambda: True)
    monkeypatch.setenv("GS_PROCFS", "/nowhere")
    return where


def test_swap_that_is_to_be_limited_and_cannot(
    without_swap_limits: cgroup.Hierarchy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dry-run", "--allow-unprotected", "--on-oom", "true", "--memory-max", "50M"]
    for size in ("0", "10M"):
        assert runner.main([*words, "--swap-max", size, "true"]) == 125
        assert "boot it with swapaccount=1" in capsys.readouterr().err
    assert runner.main([*words, "true"]) == 0
    assert "52428800 bytes, swap not limited (this kernel" in capsys.readouterr().out
    Path(without_swap_limits.own, without_swap_limits.swap_file).touch()
    assert runner.main([*words, "--swap-max", "0", "true"]) == 0
    assert "52428800 bytes, swap 0 bytes" in capsys.readouterr().out


def test_swap_that_is_not_limited_is_told_of_where_there_is_some(
    without_swap_limits: cgroup.Hierarchy,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = cgroup.Group(without_swap_limits.own, without_swap_limits)
    runner._warn_of_swap(group)
    said = capsys.readouterr().err
    assert said.startswith("gs run: PROG may swap") and said.count("\n") == 1
    monkeypatch.setattr(cgroup, "has_swap", lambda: False)
    runner._warn_of_swap(group)
    assert capsys.readouterr().err == ""


def test_no_group_is_made_where_swap_must_be_limited_and_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        place = cgroup.find_place(cgroup.require())
    except GsError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    monkeypatch.setattr(cgroup, "limits_swap", lambda group, where: False)
    with pytest.raises(NotSupported, match="swapaccount"):
        cgroup.make(50 << 20, 0, must_limit_swap=True)
    assert cgroup.stale(place) == []


def test_a_root_of_version_2_is_judged_by_its_groups(tmp_path: Path) -> None:
    where = cgroup.Hierarchy(2, str(tmp_path), str(tmp_path))
    assert cgroup.limits_swap(str(tmp_path), where)
    assert cgroup.limits_swap("/nowhere", where)
    (tmp_path / "system.slice").mkdir()
    (tmp_path / "system.slice" / "memory.max").touch()
    assert not cgroup.limits_swap(str(tmp_path), where)
    (tmp_path / "system.slice" / "memory.swap.max").touch()
    assert cgroup.limits_swap(str(tmp_path), where)


# ---------------------------------------------------------------------------- --user

STATUS = "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff):' /proc/self/status"


@root_only
def test_prog_is_another_user_without_a_way_back(procfs: Path) -> None:
    done = gs("run", "--on-oom", "/bin/true", "--user", "nobody", "sh", "-c", STATUS, procfs=procfs)
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    uid, gid = pwd.getpwnam("nobody")[2:4]
    assert fields["Uid"] == "\t".join([str(uid)] * 4)
    assert fields["Gid"] == "\t".join([str(gid)] * 4)
    assert fields["Groups"].split() == [str(gid)]
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0
    back = gs("run", "--on-oom", "/bin/true", "--user", "nobody", "setpriv", "--reuid", "0",
              "true", procfs=procfs)  # fmt: skip
    assert back.returncode != 0 and "not permitted" in back.stderr


@root_only
def test_no_ambient_capability_stays(procfs: Path) -> None:
    """As a unit's AmbientCapabilities= gives them to root: they are not PROG's."""
    start = f"import sys; sys.path.insert(0, {str(REPO)!r}); from gs.cli import main; "
    done = subprocess.run(
        ["setpriv", "--inh-caps=+net_raw", "--ambient-caps=+net_raw",
         sys.executable, "-S", "-E", "-c", start + "sys.exit(main())",
         "run", "--on-oom", "/bin/true", "--user", "nobody", "sh", "-c", STATUS],
        env=environment(procfs), capture_output=True, text=True, check=True,
    )  # fmt: skip
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == 0


@root_only
def test_the_group_may_be_given(procfs: Path) -> None:
    done = gs("run", "--on-oom", "/bin/true", "--user", "nobody:daemon", "id", "-gn", procfs=procfs)
    assert done.stdout == "daemon\n"


@root_only
def test_a_failed_exec_as_another_user_is_taken_back_as_root(procfs: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = script(tmp_path / "roots", "#!/bin/sh\n", 0o700)
    done = gs("run", "--on-oom", "/bin/true", "--user", "nobody", str(path), procfs=procfs)
    assert done.returncode == 126
    registered, removed = registry(procfs)
    assert removed == "-" + registered.split()[0]


# ---------------------------------------------------------------------------- start-up

FORBIDDEN = ("argparse", "dataclasses", "typing", "shlex", "re", "subprocess", "pathlib", "enum",
             "signal", "collections", "importlib.resources", "json")  # fmt: skip


def modules_before_exec(procfs: Path, *words: str, **more: str) -> set[str]:
    """Everything that a bare interpreter loads on the way to PROG."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); from gs.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-X", "importtime", "-c", code, "run", *words],
        env=environment(procfs, **more),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@root_only
def test_the_way_to_prog_with_guards_imports_little(tmp_path: Path) -> None:
    where = cgroup.hierarchy()
    name = f"cgroup{where.version if where else 0}"
    if where is None or backends.named(name).unusable():
        pytest.skip("no backend on memory cgroups here")
    words = ("--backend", name, "--on-oom", "true", "--memory-max", "50M", "/bin/true")
    loaded = modules_before_exec(tmp_path, *words, GS_RUN_DIRECTORY=str(tmp_path))
    assert "gs.guard" in loaded
    assert loaded.isdisjoint((*FORBIDDEN, "ctypes"))


@root_only
@pytest.mark.parametrize(
    "words",
    [("--on-oom", "true 'a b'"),
     ("--on-oom", "true", "--signal", "TERM", "--grace", "5s", "--memory-max", "50M", "--user",
      "nobody")],
    ids=["plain", "all options"],
)  # fmt: skip
def test_the_way_to_prog_imports_little(tmp_path: Path, words: tuple[str, ...]) -> None:
    if "--memory-max" in words:
        needs_own_group()
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    loaded = modules_before_exec(procfs, *words, "/bin/true")
    assert "gs.runner" in loaded
    assert loaded.isdisjoint(FORBIDDEN)
    assert len(registry(procfs)) == 1


# ---------------------------------------------------------------------------- a user's own scope


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user under systemd, with version 2, who may make no group where he is; the directory of
    his `systemd-run`, which does what it is asked for."""
    mount, runtime, tools = tmp_path / "cg", tmp_path / "runtime", tmp_path / "tools"
    for directory in (mount / "user.slice", runtime / "systemd", tools):
        directory.mkdir(parents=True)
    (runtime / "systemd" / "private").touch()
    (mount / "user.slice" / "memory.max").write_text("100000000\n")
    (mount / "cgroup.subtree_control").write_text("memory\n")
    script(
        tools / "systemd-run",
        '#!/bin/sh\nwhile [ "$1" != -- ]; do case $1 in --setenv=*) export "${1#*=}";; esac\n'
        'shift; done; shift; exec "$@"\n',
    )
    where = cgroup.Hierarchy(2, str(mount), str(mount / "user.slice"))
    monkeypatch.setattr(cgroup, "hierarchy", lambda *_: where)
    monkeypatch.setattr(cgroup, "refusal", lambda path: errno.EACCES if "/cg" in path else 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(runtime / "gs"))
    monkeypatch.setenv("GS_PROCFS", "/nowhere")

    def execv(path: str, words: list[str | bytes]) -> None:
        raise Executed(path)

    monkeypatch.setattr(os, "execv", execv)
    return tools


class Executed(Exception):
    """Instead of an exec of that program."""


LIMITS = pytest.mark.parametrize("limit", [(), ("--memory-max", "50M")], ids=["", "memory-max"])


@LIMITS
def test_a_run_of_a_user_goes_on_in_a_scope(user: Path, limit: tuple[str, ...]) -> None:
    with pytest.raises(Executed, match=f"{user}/systemd-run"):
        runner.main([*limit, "--on-oom", "true", "true"])


def test_so_does_one_that_needs_it_for_its_limit_alone(
    user: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GS_PROCFS", str(make_procfs(tmp_path / "proc")))
    monkeypatch.setattr(kernel, "may_register", lambda files: True)
    words = ("--backend", "kernel", "--memory-max", "50M", "--on-oom", "true", "true")
    with pytest.raises(Executed, match=f"{user}/systemd-run"):
        runner.main(words)


@LIMITS
def test_a_dry_run_says_that_it_would(
    user: Path, capsys: pytest.CaptureFixture[str], limit: tuple[str, ...]
) -> None:
    assert runner.main(["--dry-run", *limit, "--on-oom", "true", "true"]) == 0
    said = capsys.readouterr().out
    assert "backend:   cgroup2 (guards beside the program), in a systemd user scope\n" in said
    assert "a cgroup in a systemd user scope\n" in said


@pytest.mark.parametrize("missing", ["systemd-run", "systemd", "directory", "version 2"])
def test_where_a_scope_is_not_to_be_had_or_does_not_help(
    user: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    if missing == "systemd-run":
        monkeypatch.setenv("PATH", "/nowhere")
    elif missing == "systemd":
        script(user / "systemd-run", "#!/bin/sh\necho no scope >&2\nexit 1\n")
    elif missing == "directory":
        monkeypatch.setenv("GS_RUN_DIRECTORY", NO_RUN_DIRECTORY)
    else:
        where = cgroup.Hierarchy(1, str(user.parent / "cg"), str(user.parent / "cg"))
        monkeypatch.setattr(cgroup, "hierarchy", lambda *_: where)
    for dry in ((), ("--dry-run",)):
        words = [*dry, "--memory-max", "50M", "--on-oom", "/bin/true", "/bin/true"]
        assert runner.main(words) == 125
        assert "cannot make a memory cgroup in" in capsys.readouterr().err
    words = ["--allow-unprotected", "--dry-run", "--on-oom", "/bin/true", "/bin/true"]
    assert runner.main(words) == 0
    assert "none: NOT protected\n" in capsys.readouterr().out


def test_a_systemd_run_that_fails_is_not_heard(
    user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script(user / "systemd-run", "#!/bin/sh\necho no scope >&2\nexit 1\n")
    assert runner.main(["--on-oom", "true", "true"]) == 125
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("gs run: cannot make a memory") and err.count("\n") == 1


def test_a_user_is_given_a_scope(tmp_path: Path) -> None:
    tool, runtime = script(tmp_path / "systemd-run", ""), tmp_path / "runtime"
    (runtime / "systemd").mkdir(parents=True)
    (runtime / "systemd" / "private").touch()
    here = {"XDG_RUNTIME_DIR": str(runtime)}
    before = os.environ["PATH"]
    os.environ["PATH"] = str(tmp_path)
    try:
        command = scoped_command(here, 1000)
        assert command is not None and command[0] == str(tool) and command[-1] == "--"
        assert {"--user", "--scope", "--collect", "Delegate=yes"} < set(command)
        assert scoped_command(here, 0) is None
        assert scoped_command({**here, "GS_SCOPED": "1"}, 1000) is None
        assert scoped_command({}, 1000) is None
        tool.unlink()
        assert scoped_command(here, 1000) is None
    finally:
        os.environ["PATH"] = before


# ---------------------------------------------------------------------------- --memory-max


def needs_own_group() -> None:
    where = cgroup.hierarchy()
    if where is None or not os.access(where.own, os.W_OK):
        pytest.skip("no memory cgroup can be made here (in the guest it can)")
    try:
        cgroup.parent_for_child(where)
    except Exception as error:
        pytest.skip(f"no memory cgroup can be made here: {error} (in the guest it can)")


@root_only
def test_prog_has_a_memory_cgroup_of_its_own(procfs: Path) -> None:
    needs_own_group()
    where = cgroup.require()
    done = gs("run", "--on-oom", "/bin/true", "--memory-max", "50M", "cat", "/proc/self/cgroup",
              procfs=procfs)  # fmt: skip
    assert done.returncode == 0
    assert f"/{cgroup.PREFIX}" in done.stdout
    parent = cgroup.parent_for_child(where)
    (left,) = cgroup.stale(parent)
    limit = int((Path(left) / where.limit_file).read_text())
    assert limit == 50 << 20
    cgroup.sweep(parent)
    assert cgroup.stale(parent) == []


@root_only
def test_a_group_that_guards_look_into_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last process has ended, and they do not know by what yet: a kill was told as `gone`."""
    needs_own_group()
    monkeypatch.setenv("GS_RUN_DIRECTORY", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    group = Path(cgroup.parent_for_child(cgroup.require()), f"{cgroup.PREFIX}{ended.pid}")
    group.mkdir()
    run = runfile.create("cgroup1", str(group), Entry(ended.pid, ("/bin/true",)))
    try:
        cgroup.sweep(str(group.parent))
        assert group.exists()
    finally:
        run.remove()
        run.close()
        cgroup.sweep(str(group.parent))
    assert not group.exists()


@root_only
def test_the_limit_kills_prog_and_nobody_else(procfs: Path) -> None:
    needs_own_group()
    done = gs("run", "--on-oom", "/bin/true", "--memory-max", "20M", "tail", "/dev/zero",
              procfs=procfs)  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    cgroup.sweep(cgroup.parent_for_child(cgroup.require()))


@root_only
def test_a_failed_exec_leaves_no_group(procfs: Path, tmp_path: Path) -> None:
    needs_own_group()
    parent = cgroup.parent_for_child(cgroup.require())
    path = script(tmp_path / "broken", "#!/nowhere/sh\n")
    done = gs("run", "--on-oom", "/bin/true", "--memory-max", "50M", str(path), procfs=procfs)
    assert done.returncode == 127
    assert not list(Path(parent).glob(f"{cgroup.PREFIX}*"))

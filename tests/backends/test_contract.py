"""What each backend must hold to, on real programs that run out of real memory."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from world import (
    GUARDS,
    IN_GUEST,
    ON_DISK,
    PATIENCE,
    World,
    alive,
    groups,
    named,
    program,
    state,
    victim,
    wait_until,
    with_argument,
)

import gs
from gs import backends, cgroup

KILLED = -signal.SIGKILL
#: How often the main case is run.
IN_A_ROW = int(os.environ.get("GS_IN_A_ROW") or 10)
#: How much is written to files and read, in all; none: a little.
FILES_GB = int(os.environ.get("GS_FILES_GB") or 0)
MB = 1 << 20


def writes(path: Path) -> str:
    """The command of a handler that writes down what it was told."""
    return f"{program('write_file')} {path}"


def words_of(path: Path) -> dict[str, str]:
    """What it wrote."""
    return dict(line.partition("=")[::2] for line in path.read_text().splitlines())


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def be_special() -> None:
    """What a process may leave to those that it starts."""
    os.umask(0o077)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


class TestHandler:
    def test_many_in_a_row(self, world: World, tmp_path: Path) -> None:
        for number in range(IN_A_ROW):
            out = tmp_path / f"out-{number}"
            process = world.run(writes(out), *victim())
            assert process.returncode == KILLED
            grace, done, kill = world.expect(process.pid, "grace", "done", "kill")
            told = words_of(out)
            assert told["victim_alive"] == "1" and told["end"] == "1"
            assert grace["time_ns"] <= int(told["time_ns"]) <= done["time_ns"] < kill["time_ns"]
            assert kill["outcome"] == "done" and done["exit_status"] == 0
            world.nothing_is_left()

    def test_what_it_is_told(self, world: World, tmp_path: Path) -> None:
        process = world.run(writes(tmp_path / "out"), *victim(), grace="1500ms")
        grace, *_, kill = world.expect(process.pid, "grace", "done", "kill")
        told = words_of(tmp_path / "out")
        assert told["GS_PID"] == told["GS_VICTIM_PID"] == str(process.pid)
        assert told["GS_COMM"] == kill["comm"] == "oom_condition_c"
        assert told["GS_CONSTRAINT"] == kill["constraint"] == "memcg"
        assert told["GS_MEMCG"] == kill["memcg"] == grace["memcg"]
        assert told["GS_EVENT_SEQ"] == str(grace.seq) and told["pid"] == str(grace["handler_pid"])
        assert told["GS_GRACE_MS"] == "1500" == str(grace["grace_ms"])
        assert told["GS_RSS_KB"] == str(grace["rss_kb"])
        left_ns = int(told["GS_DEADLINE_NS"]) - int(told["time_ns"])
        assert 0 < left_ns <= 1_500_000_000
        assert told["sid"] == told["pid"] and told["cwd"] == "/" and told["stdin"] == "/dev/null"
        assert f"{cgroup.PREFIX}{process.pid}" not in told["cgroup"]

    def test_it_has_nothing_of_the_callers(self, world: World, tmp_path: Path) -> None:
        """Nor of the guards, which ignore what may be sent to them."""
        out = tmp_path / "out"
        read = f"grep -E '^(Umask|SigBlk|SigIgn):' /proc/self/status > {out}"
        process = subprocess.Popen(
            world.command(*world.run_words(script(tmp_path / "h", read), *victim())),
            env=world.environment,
            preexec_fn=be_special,
        )
        assert process.wait(PATIENCE) == KILLED
        world.expect(process.pid, "grace", "done", "kill")
        told = dict(line.split(":\t") for line in out.read_text().splitlines())
        assert told == {"Umask": "0022", "SigBlk": "0" * 16, "SigIgn": "0" * 16}

    def test_one_that_hangs_ends_at_its_deadline(self, world: World) -> None:
        process = world.run(program("never_ends"), *victim(), grace="700ms")
        assert process.returncode == KILLED
        _, timeout, kill = world.expect(process.pid, "grace", "timeout", "kill")
        assert kill["outcome"] == "timeout"
        assert 700_000 <= timeout["elapsed_us"] < 700_000 + (5_000_000 if IN_GUEST else 500_000)
        wait_until(lambda: not named("never_ends"), "it still runs")

    def test_all_that_it_started_ends_too(self, world: World, tmp_path: Path) -> None:
        handler = script(tmp_path / "h", "setsid sleep 4711 & sleep 4711 & sleep 4711")
        process = world.run(handler, *victim(), grace="700ms")
        assert process.returncode == KILLED
        world.expect(process.pid, "grace", "timeout", "kill")
        wait_until(lambda: not with_argument("4711"), "some of it still runs")

    def test_what_it_leaves_behind_ends_with_its_time(self, world: World, tmp_path: Path) -> None:
        handler = script(tmp_path / "h", "setsid sleep 4711 & exit 3")
        process = world.run(handler, *victim(), grace="2s")
        assert process.returncode == KILLED
        world.wait_for(process.pid, "kill")
        _, done, kill = world.events(process.pid)[:3]
        assert (done["exit_status"], kill["outcome"]) == (3 << 8, "done")
        assert int(done["elapsed_us"]) < 2_000_000
        wait_until(lambda: not with_argument("4711"), "it still runs")

    def test_one_that_is_missing_by_then(self, world: World, tmp_path: Path) -> None:
        handler = script(tmp_path / "h", "true")
        start = tmp_path / "start"
        prog = (program("oom_condition_creator"), "--start-file", str(start))
        process = world.start(handler, *prog)
        world.began(process)
        Path(handler).unlink()
        start.touch()
        assert process.wait(PATIENCE) == KILLED
        failed, kill = (world.wait_for(process.pid, name) for name in ("failed", "kill"))
        assert (failed["errno"], kill["outcome"]) == (errno.ENOENT, "failed")

    def test_one_that_takes_too_much_hurts_itself_alone(self, world: World) -> None:
        bystander = subprocess.Popen(["sleep", "1000"])
        try:
            process = world.run(program("alloc_endless"), *victim(), grace="5s")
            assert process.returncode == KILLED
            kill = world.wait_for(process.pid, "kill")
            assert kill["outcome"] in ("failed", "timeout")
            assert bystander.poll() is None
            wait_until(lambda: not named("alloc_endless"), "it still runs")
        finally:
            bystander.kill()
            bystander.wait()

    def test_one_that_mends_it(self, world: World, tmp_path: Path) -> None:
        where = cgroup.require()
        files = {
            1: ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"),
            2: ("memory.max",),
        }[where.version]
        raises = "; ".join(
            f"[ ! -e {where.mount}$GS_MEMCG/{file} ] || echo 256M > {where.mount}$GS_MEMCG/{file}"
            for file in files
        )
        prog = victim("--total", "100M", "--hold")
        process = world.start(script(tmp_path / "h", raises), *prog, grace="3s")
        world.expect(process.pid, "grace", "done", "averted")
        assert process.poll() is None
        assert world.events(process.pid)[-1]["free_kb"] >= 1024
        process.kill()
        process.wait()


class TestProgram:
    def test_it_ends_by_itself(self, world: World) -> None:
        process = world.run("true", "sh", "-c", "echo $$; exit 3")
        assert process.returncode == 3
        output, errors = process.communicate()
        assert (output, errors) == (f"{process.pid}\n", "")
        assert world.events(process.pid) == []

    @pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-"])
    def test_streams_that_are_closed(self, world: World, tmp_path: Path, closed: str) -> None:
        """Nothing of ours takes their place, and PROG finds them closed."""
        started, start = tmp_path / "started", tmp_path / "start"
        test = " && ".join(
            f"[ {'!' if text in closed.split() else ''} -e /proc/$$/fd/{fd} ]"
            for fd, text in enumerate(("<&-", ">&-", "2>&-"))
        )
        victim = f"{program('oom_condition_creator')} --start-file {start}"
        prog = ("sh", "-c", f"{test} && : > {started}; exec {victim}")
        words = world.command(*world.run_words(writes(tmp_path / "out"), *prog))
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *words], env=world.environment
        )
        try:
            wait_until(started.exists, "it did not begin, or not as it should")
            assert f"{process.pid}  " in world.gs("list").stdout  # which takes a lock that is held
            start.touch()
            assert process.wait(PATIENCE) == KILLED
        finally:
            process.kill()
        world.expect(process.pid, "grace", "done", "kill")

    def test_it_cannot_be_executed(self, world: World, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        broken.write_text("#!/nowhere/sh\n")
        broken.chmod(0o755)
        assert world.run("true", str(broken)).returncode == 127

    def test_a_child_is_the_victim(self, world: World, tmp_path: Path) -> None:
        command = shlex.join(victim())
        process = world.run(
            writes(tmp_path / "out"), "sh", "-c", f"sleep 300 & {command}; kill $!; exit 7",
            scope="tree",
        )  # fmt: skip
        assert process.returncode == 7
        told = words_of(tmp_path / "out")
        assert told["GS_PID"] == str(process.pid) != told["GS_VICTIM_PID"]
        world.expect(int(told["GS_VICTIM_PID"]), "grace", "done", "kill")

    def test_a_pool_is_protected_again_and_again(self, world: World, tmp_path: Path) -> None:
        out = tmp_path / "out"
        handler = script(tmp_path / "h", f"echo $GS_VICTIM_PID >> {out}")
        command = shlex.join(victim())
        process = world.run(
            handler, "sh", "-c", f"for i in 1 2 3; do {command}; done; exit 5", scope="tree"
        )
        assert process.returncode == 5
        victims = out.read_text().split()
        assert len(set(victims)) == 3
        for pid in victims:
            world.expect(int(pid), "grace", "done", "kill")

    def test_a_child_that_is_not_covered(self, world: World, tmp_path: Path) -> None:
        out = tmp_path / "pid"
        inner = shlex.join(victim())
        process = world.run(
            writes(tmp_path / "out"),
            "sh", "-c", f"sh -c 'echo $$ > {out}; exec {inner}'; exit 7",
            scope="process",
        )  # fmt: skip
        assert process.returncode == 7
        pid = int(out.read_text())
        kill = world.expect(pid, "kill")[0]
        assert (kill["outcome"], kill["handler"]) == ("none", None)
        assert not (tmp_path / "out").exists()

    def test_it_becomes_a_daemon(self, guarded: World, tmp_path: Path) -> None:
        start = tmp_path / "start"
        prog = f"{program('oom_condition_creator')} --start-file {start}"
        process = guarded.run(
            writes(tmp_path / "out"), "sh", "-c", f"setsid {prog} >/dev/null 2>&1 & exit 0"
        )
        assert process.returncode == 0
        time.sleep(0.3)
        assert len(groups()) == 1 and named(*GUARDS)
        start.touch()
        wait_until((tmp_path / "out").exists, "no handler")
        guarded.nothing_is_left()
        told = words_of(tmp_path / "out")
        guarded.expect(int(told["GS_VICTIM_PID"]), "grace", "done", "kill")

    def test_page_cache_of_many_times_the_limit(self, world: World, tmp_path: Path) -> None:
        out, file = tmp_path / "out", ON_DISK / f"gs-test-{os.getpid()}"
        limit, size, times = ("256M", 512, FILES_GB) if FILES_GB else ("32M", 192, 1)
        write = f"dd if=/dev/zero of={file} bs=1M count={size} 2>/dev/null"
        each = f"{write} && cat {file} {file} >/dev/null || exit 1"
        try:
            process = world.start(
                writes(out), "sh", "-c", f"for i in $(seq {times}); do {each}; done", limit=limit
            )
            process.wait(PATIENCE * times)
        finally:
            file.unlink()
        assert process.returncode == 0
        assert not out.exists() and world.events(process.pid) == []

    def test_it_leaves_the_group_full(self, world: World) -> None:
        """Of what is in a tmpfs: nobody has it, and nobody can be killed for it."""
        file = Path(f"/dev/shm/gs-test-{os.getpid()}")
        write = f"dd if=/dev/zero of={file} bs=1M count=100 2>/dev/null; exit 4"
        try:
            assert world.run("true", "sh", "-c", write).returncode in (4, KILLED)
            world.nothing_is_left()
        finally:
            file.unlink()

    def test_it_is_stopped_for_a_while(self, world: World, tmp_path: Path) -> None:
        start = tmp_path / "start"
        prog = (program("oom_condition_creator"), "--start-file", str(start))
        process = world.start(writes(tmp_path / "out"), *prog)
        world.began(process)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state(process.pid) == "T", "it does not stop")
        start.touch()
        time.sleep(0.5)
        assert world.events(process.pid) == []
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == KILLED
        world.expect(process.pid, "grace", "done", "kill")

    def test_a_signal_for_the_program(self, world: World, tmp_path: Path) -> None:
        handler = program("never_ends")
        words = world.run_words(handler, *victim("--exit-on-term"), grace="3s")
        words[1:1] = ["--signal", "TERM"]
        done = world.gs(*words)
        assert done.returncode == 0, done.stderr
        pid = int(done.stdout.split()[1])
        world.wait_for(pid, "gone")
        assert world.names(pid)[:2] == ["grace", "gone"]

    def test_it_is_frozen_meanwhile(self, world: World, tmp_path: Path) -> None:
        """It takes not one page more, and is killed as ever. Elsewhere it stands still anyway."""
        out = tmp_path / "out"
        usage = f"$(cat {world.usage_file()})"
        handler = script(tmp_path / "h", f'echo "{usage}" >{out}; sleep 1; echo "{usage}" >>{out}')
        words = world.run_words(handler, *victim("--threads", "4"), grace="10s")
        words[1:1] = ["--freeze"]
        done = world.gs(*words)
        assert done.returncode == KILLED, done.stderr
        pid = int(done.stdout.split()[1])
        world.expect(pid, "grace", "done", "kill")
        before, after = map(int, out.read_text().split())
        # The kernel charges some pages ahead, and may take these back.
        assert world.backend != "cgroup2" or after - before < 64 << 10
        world.nothing_is_left()

    def test_frozen_it_would_not_get_its_signal(self, world: World) -> None:
        words = world.run_words("true", "true")
        words[1:1] = ["--freeze", "--signal", "TERM"]
        done = world.gs(*words)
        assert done.returncode == 125 and "frozen" in done.stderr


class TestLibrary:
    def test_a_child_of_this_program(self, world: World, tmp_path: Path) -> None:
        handler = [program("write_file"), str(tmp_path / "out")]
        done = gs.run(
            victim(), handler, memory_max="64M", backend=world.backend, stdout=subprocess.DEVNULL
        )
        assert (done.returncode, done.outcome, done.oom_killed) == (KILLED, "done", True)
        assert [event.event for event in done.events] == ["grace", "done", "kill"]
        quiet = gs.run(["true"], handler, memory_max="64M", backend=world.backend)
        assert (quiet.returncode, quiet.outcome, quiet.events) == (0, "ended", ())


class TestGuards:
    """Dead guards neither kill a program nor leave it standing still."""

    @pytest.mark.parametrize("role", GUARDS)
    def test_one_dies_at_rest(self, guarded: World, tmp_path: Path, role: str) -> None:
        start = tmp_path / "start"
        prog = (program("oom_condition_creator"), "--start-file", str(start))
        process = guarded.start(writes(tmp_path / "out"), *prog)
        guarded.began(process)
        for _ in range(3):
            pid = guarded.guard(role)
            os.kill(pid, signal.SIGKILL)
            guarded.replaced(role, pid)
        assert process.poll() is None
        time.sleep(0.7)  # a watcher that dies at once is not started again at once
        start.touch()
        assert process.wait(PATIENCE) == KILLED
        guarded.expect(process.pid, "grace", "done", "kill")

    @pytest.mark.parametrize("role", GUARDS)
    def test_one_dies_in_a_grace(self, guarded: World, role: str) -> None:
        process = guarded.start(program("never_ends"), *victim(), grace="3s")
        guarded.wait_for(process.pid, "grace")
        os.kill(guarded.guard(role), signal.SIGKILL)
        assert process.wait(PATIENCE) == KILLED
        wait_until(lambda: not named("never_ends"), "its handler still runs")

    @pytest.mark.parametrize("by", ["doctor", "run"])
    def test_both_die_at_rest(self, guarded: World, tmp_path: Path, by: str) -> None:
        start, out = tmp_path / "start", tmp_path / "out"
        prog = (program("oom_condition_creator"), "--start-file", str(start))
        process = guarded.start(writes(out), *prog)
        guarded.began(process)
        kill_both(guarded)
        assert process.poll() is None
        self._somebody_comes_by(guarded, by)
        start.touch()
        assert process.wait(PATIENCE) == KILLED
        assert not out.exists()
        cgroup.remove_when_empty(groups()[0])  # who was to do this is dead

    def test_both_die_in_a_grace(self, guarded: World) -> None:
        process = guarded.start(program("never_ends"), *victim(), grace="20s")
        guarded.wait_for(process.pid, "grace")
        kill_both(guarded)
        self._somebody_comes_by(guarded, "run")
        assert process.wait(PATIENCE) == KILLED
        wait_until(lambda: not named("never_ends"), "its handler still runs")
        for path in groups():
            cgroup.remove_when_empty(path)  # who was to do this is dead

    def _somebody_comes_by(self, world: World, how: str) -> None:
        if how == "doctor":
            said = world.gs("doctor").stdout
            assert "WARN guards:" in said and "it was disarmed" in said
            assert "WARN guards:" not in world.gs("doctor").stdout
        else:
            assert world.run("true", "true").returncode == 0

    def test_they_cost_nothing_at_rest(self, guarded: World) -> None:
        process = guarded.start("true", "sleep", "1000")
        guarded.began(process)
        pids = [guarded.guard(role) for role in GUARDS]
        time.sleep(0.5)
        before = [ticks(pid) for pid in pids]
        time.sleep(5)
        assert [ticks(pid) for pid in pids] == before
        assert sum(pss_kb(pid) for pid in pids) <= 14 * 1024
        process.kill()

    def test_they_hold_nothing_of_others(self, guarded: World) -> None:
        """Who reads what the program prints sees its end, though a guard lives on."""
        process = guarded.start("true", "sh", "-c", "setsid sleep 2 >/dev/null 2>&1 & echo hi")
        began = time.monotonic()
        assert process.communicate()[0] == "hi\n"
        took = time.monotonic() - began
        assert named(*GUARDS) or took > 2, "the guards have gone before"

    def test_they_are_listed(self, guarded: World) -> None:
        assert guarded.gs("list").returncode == 0
        process = guarded.start("true 'a b'", "sleep", "1000", grace="1s")
        guarded.began(process)
        said = guarded.gs("list").stdout
        assert f"{process.pid}  sleep" in said and "true 'a b'" in said
        process.kill()


def kill_both(world: World) -> None:
    """In one instant: neither can do anything about the other."""
    pids = [world.guard(role) for role in GUARDS]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "they live")
    assert not named(*GUARDS)


def ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


class TestPlaces:
    def test_one_run_within_another(self, guarded: World, tmp_path: Path) -> None:
        outer, inner = tmp_path / "outer", tmp_path / "inner"
        within = guarded.command(*guarded.run_words(writes(inner), *victim(), limit="48M"))
        process = guarded.start(writes(outer), *within, limit="128M")
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == KILLED, errors
        assert inner.exists() and not outer.exists()
        guarded.nothing_is_left()  # on version 2 the inner guards are in the outer group
        # Only now has everybody told what there was to tell.
        guarded.expect(process.pid, "grace", "done", "kill")

    def test_a_process_that_runs_already(self, guarded: World) -> None:
        """Nobody can move it into a group without changing what it is charged to."""
        if not backends.named("kernel").unusable():
            pytest.skip("the kernel takes it here")
        done = guarded.gs("register", str(os.getpid()), "--on-oom", "true")
        assert done.returncode == 3 and done.stderr.count("\n") == 1

    def test_no_limit_at_all(self, guarded: World) -> None:
        if cgroup.nearest_limit(cgroup.require()) is not None:
            pytest.skip("this session has a limit itself")
        process = guarded.run("true", "true", limit="")
        assert process.returncode == 125
        assert "no limit to watch: give --memory-max" in process.communicate()[1]

    def test_the_limit_of_the_group_that_it_is_in(self, guarded: World, tmp_path: Path) -> None:
        where = cgroup.require()
        parent = Path(cgroup.parent_for_child(where)) / "gs-test-parent"
        leaf = parent / "leaf"
        parent.mkdir()
        try:
            (parent / where.limit_file).write_text(str(96 * MB))
            if where.version == 2:
                (parent / "cgroup.subtree_control").write_text("+memory")
            leaf.mkdir()
            words = guarded.run_words(writes(tmp_path / "out"), *victim(), limit=None)
            process = subprocess.Popen(
                ["sh", "-c", f'echo $$ > {leaf}/cgroup.procs; exec "$@"', "sh"]
                + guarded.command(*words),
                env=guarded.environment,
            )
            assert process.wait(PATIENCE) == KILLED
            guarded.expect(process.pid, "grace", "done", "kill")
        finally:
            wait_until(lambda: cgroup.remove(str(parent)), "it cannot be removed")

    def test_a_user_with_a_group_of_his_own(self, guarded: World, tmp_path: Path) -> None:
        """Delegated as systemd does it; alone in it, as gs-oom is in a scope."""
        where = cgroup.require()
        if where.version == 1:
            pytest.skip("version 1 is not delegated")
        own = Path(cgroup.parent_for_child(where)) / "gs-test-delegated"
        own.mkdir()
        try:
            files = [own / f"cgroup.{file}" for file in ("procs", "subtree_control")]
            for path in (own, *files, guarded.runs):
                os.chown(path, 65534, 65534)
            tmp_path.chmod(0o777)
            for path in (tmp_path.parent, tmp_path.parent.parent):
                path.chmod(0o755)
            words = guarded.run_words(writes(tmp_path / "out"), *victim())
            process = subprocess.Popen(
                ["sh", "-c", f'echo $$ > {own}/cgroup.procs; exec "$@"', "sh", "setpriv"]
                + ["--reuid=65534", "--regid=65534", "--clear-groups", *guarded.command(*words)],
                env=guarded.environment,
            )
            assert process.wait(PATIENCE) == KILLED
            guarded.expect(process.pid, "grace", "done", "kill")
            told = words_of(tmp_path / "out")
            assert (told["uid"], told["no_new_privs"], told["stdout"]) == (
                "65534",
                "1",
                "/dev/null",
            )
            guarded.nothing_is_left()
        finally:
            wait_until(lambda: cgroup.remove(str(own)), "it cannot be removed")

    def test_a_user_without_rights(self, guarded: World, tmp_path: Path) -> None:
        words = guarded.run_words("true", "true")
        pid = os.fork()
        if not pid:
            try:
                from gs import runner

                sys.stderr = (tmp_path / "error").open("w")
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                os._exit(runner.main(words[1:]))
            finally:
                os._exit(1)
        assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 125
        said = (tmp_path / "error").read_text()
        assert "ermission denied" in said and said.count("\n") == 1

    def test_no_place_to_write_the_run_down(self, guarded: World) -> None:
        guarded.environment["GS_RUN_DIRECTORY"] = "/dev/null/run"
        words = guarded.run_words("true", "true")[1:]
        for dry in ((), ("--dry-run",)):
            done = guarded.gs("run", *dry, *words)
            assert done.returncode == 125 and "cannot write down the run" in done.stderr
        words = guarded.run_words("true", "true", limit=None)[1:]
        done = guarded.gs("run", "--allow-unprotected", *words)
        assert done.returncode == 0 and "NOT protected: cannot write down" in done.stderr

    def test_groups_that_cannot_be_written(self, guarded: World) -> None:
        mount = cgroup.require().mount
        words = guarded.command(*guarded.run_words("true", "true"))
        prepare = f"mount -o remount,bind,ro {mount} || exit 99"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f'{prepare}; exec "$@"', "sh", *words],
            env=guarded.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode in (1, 99):
            pytest.skip(f"no mount namespace can be made here: {done.stderr}")
        assert done.returncode == 125
        assert "read-only" in done.stderr and "container" in done.stderr

"""The gs command end to end over ssh: sessions, scopes, services, and what an OOM does to them."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Iterator
from typing import Any

import fabric
import pytest

from provisioning.hosts.remote import connection_to
from provisioning.vm import machines

GS = "PYTHONPATH=/gs python3 -m gs"
BIN = "/gs/bin"


@pytest.fixture
def saved() -> str:
    """A new path in the machine for a handler's file."""
    return f"/root/saved-{uuid.uuid4().hex[:8]}"


def run_in_scope(connection: fabric.Connection, properties: str, command: str) -> Any:
    """A command in a scope of its own, as a user should start what may run out of memory.

    Its standard output ends in its exit status: ssh itself tells no number for a death by signal.
    """
    inner = shlex.quote(f"echo 1000 >/proc/self/oom_score_adj; exec {command}")
    return connection.run(
        f"PYTHONPATH=/gs systemd-run --quiet --scope {properties} sh -c {inner}; echo ended $?",
        timeout=180,
    )


def words_of(connection: fabric.Connection, path: str) -> dict[str, str]:
    """A handler's file."""
    text = connection.run(f"cat {path}").stdout
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(
    ("properties", "constraint"),
    [("-p MemoryMax=64M -p MemorySwapMax=0", "memcg"), ("", "none")],
    ids=["memcg", "global"],
)
def test_gs_run(
    connection: fabric.Connection, saved: str, properties: str, constraint: str
) -> None:
    """The handler runs before the kill, and the session that asked lives on."""
    command = (
        f"python3 -m gs run --scope process {BIN}/oom_condition_creator --now "
        f"--on-oom '{BIN}/write_file {saved}' --grace 8s"
    )
    done = run_in_scope(connection, properties, command)
    assert done.stdout.endswith("ended 137\n"), done.stderr
    about = words_of(connection, saved)
    assert about["victim_alive"] == "1" and about["GS_CONSTRAINT"] == constraint
    assert connection.run("echo still here").stdout == "still here\n"
    assert connection.run("systemctl is-active ssh").stdout == "active\n"
    events = connection.run("timeout 2 cat /proc/graceful_shutdown_events").stdout
    ours = [line for line in events.splitlines() if f" pid={about['GS_PID']} " in line]
    assert [line.split(" event=")[1].split()[0] for line in ours] == ["grace", "done", "kill"]


@pytest.fixture
def user(machine: machines.Machine, connection: fabric.Connection) -> Iterator[fabric.Connection]:
    """Somebody who logs in and is not root: with a systemd of its own, as on any Debian."""
    name = f"user-{uuid.uuid4().hex[:6]}"
    home = f"/home/{name}"
    made = connection.run(
        f"useradd --create-home --shell /bin/bash {name} && umask 077 && mkdir {home}/.ssh && "
        f"cp /root/.ssh/authorized_keys {home}/.ssh && chown -R {name}: {home}/.ssh"
    )
    assert made.ok, made.stderr
    try:
        with connection_to(f"{name}@{machine.name}", machine.ssh_config) as login:
            yield login
    finally:
        connection.run(f"loginctl terminate-user {name}; userdel --remove --force {name}")


def test_a_user_gets_a_scope_of_his_systemd(user: fabric.Connection) -> None:
    """Who may make no memory cgroup has one made, and is protected in it, with a limit."""
    doctor = user.run(f"{GS} doctor")
    assert doctor.ok and "in a systemd user scope" in doctor.stdout
    done = user.run(
        f"{GS} run --backend cgroup2 --memory-max 64M {BIN}/oom_condition_creator --now "
        f'--on-oom "{BIN}/write_file $HOME/saved" --grace 8s; echo ended $?'
    )
    assert done.stdout.endswith("ended 137\n"), done.stderr
    about = words_of(user, "saved")
    assert about["victim_alive"] == "1" and about["GS_CONSTRAINT"] == "memcg"
    events = user.run(f"{GS} watch --no-follow --json").stdout
    records = [json.loads(line) for line in events.splitlines()]
    ours = [one for one in records if str(one["pid"]) == about["GS_PID"]]
    assert [one["event"] for one in ours] == ["grace", "done", "kill"], events
    uid = user.run("id -u").stdout.strip()
    assert f"/user@{uid}.service/" in ours[0]["memcg"]
    scopes = "systemctl --user list-units --all --plain --no-legend --type=scope 'run-*'"
    assert user.run(scopes).stdout == ""


def test_a_service_stops_as_a_whole_unless_told_otherwise(
    connection: fabric.Connection, saved: str
) -> None:
    """systemd's OOMPolicy: the default stops the unit when one of its processes is killed."""
    after = saved + "-after"
    script = (
        f"{BIN}/oom_condition_creator --now >/dev/null & "
        f'echo 1000 >/proc/$!/oom_score_adj; echo "$! {BIN}/write_file {saved}" '
        f">/proc/graceful_shutdown; wait $!; sleep 3; touch {after}"
    )
    exists = {}
    for policy in ("stop", "continue"):
        unit = f"gs-trap-{policy}-{uuid.uuid4().hex[:6]}"
        connection.run(f"rm -f {saved} {after}")
        done = connection.run(
            f"systemd-run --quiet --wait --unit {unit} -p OOMPolicy={policy} "
            f"-p MemoryMax=48M -p MemorySwapMax=0 sh -c {shlex.quote(script)}",
            timeout=180,
        )
        assert words_of(connection, saved)["victim_alive"] == "1"
        exists[policy] = connection.run(f"test -e {after}").ok
        assert done.ok == (policy == "continue")
        connection.run(f"systemctl reset-failed {unit}")
    assert exists == {"stop": False, "continue": True}


def test_register_list_unregister(connection: fabric.Connection) -> None:
    pid = connection.run("sleep 300 >/dev/null 2>&1 & echo $!").stdout.strip()
    try:
        done = connection.run(f"{GS} register {pid} --on-oom '{BIN}/do_nothing one'")
        assert done.ok, done.stderr
        listed = json.loads(connection.run(f"{GS} list --json").stdout)
        assert pid in json.dumps(listed) and "do_nothing" in json.dumps(listed)
        assert connection.run(f"{GS} unregister {pid}").ok
        assert connection.run("cat /proc/graceful_shutdown").stdout == ""
        again = connection.run(f"{GS} unregister {pid}")
        assert again.exited == 4
        assert len(again.stderr.strip().splitlines()) == 1
    finally:
        connection.run(f"kill {pid}")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("register 4194304 --on-oom /bin/true", 4),
        ("register $$ --on-oom /no/such/handler", 6),
        ("register $$ --on-oom /etc/passwd", 6),
        ("register", 2),
        ("run --on-oom /bin/true -- /no/such/program", 127),
        ("run --on-oom /bin/true -- /etc/passwd", 126),
        ("run --on-oom /no/such/handler /bin/true", 125),
    ],
)
def test_errors(connection: fabric.Connection, words: str, status: int) -> None:
    """One line, the documented status, nothing left registered."""
    done = connection.run(f"{GS} {words}")
    assert done.exited == status, done.stderr
    assert "Traceback" not in done.stderr
    assert connection.run("cat /proc/graceful_shutdown").stdout == ""


def test_doctor(connection: fabric.Connection) -> None:
    done = connection.run(f"{GS} doctor")
    assert "kernel" in done.stdout
    assert "Traceback" not in done.stderr


def test_watch_follows(connection: fabric.Connection) -> None:
    """An event that happens while it runs is printed."""
    connection.run(f"({GS} watch >/root/watched 2>&1 & echo $! >/root/watch.pid)", pty=False)
    time.sleep(3)
    try:
        victim = f"{BIN}/oom_condition_creator --now"
        run_in_scope(connection, "-p MemoryMax=32M -p MemorySwapMax=0", victim)
        for _ in range(20):
            text = connection.run("cat /root/watched").stdout
            if "oom_condition_c" in text:
                break
            time.sleep(0.5)
        assert "kill" in text and "oom_condition_c" in text
    finally:
        connection.run("kill $(cat /root/watch.pid)")

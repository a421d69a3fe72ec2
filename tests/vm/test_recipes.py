"""The recipes of docs/recipes, each followed from its own text, up to an OOM that really happens.

All in one booted Debian, with the services that they are about and our package: each has units and
memory cgroups of its own.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import fabric
import pytest

from provisioning import package
from provisioning.vm import image, machines
from tests.kernels import QUICK, kernel_or_skip
from tests.vm import recipes
from tests.vm.recipes import follow, said
from tests.vm.remote import connected


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machines.Machine]:
    """As the recipes expect it: patched, and with gs-oom installed."""
    kernel = kernel_or_skip(QUICK)
    name = f"tests-recipes-{os.getpid()}"
    base = image.root_image(image.SERVICES)
    try:
        machine = machines.up(kernel, name, memory_mb=1024, base=base)
        install(machine, package.tool(tmp_path_factory.mktemp("deb")))
        yield machine
    finally:
        machines.down(name)


def install(machine: machines.Machine, deb: Path) -> None:
    with connected(machine) as connection:
        connection.put(str(deb), "/root/")
        said(connection, f"dpkg -i /root/{deb.name}")


@pytest.fixture
def connection(machine: machines.Machine) -> Iterator[fabric.Connection]:
    """To this machine."""
    with connected(machine) as connection:
        yield connection


def events(connection: fabric.Connection, memcg: str) -> list[str]:
    """What happened in the memory cgroups whose path the pattern fits, in order."""
    lines = said(connection, "gs-oom watch --no-follow --raw").splitlines()
    found = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
    return [one["event"] for one in found if re.fullmatch(memcg, one.get("memcg", ""))]


def test_the_index_names_all_recipes() -> None:
    index = (recipes.PAGES / "README.md").read_text()
    pages = {path.name for path in recipes.PAGES.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\(([\w-]+\.md)\)", index)) == pages


def test_systemd_service(connection: fabric.Connection) -> None:
    """What the service had counted is rescued, and it goes on from there, registered again."""
    listed, after = follow(connection, "systemd-service.md")
    assert "rescue-worker" in listed
    progress, _, listed_again = after.partition("\n")
    assert int(progress) >= 1
    assert "rescue-worker" in listed_again
    assert events(connection, "/system.slice/worker.service") == ["grace", "done", "kill"]
    owner, number = said(
        connection,
        "until [ -s /run/worker/progress ]; do sleep 1; done;"
        " stat -c %U /var/lib/worker/progress; cat /run/worker/progress",
    ).split()
    assert owner == "worker"
    assert int(number) > int(progress)


#: Counts those of the first keys that have not the value that the recipe gives them.
DAMAGED = """
local damaged = 0
for n = 1, ARGV[1] do
    local number = string.format("%04d", n)
    if redis.call("GET", "key:" .. number) ~= string.rep(number, 20000) then
        damaged = damaged + 1
    end
end
return damaged
"""


def test_redis(connection: fabric.Connection) -> None:
    """Nothing is killed, and all that was acknowledged is there after a restart, undamaged."""
    save, ended, back = follow(connection, "redis.md")
    assert re.fullmatch(r"save\n\d+ .*\n", save)
    assert ended == "Result=success\n"
    assert events(connection, "/system.slice/redis-server.service") == ["grace", "done", "averted"]
    size, acknowledged = map(int, back.split())
    assert size >= acknowledged > 300
    damaged = shlex.join(["redis-cli", "eval", DAMAGED, "0", str(acknowledged)])
    assert said(connection, damaged) == "0\n"
    assert "save-redis" in said(connection, "gs-oom list")


def test_batch_job(connection: fabric.Connection) -> None:
    """The second attempt, with more memory, succeeds."""
    first, second = follow(connection, "batch-job.md")
    assert "greet: hello" in first and "report:" not in first.partition("/var/spool")[0]
    assert listing(first) == {"small": [], "large": ["report"], "running": [], "done": ["greet"]}
    assert f"report: {25 << 20} rows" in second
    assert listing(second)["done"] == ["greet", "report"]
    assert events(connection, ".*/gs.*") == ["grace", "done", "kill"]


def listing(output: str) -> dict[str, list[str]]:
    """What ls printed of the queues."""
    parts = re.findall(r"^/var/spool/jobs/(\w+):\n((?:.+\n)*)", output, re.MULTILINE)
    return {queue: names.split() for queue, names in parts}


def test_own_signal(connection: fabric.Connection) -> None:
    """The program has written what it had, and has ended by itself."""
    _, saved = follow(connection, "own-signal.md")
    result, state = saved.split()
    assert result == "Result=success"
    assert 8 <= int(state.partition("blocks=")[2]) <= 12  # of 4 MB, below 48 MB
    assert events(connection, "/system.slice/counter.service") == ["grace", "gone"]


def test_heap_dump(connection: fabric.Connection) -> None:
    """The core file can be read, and has what the victim had."""
    (listed,) = follow(connection, "heap-dump.md")
    core = re.search(r"hoarder-\d+\.core", listed)
    assert core, listed
    assert events(connection, "/system.slice/hoarder.service") == ["grace", "done", "kill"]
    path = f"/var/crash/{core[0]}"
    told = said(connection, f"gdb --nx --batch -c {path} -ex 'info threads' 2>&1")
    assert "Core was generated by `/usr/bin/python3" in told
    assert said(connection, f"grep -c 'order of customer 000002' {path}") != "0\n"
    assert re.search(r"^-rw------- .*\.core$", listed, re.MULTILINE)


def test_drain(connection: fabric.Connection) -> None:
    """No request fails, the balancer goes elsewhere for a time, and the server starts afresh."""
    _, answers = follow(connection, "drain.md")
    found = re.findall(r"from (\d+)\n(\d+) ", answers)
    assert [status for _, status in found] == ["200"] * 40
    assert "8002" * 5 in "".join(port for port, _ in found)
    # It said itself that it drains, and was not found dead.
    said(connection, "journalctl --unit haproxy --grep 'app/one is DOWN.* code: 503'")
    # The restart that the handler asks for last may be quicker than its own end.
    first, second = events(connection, r"/system\.slice/.*app@8001.*")[:2]
    assert first == "grace" and second in ("done", "gone")
    assert said(connection, "systemctl is-active app@8001; ls /run/app-8001") == "active\n"
    assert events(connection, r"/system\.slice/.*app@8002.*") == []


def test_container(connection: fabric.Connection) -> None:
    """The file of the container's own /tmp is outside of it, and tells the number inside."""
    outputs = follow(connection, "container.md")
    assert outputs[-1] == "order 4711, in process 1\n"
    assert events(connection, "/system.slice/box.service") == ["grace", "done", "kill"]

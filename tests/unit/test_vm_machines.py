"""The record of machines that stay, and what an image is made of, without QEMU."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.errors import UsageError, VMLost
from provisioning.vm import image, machines
from provisioning.vm.machines import Machine


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    return tmp_path


def record(name: str, pid: int, started: str | None = None) -> Machine:
    """As :func:`machines.up` leaves it behind."""
    begun = machines._start_time(pid) if started is None else started
    machine = Machine(name, pid, begun, 2222, "/kernel", 512)
    machine.folder.mkdir(parents=True)
    machines._write_state(machine)
    return machine


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", "A", "a b", "x" * 50])
def test_names(name: str) -> None:
    """A name becomes a directory and a host: nothing else may come of it."""
    for use in (machines.get, machines.down):
        with pytest.raises(UsageError):
            use(name)


def test_none_is_up() -> None:
    assert machines.machines() == []
    assert not machines.down("none")
    with pytest.raises(UsageError) as caught:
        machines.get("none")
    assert "vm.up" in str(caught.value)


def test_found_by_a_later_process() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        machine = record("one", process.pid)
        assert machines.find("one") == machine
        assert machines.machines() == [machine]
    finally:
        process.kill()
        process.wait()
    assert machines.find("one") is None


def test_one_that_was_left_booting_is_seen_and_ended() -> None:
    """Its starter was killed: nobody waits for it, but it is no machine to use."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    machine = dataclasses.replace(record("one", process.pid), booting=True)
    machines._write_state(machine)
    assert machines.machines() == [machine]
    with pytest.raises(UsageError, match="booting"):
        machines.get("one")
    assert machines.down("one")
    assert process.wait(5) == -9


def test_a_machine_that_has_gone_is_lost() -> None:
    """Exit code 7, where ssh itself fails because there is nobody any more."""
    process = subprocess.Popen(["sleep", "60"])
    machine = record("one", process.pid)
    (machine.folder / "ssh_config").write_text("Host one\n HostName 127.0.0.1\n Port 1\n")
    assert machine.run(["true"]).returncode == machines.SSH_FAILED
    process.kill()
    process.wait()
    with pytest.raises(VMLost) as caught:
        machine.run(["true"])
    assert caught.value.exit_code == 7


def test_another_process_with_its_number_is_left_alone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        record("one", process.pid, started="1")
        assert machines.find("one") is None
        assert not machines.down("one")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_down_ends_it_and_removes_its_files() -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    machine = record("one", process.pid)
    assert machines.down("one")
    assert process.wait(5) == -9
    assert not machine.folder.exists()


@pytest.mark.parametrize("state", ["", "{", "[]", "{}", '{"name": "x"}'])
def test_a_damaged_record_is_no_machine(cache: Path, state: str) -> None:
    folder = cache / "vm" / "machines" / "one"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(state)
    assert machines.find("one") is None
    assert machines.machines() == []


def test_the_quoting_of_words_reaches_the_guest() -> None:
    words = Machine("one", 1, "", 1, "", 1).ssh_words(["sh", "-c", "echo 'a  b' $X"])
    assert words[:2] == ["ssh", "-F"] and words[-2] == "--"
    assert shlex.split(words[-1]) == ["sh", "-c", "echo 'a  b' $X"]


def test_the_host_key_is_known(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "ssh_key", lambda: Path("/key"))
    machines._write_ssh_config(cache, "one", 2222, "ssh-ed25519 AAAA root@gs\n")
    assert (cache / "known_hosts").read_text() == "[127.0.0.1]:2222 ssh-ed25519 AAAA\n"
    assert "StrictHostKeyChecking yes" in (cache / "ssh_config").read_text()


def test_state_is_whole_or_not_there() -> None:
    machine = record("one", os.getpid())
    assert json.loads((machine.folder / "state.json").read_text())["name"] == "one"
    assert [path.name for path in machine.folder.iterdir()] == ["state.json"]


class TestImage:
    """Content-addressed: what goes in decides the name."""

    @pytest.fixture
    def overlay(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """Files of ours."""
        folder = tmp_path / "overlay"
        (folder / "etc").mkdir(parents=True)
        (folder / "etc" / "one").write_text("1")
        monkeypatch.setattr(image, "OVERLAY", folder)
        return folder

    def test_the_same_again(self, overlay: Path) -> None:
        assert image._key(image.PLAIN) == image._key(image.PLAIN)

    def test_content_mode_name_and_packages_count(self, overlay: Path) -> None:
        keys = [image._key(image.PLAIN)]
        (overlay / "etc" / "one").write_text("2")
        keys.append(image._key(image.PLAIN))
        (overlay / "etc" / "one").chmod(0o755)
        keys.append(image._key(image.PLAIN))
        (overlay / "etc" / "one").rename(overlay / "etc" / "two")
        keys.append(image._key(image.PLAIN))
        keys.append(image._key(replace(image.PLAIN, packages=(*image.PACKAGES, "more"))))
        assert len(set(keys)) == len(keys)

    @pytest.mark.skipif(not Path("/usr/bin/ssh-keygen").exists(), reason="no ssh-keygen here")
    def test_one_key_a_cache(self, cache: Path) -> None:
        key = image.ssh_key()
        before = key.read_bytes()
        assert image.ssh_key() == key and key.read_bytes() == before
        assert key.stat().st_mode & 0o077 == 0
        assert key.with_suffix(".pub").read_text().startswith("ssh-ed25519 ")

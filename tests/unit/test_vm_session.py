"""Judging what came back from a machine, without a machine."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from provisioning.errors import VMLost
from provisioning.vm import payload, qemu, session
from provisioning.vm.session import GuestResult, Outcome

TOKEN = "f" * 32


@pytest.mark.parametrize(
    ("text", "output", "status"),
    [
        (f"hello\n\n{TOKEN} 0\n", "hello\n", 0),
        (f"\n{TOKEN} 137\n", "", 137),
        (f"no newline at the end\n{TOKEN} 1\n", "no newline at the end", 1),
        (f"twice\n{TOKEN} 0\nmore\n{TOKEN} 4\n", f"twice\n{TOKEN} 0\nmore", 4),
        ("nothing", "nothing", None),
        ("", "", None),
        (f"cut\n{TOKEN} ", f"cut\n{TOKEN} ", None),
        (f"\n{TOKEN} 0 and more\n", f"\n{TOKEN} 0 and more\n", None),
        (f"inside {TOKEN} 0\n", f"inside {TOKEN} 0\n", None),
        ("\n" + "e" * 32 + " 0\n", "\n" + "e" * 32 + " 0\n", None),
    ],
)
def test_the_result_needs_the_token(
    tmp_path: Path, text: str, output: str, status: int | None
) -> None:
    file = tmp_path / "result"
    file.write_text(text)
    assert session._split_result(file, TOKEN) == (output, status)


def test_no_result_file(tmp_path: Path) -> None:
    assert session._split_result(tmp_path / "none", TOKEN) == ("", None)


PANIC = "[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
OOPS = "[    1.2] Oops: 0002 [#1] SMP\n"
ORDINARY = "[    1.2] Run /sbin/init as init process\nsaid panic and oops\n"


@pytest.mark.parametrize(
    ("ended", "status", "console", "outcome"),
    [
        (None, 0, ORDINARY, Outcome.OK),
        (None, 1, ORDINARY, Outcome.FAILED),
        (None, 0, PANIC, Outcome.OK),
        (None, None, PANIC, Outcome.PANIC),
        (None, None, OOPS, Outcome.PANIC),
        (Outcome.TIMEOUT, None, PANIC, Outcome.PANIC),
        (None, None, ORDINARY, Outcome.LOST),
        (None, None, "", Outcome.LOST),
        (Outcome.TIMEOUT, None, ORDINARY, Outcome.TIMEOUT),
        (Outcome.CRASHED, None, ORDINARY, Outcome.CRASHED),
    ],
)
def test_outcomes(
    ended: Outcome | None, status: int | None, console: str, outcome: Outcome
) -> None:
    assert session._judge(ended, status, console) is outcome


@pytest.mark.parametrize("outcome", [Outcome.PANIC, Outcome.LOST, Outcome.TIMEOUT, Outcome.CRASHED])
def test_a_lost_machine_is_one_line_and_exit_7(tmp_path: Path, outcome: Outcome) -> None:
    console = tmp_path / "console.log"
    console.write_text("first\nlast words\n")
    result = GuestResult(outcome, None, "", console, tmp_path, 12.0)
    with pytest.raises(VMLost) as caught:
        result.check_alive()
    assert caught.value.exit_code == 7
    line = str(caught.value)
    assert "\n" not in line and "last words" in line and str(console) in line
    assert caught.value.log == console


class TestCommandLine:
    """What QEMU is told."""

    def spec(self, tmp_path: Path, **options: object) -> qemu.Spec:
        given = {"kernel": tmp_path / "k", "arguments": "root=x", "console": tmp_path / "c"}
        (tmp_path / "k").write_bytes(b"")
        return qemu.Spec(**{**given, **options})  # type: ignore[arg-type]

    @pytest.fixture(autouse=True)
    def program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The words do not depend on whether QEMU is installed."""
        monkeypatch.setattr(qemu.commands, "which_or_hint", lambda name, package: Path("/q", name))

    def test_what_every_machine_has(self, tmp_path: Path) -> None:
        words = qemu.command_line(self.spec(tmp_path), "tcg")
        assert "-no-reboot" in words and "-nodefaults" in words
        append = words[words.index("-append") + 1]
        for setting in ("panic=-1", "oops=panic", "console=ttyS0", "root=x"):
            assert setting in append.split()
        assert words[words.index("-accel") + 1].startswith("tcg")

    def test_kvm_is_told_by_the_caller_only(self, tmp_path: Path) -> None:
        words = qemu.command_line(self.spec(tmp_path), "kvm")
        assert words[words.index("-accel") + 1] == "kvm"

    def test_a_clock_that_counts_instructions_is_for_emulation(self, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, counted=True)
        words = qemu.command_line(spec, "tcg")
        assert words[words.index("-icount") + 1] == qemu.INSTRUCTION
        assert words[words.index("-accel") + 1] == "tcg,thread=single"  # -icount needs it
        assert "-icount" not in qemu.command_line(spec, "kvm")
        assert "-icount" not in qemu.command_line(self.spec(tmp_path), "tcg")

    def test_drives_keep_their_order_and_modes(self, tmp_path: Path) -> None:
        drives = (
            qemu.Drive(Path("/a"), discard_writes=True),
            qemu.Drive(Path("/b,c"), read_only=True),
            qemu.Drive(Path("/d")),
        )
        words = qemu.command_line(self.spec(tmp_path, drives=drives), "tcg")
        options = [words[i + 1] for i, word in enumerate(words) if word == "-drive"]
        assert "file=/a,snapshot=on" in options[0]
        assert "file=/b,,c,readonly=on" in options[1]
        assert options[2].endswith("file=/d")

    def test_no_network_unless_asked(self, tmp_path: Path) -> None:
        assert "none" in qemu.command_line(self.spec(tmp_path), "tcg")
        words = qemu.command_line(self.spec(tmp_path, ssh_port=2222), "tcg")
        assert any("hostfwd=tcp:127.0.0.1:2222-:22" in word for word in words)

    def test_a_port_for_each_file(self, tmp_path: Path) -> None:
        ports = (("gs.one", Path("/1")), ("gs.two", Path("/2")))
        words = " ".join(qemu.command_line(self.spec(tmp_path, ports=ports), "tcg"))
        assert "path=/1" in words and "name=gs.one" in words
        assert "path=/2" in words and "name=gs.two" in words


class TestAccelerator:
    """KVM only where a kernel really booted with it; asked once."""

    @pytest.fixture(autouse=True)
    def here(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
        probes: list[Path] = []
        monkeypatch.setenv("GS_CACHE", str(tmp_path))
        monkeypatch.setattr(qemu, "_machine_identity", lambda: "this machine")
        self.answer = False

        def probe(kernel: Path) -> bool:
            probes.append(kernel)
            return self.answer

        monkeypatch.setattr(qemu, "_kvm_boots", probe)
        return probes

    @pytest.mark.parametrize(("answer", "name"), [(True, "kvm"), (False, "tcg")])
    def test_the_probe_decides_and_is_remembered(
        self, here: list[Path], answer: bool, name: str
    ) -> None:
        self.answer = answer
        assert [qemu.choose_accelerator(Path("/dev/null")) for _ in range(3)] == [name] * 3
        assert len(here) == 1

    def test_another_machine_is_asked_anew(
        self, here: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        qemu.choose_accelerator(Path("/dev/null"))
        monkeypatch.setattr(qemu, "_machine_identity", lambda: "another machine")
        qemu.choose_accelerator(Path("/dev/null"))
        assert len(here) == 2

    def test_emulation_is_said_once(
        self, here: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        qemu.choose_accelerator(Path("/dev/null"))
        qemu.choose_accelerator(Path("/dev/null"))
        assert capsys.readouterr().err.count("emulated") == 1

    def test_a_damaged_memory_is_asked_anew(self, here: list[Path], tmp_path: Path) -> None:
        qemu.choose_accelerator(Path("/dev/null"))
        (tmp_path / "vm" / "accelerator.json").write_text("{")
        qemu.choose_accelerator(Path("/dev/null"))
        assert len(here) == 2


class TestPayload:
    """The tar that the guest unpacks."""

    @pytest.fixture(autouse=True)
    def built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it holds does not depend on a compiler here."""
        monkeypatch.setattr(payload, "programs", lambda arch: Path("nowhere"))

    def test_content(self, tmp_path: Path) -> None:
        own = tmp_path / "own"
        own.write_text("own")
        target = tmp_path / "payload.tar"
        payload.write(
            target,
            command=["echo", "a  b", "$HOME"],
            extra={"some/where": own},
            texts={"note": b"text"},
        )
        assert target.stat().st_size % 512 == 0
        with tarfile.open(target) as archive:
            names = archive.getnames()
            assert {"init", "command", "some/where", "note", "gs/procfile.py"} <= set(names)
            assert not [name for name in names if "__pycache__" in name]
            assert all(member.uid == 0 for member in archive)
            command = archive.extractfile("command")
            assert command and command.read() == b"exec echo 'a  b' '$HOME'\n"
            assert archive.getmember("init").mode & 0o111

    def test_without_a_command(self, tmp_path: Path) -> None:
        payload.write(tmp_path / "payload.tar")
        with tarfile.open(tmp_path / "payload.tar") as archive:
            assert "command" not in archive.getnames()


def test_old_runs_go_also_while_another_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to nowhere stands for one that goes between the listing and the look."""
    monkeypatch.setenv("GS_CACHE", str(tmp_path))
    runs = tmp_path / "vm" / "runs"
    runs.mkdir(parents=True)
    (runs / "20250101-000000-gone").symlink_to(tmp_path / "nowhere")
    for number in range(session.KEPT_RUNS + 1):
        folder = runs / f"20260101-0000{number:02}"
        folder.mkdir()
        os.utime(folder, (0, 0))
    made = session._new_run_folder()
    left = {path.name for path in runs.iterdir()}
    assert made.name in left and "20260101-000030" in left
    assert "20260101-000000" not in left

"""The library: what `import gs` costs, the functions of the registry, gs.run()."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gs
from gs import backends, cgroup, child, registry
from gs.errors import GsError, ProgramNotFound, UsageError
from gs.paths import KernelFiles
from gs.procfile import Entry, Removal
from tests.unit.gs_support import FULL_FEATURES, NO_RUN_DIRECTORY, REPO, make_procfs

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="registering takes root")


@pytest.fixture
def procfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = make_procfs(tmp_path / "proc")
    monkeypatch.setenv("GS_PROCFS", str(directory))
    monkeypatch.setenv("GS_RUN_DIRECTORY", NO_RUN_DIRECTORY)
    return directory


def lines(procfs: Path) -> list[str]:
    return (procfs / "graceful_shutdown").read_text().splitlines()


# ---------------------------------------------------------------------------- importing


def bare_python(code: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(REPO)!r}); {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_import_loads_no_submodule() -> None:
    code = "before = set(sys.modules); import gs; print(sorted(set(sys.modules) - before))"
    assert bare_python(code) == "['__future__', 'gs']"


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import gs; print(time.perf_counter() - t)"
    assert min(float(bare_python(code)) for _ in range(5)) <= 0.020


def test_every_name_of_the_library_is_there_and_typed() -> None:
    assert (REPO / "gs" / "py.typed").exists()
    for name in gs.__all__:
        assert getattr(gs, name) is not None
    assert set(gs.__all__) <= set(dir(gs))
    with pytest.raises(AttributeError):
        gs.nothing_of_the_kind  # noqa: B018
    typed = ast.parse((REPO / "gs" / "__init__.py").read_text())
    names = {a.asname for n in ast.walk(typed) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names - {None} == set(gs.__all__) - {"__version__"}


#: Who may import whom within gs: each only those of an earlier row.
ROWS = (
    ("errors", "record", "_sys", "printable"),
    ("procfile", "paths"),
    ("cgroup", "arguments", "shadowing", "eventlog", "runfile", "victims")
    + ("proctree", "memgroups", "choice", "container"),
    ("registry", "handler"),
    ("eventstream",),
    ("backends/__init__", "backends/kernel", "backends/cgroup1", "backends/cgroup2")
    + ("backends/guarded", "guard", "watcher", "session"),
    ("runner", "finding", "scope"),
    ("bystanders", "daemons", "trial", "module"),
    ("oomlog/facts", "oomlog/lines", "oomlog/messages", "oomlog/telling", "oomlog/collector")
    + ("oomlog/badness", "oomlog/composition", "oomlog/hints", "oomlog/outcomes")
    + ("oomlog/incidents", "oomlog/words", "oomlog/sources", "oomlog/__init__"),
    ("doctor", "ps", "pstable"),
    ("child",),
    ("exporter/__init__", "exporter/figures", "exporter/kernellog", "exporter/state")
    + ("exporter/memoryevents",),
    ("exporter/counts", "exporter/sources"),
    ("exporter/merge",),
    ("exporter/follow",),
    ("exporter/exposition",),
    ("exporter/command",),
    ("cli", "manual"),
    ("__init__", "__main__"),
)


def imports_of(path: Path) -> set[str]:
    """The modules of gs that a file names in any import, also within functions."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{module}.{name.name}" for name in node.names} | {module}
    return found


def test_imports_go_one_way() -> None:
    order = {name: row for row, names in enumerate(ROWS) for name in names}
    files = {
        str(p.relative_to(REPO / "gs").with_suffix("")): p for p in (REPO / "gs").rglob("*.py")
    }
    assert set(files) == set(order)
    for name, path in files.items():
        for module in imports_of(path):
            target = module[3:].replace(".", "/") if module.startswith("gs.") else None
            for known in (target, f"{target}/__init__"):
                if known in order and known != name:
                    assert order[known] <= order[name], f"{name} imports {known}"


#: The one module that knows the one library that there may be.
ONLY = {"exporter/exposition": {"prometheus_client"}}


def test_nothing_but_the_standard_library_is_imported() -> None:
    known = getattr(sys, "stdlib_module_names", None)
    if known is None:
        pytest.skip("a Python before 3.10 does not list its modules")
    for path in (REPO / "gs").rglob("*.py"):
        tops = {module.partition(".")[0] for module in imports_of(path)}
        name = str(path.relative_to(REPO / "gs").with_suffix(""))
        assert tops <= {*known, "gs", *ONLY.get(name, ())}, path


# ---------------------------------------------------------------------------- the registry


def test_register_writes_one_line(procfs: Path) -> None:
    done = gs.register(42, ["/bin/true", "a b"], grace=5.0)
    assert lines(procfs) == ["42 grace_ms=5000 /bin/true a\\040b"]
    assert done == gs.Registration(42, ["/bin/true", "a b"], 5.0)
    assert done.line == lines(procfs)[0]
    assert gs.registrations() == [done]


def test_a_handler_is_found_on_path_and_may_be_a_path_object(procfs: Path) -> None:
    gs.register(42, "true")
    gs.register(43, Path("/bin/true"))
    gs.register(44, [Path("/bin/true"), "x"])
    first, second, third = lines(procfs)
    assert first.split()[1].endswith("/true") and first.split()[1].startswith("/")
    assert (second, third) == ("43 /bin/true", "44 /bin/true x")


def test_unregister(procfs: Path) -> None:
    gs.unregister(42)
    assert lines(procfs) == ["-42"]


def test_on_oom_covers_this_process_for_the_block(procfs: Path) -> None:
    me = os.getpid()
    with gs.on_oom("/bin/true", grace=1) as registration:
        assert lines(procfs) == [f"{me} grace_ms=1000 /bin/true"]
        assert registration.pid == me
    assert lines(procfs)[1:] == [f"-{me}"]


def test_on_oom_puts_back_what_there_was(procfs: Path) -> None:
    before = f"{os.getpid()} grace_ms=7 /bin/false x"
    (procfs / "graceful_shutdown").write_text(before + "\n")
    with gs.on_oom("/bin/true"):
        pass
    assert lines(procfs)[-1] == before


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: gs.register(0, "/bin/true"), gs.NoSuchProcess),
        (lambda: gs.register(-1, "/bin/true"), gs.NoSuchProcess),
        (lambda: gs.unregister(0), gs.NoSuchProcess),
        (lambda: gs.unregister(2**31), gs.NoSuchProcess),
        (lambda: gs.register(2**31, "/bin/true"), gs.NoSuchProcess),
        (lambda: gs.register(1, signal=0), UsageError),
        (lambda: gs.register(1, signal=65), UsageError),
        (lambda: gs.register(1, "/bin/true", scope="world"), UsageError),
        (lambda: gs.register(1, "/nowhere"), gs.InvalidHandler),
        (lambda: gs.register(1, "/tmp"), gs.InvalidHandler),
        (lambda: gs.register(1, []), gs.InvalidHandler),
        (lambda: gs.register(1, ["/bin/true", ""]), gs.InvalidHandler),
        (lambda: gs.register(1, ["/bin/true", "a\0b"]), gs.InvalidHandler),
        (lambda: gs.register(1, ["/bin/true", "x" * 9000]), gs.InvalidHandler),
        (lambda: gs.register(1, None), UsageError),
        (lambda: gs.register(1, "/bin/true", grace=0), UsageError),
        (lambda: gs.register(1, "/bin/true", grace=-1), UsageError),
        (lambda: gs.register(1, "/bin/true", grace=float("nan")), UsageError),
        (lambda: gs.register(1, "/bin/true", grace=float("inf")), UsageError),
    ],
)
def test_bad_requests_never_reach_the_kernel(procfs: Path, call, error) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert lines(procfs) == []


def test_without_a_patched_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GS_PROCFS", str(tmp_path))
    for call in (lambda: gs.register(1, "/bin/true"), gs.registrations, lambda: gs.unregister(1)):
        with pytest.raises(gs.NotSupported, match="gs-oom doctor"):
            call()
    found = gs.capabilities()
    assert found.backend != "kernel" and found.features == {}
    assert bool(found.backend) == bool(found.keys) != bool(found.reason)


@root_only
def test_capabilities(procfs: Path) -> None:
    found = gs.capabilities()
    assert (found.backend, found.reason, found.keys) == ("kernel", None, ("grace_ms",))
    assert found.features["attachment"] == "builtin"


#: errno of a write, for a registration and a removal: the error and its exit code.
ERRNOS = [
    (errno.ESRCH, "register", gs.NoSuchProcess, 4),
    (errno.ESRCH, "remove", gs.NoSuchProcess, 4),
    (errno.ENOENT, "register", gs.InvalidHandler, 6),
    (errno.EACCES, "register", gs.InvalidHandler, 6),
    (errno.ENOEXEC, "register", gs.InvalidHandler, 6),
    (errno.ENAMETOOLONG, "register", gs.InvalidHandler, 6),
    (errno.E2BIG, "register", gs.InvalidHandler, 6),
    (errno.EPERM, "register", gs.PermissionDenied, 5),
    (errno.EPERM, "remove", gs.PermissionDenied, 5),
    (errno.EOPNOTSUPP, "register", gs.NotSupported, 3),
    (errno.ENOSPC, "register", gs.RegistryFull, 3),
    (errno.EINVAL, "register", UsageError, 2),
    (errno.EIO, "register", GsError, 1),
]


@pytest.mark.parametrize(("code", "what", "kind", "exit_code"), ERRNOS)
def test_what_an_errno_means(
    procfs: Path, code: int, what: str, kind: type[GsError], exit_code: int
) -> None:
    command = Entry(42, ["/h"]) if what == "register" else Removal(42)
    with registry.RegistryFile() as file:
        error = file._explain(OSError(code, "x"), command)
    assert type(error) is kind and error.exit_code == exit_code
    assert "42" in str(error) and "\n" not in str(error)


def test_an_invalid_line_is_explained_by_what_this_kernel_knows(procfs: Path) -> None:
    with registry.RegistryFile() as file:
        invalid = OSError(errno.EINVAL, "x")
        unknown = file._explain(invalid, Entry(1, ["/h"], scope="tree"))
        too_long = file._explain(invalid, Entry(1, ["/h"], 30001))
    assert isinstance(unknown, gs.NotSupported) and "scope" in str(unknown)
    assert isinstance(too_long, UsageError) and "30000" in str(too_long)


def test_a_real_write_that_fails_is_an_error(tmp_path: Path) -> None:
    files = KernelFiles(registry="/dev/full")
    with registry.RegistryFile(files) as file, pytest.raises(gs.RegistryFull):
        file.register(Entry(1, ["/bin/true"]))


# ---------------------------------------------------------------------------- gs.run()


@root_only
def test_run_is_a_registered_child(procfs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with out.open("w") as file:
        done = gs.run(["sh", "-c", "echo $$; exit 3"], on_oom=["/bin/true", "a b"], grace=1.5,
                      stdout=file)  # fmt: skip
    assert (done.returncode, done.outcome, done.events) == (3, "unknown", ())
    assert lines(procfs) == [f"{out.read_text().strip()} grace_ms=1500 /bin/true a\\040b"]


@root_only
def test_run_reads_what_happened_to_its_process_alone(procfs: Path) -> None:
    head = "time_ns=1 event={} pid={} comm=sh uid=0 constraint=memcg memcg=/x"
    records = [
        f"seq=2 {head.format('grace', '$$')} handler=/h",
        f"seq=3 {head.format('kill', '1')} outcome=none",
        f"seq=4 {head.format('kill', '$$')} outcome=done",
    ]
    # What the child writes while it runs stands for what a kernel would say of it.
    write = "".join(f'echo "{r}" >> $GS_PROCFS/graceful_shutdown_events;' for r in records)
    write += "kill -KILL $$"
    old = f"seq=1 {head.format('kill', 1)} outcome=timeout\n"
    (procfs / "graceful_shutdown_events").write_text(old)
    done = gs.run(["sh", "-c", write], on_oom="/bin/true")
    assert (done.returncode, done.outcome, done.oom_killed) == (-signal.SIGKILL, "done", True)
    assert [event.seq for event in done.events] == [2, 4]
    quiet = gs.run(["true"], on_oom="/bin/true")
    assert (quiet.returncode, quiet.outcome, quiet.oom_killed) == (0, "ended", False)


@root_only
def test_run_raises_what_kept_prog_from_beginning(procfs: Path) -> None:
    with pytest.raises(ProgramNotFound):
        gs.run(["no-such-program"], on_oom="/bin/true")
    with pytest.raises(gs.InvalidHandler, match="/nowhere"):
        gs.run(["true"], on_oom="/nowhere")
    with pytest.raises(UsageError, match="memory"):
        gs.run(["true"], on_oom="/bin/true", memory_max=5)
    assert lines(procfs) == []


def test_run_of_a_program_that_never_began_is_an_error(
    procfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where something else took the place of `gs run`, and ended."""
    for status in (0, 1):
        monkeypatch.setattr(child, "_BOOTSTRAP", f"import sys; sys.exit({status})")
        with pytest.raises(GsError, match=f"did not begin: .* ended with {status}"):
            gs.run(["true"], on_oom="/bin/true")


@pytest.mark.parametrize(
    ("argv", "popen", "hint"),
    [
        ("sleep 1", {}, "sequence"),
        (Path("/bin/true"), {}, "sequence"),
        (["true"], {"shell": True}, "sh"),
        (["true"], {"stdin": subprocess.PIPE}, "file"),
        (["true"], {"stdout": subprocess.PIPE}, "file"),
        (["true"], {"stderr": subprocess.PIPE}, "file"),
    ],
)
def test_run_takes_not_all_that_subprocess_takes(
    procfs: Path, argv: Any, popen: dict[str, Any], hint: str
) -> None:
    with pytest.raises(UsageError, match=hint):
        gs.run(argv, on_oom="/bin/true", **popen)
    assert lines(procfs) == []


@root_only
def test_run_asks_for_no_scope_of_its_own(
    procfs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Which backend it will be, is known only in the child."""
    monkeypatch.setattr(backends, "capabilities", lambda: pytest.fail("asked"))
    assert gs.run(["true"], on_oom="/bin/true").returncode == 0
    assert "only the process itself is covered" in capfd.readouterr().err
    gs.run(["true"], on_oom="/bin/true", scope="process")
    assert capfd.readouterr().err == ""


@root_only
def test_run_leaves_no_memory_cgroup(procfs: Path) -> None:
    where = cgroup.hierarchy()
    try:
        place = cgroup.parent_for_child(cgroup.require())
    except GsError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    assert where is not None and place in cgroup.places(where)
    if not os.access(place, os.W_OK):
        pytest.skip("no memory cgroup can be made here: it is read-only")
    done = gs.run(["tail", "/dev/zero"], on_oom="/bin/true", memory_max="20M")
    assert done.returncode == -signal.SIGKILL
    assert not list(Path(place).glob(f"{cgroup.PREFIX}*"))


def test_run_without_a_patched_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GS_PROCFS", str(tmp_path))
    with pytest.raises(gs.NotSupported):
        gs.run(["true"], on_oom="/bin/true", backend="kernel")
    done = gs.run(["sh", "-c", "exit 125"], on_oom="/bin/true", allow_unprotected=True,
                  backend="kernel", stderr=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 125


@root_only
def test_run_kills_what_takes_too_long(procfs: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        gs.run(["sleep", "60"], on_oom="/bin/true", timeout=0.2)
    pid = lines(procfs)[0].split()[0]
    assert not Path(f"/proc/{pid}").exists()


def test_a_newer_kernels_keys_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("registering takes root")
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    monkeypatch.setenv("GS_PROCFS", str(procfs))
    gs.run(["true"], on_oom="/bin/true", signal=signal.SIGTERM)
    gs.run(["true"], signal=signal.SIGUSR1, scope="process")
    first, second = (line.split(" ", 1)[1] for line in lines(procfs))
    assert (first, second) == ("signal=15 scope=tree /bin/true", "signal=10")


def test_a_signal_and_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    procfs = make_procfs(tmp_path / "proc", FULL_FEATURES)
    monkeypatch.setenv("GS_PROCFS", str(procfs))
    done = gs.register(42, signal=signal.SIGTERM, scope="tree")
    assert done == gs.Registration(42, (), signal=15, scope="tree")
    assert lines(procfs) == [done.line] == ["42 signal=15 scope=tree"]
    assert gs.registrations() == [done]
    with gs.on_oom(signal=signal.SIGUSR1):
        assert lines(procfs)[-1] == f"{os.getpid()} signal=10"


def test_a_key_that_the_features_lack_is_not_asked_for(procfs: Path) -> None:
    with pytest.raises(gs.NotSupported, match="no signal="):
        gs.register(42, "/bin/true", signal=15)
    with pytest.raises(gs.NotSupported, match="no scope="):
        gs.register(42, "/bin/true", scope="tree")
    gs.register(42, "/bin/true", scope="process")
    assert lines(procfs) == ["42 /bin/true"]

"""Who may import whom (layout of the tree), read from the imports themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.config import REPO

#: Layers of provisioning from the bottom; a module imports its own layer and those below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "log", "config"),
    ("progress",),
    ("commands", "cache"),
    ("arch", "rootfs", "cpugroup"),
    ("kernel", "hosts", "vm"),
    ("frontend", "care", "testing", "lint", "package", "program", "bench", "results")
    + ("fleet", "builder", "placement", "loopback"),
)

#: Library → the only modules of provisioning that know it.
ONLY = {
    "tqdm": {"progress.py"},
    "requests": {"kernel/download.py"},
    "fabric": {"hosts/remote.py"},
    "paramiko": {"hosts/remote.py"},
    "invoke": {"program.py", "hosts/remote.py"},  # there: an exception that comes through Fabric
    "subprocess": {"commands.py", "vm/machines.py", "vm/qemu.py"},
}

MODULES = sorted((REPO / "provisioning").rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(REPO / "provisioning"))


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = path.relative_to(REPO / "provisioning").parts[0].removesuffix(".py")
    if own == "__init__" or "vm/guest" in str(path):
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "provisioning" or len(parts) < 2:
            continue
        assert layer_of(parts[1]) <= layer_of(own), f"{own} imports {name}"


def test_every_module_has_a_layer() -> None:
    there = (REPO / "provisioning").iterdir()
    modules = [path for path in there if path.suffix == ".py" or list(path.glob("*.py"))]
    top = {path.name.removesuffix(".py") for path in modules}
    known = {name for names in LAYERS for name in names} | {"__init__"}
    assert top <= known


@pytest.mark.parametrize("library", ONLY)
def test_only_one_module_knows(library: str) -> None:
    users = {
        name_of(path)
        for path in MODULES
        if "vm/guest" not in str(path)
        and any(name.split(".")[0] == library for name in imports(path))
    }
    assert users <= ONLY[library]


def test_kernel_stages_do_not_know_the_machine_and_the_hosts() -> None:
    for path in (REPO / "provisioning/kernel").glob("*.py"):
        assert not any(
            name.startswith(("provisioning.vm", "provisioning.hosts")) for name in imports(path)
        ), path


def test_gs_knows_neither_provisioning_nor_packages() -> None:
    """But for the one that an extra brings, in the one module that is loaded for it."""
    for path in (REPO / "gs").rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            if top == "prometheus_client":
                assert path == REPO / "gs/exporter/exposition.py", path
            else:
                assert top == "gs" or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_tasks_have_no_logic() -> None:
    """tasks.py imports provisioning and Invoke only, and has neither loops nor arithmetic."""
    tree = ast.parse((REPO / "tasks.py").read_text())
    forbidden = (ast.For, ast.While, ast.Try, ast.With, ast.ListComp, ast.AugAssign)
    assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]
    tops = {name.split(".")[0] for name in imports(REPO / "tasks.py")}
    assert tops == {"__future__", "typing", "invoke", "provisioning"}

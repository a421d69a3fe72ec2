"""Invoke tasks: parse options, call provisioning, print the summary. No logic lives here."""

from __future__ import annotations

from typing import Any

from invoke.collection import Collection
from invoke.tasks import task

# Modules of provisioning are imported inside the tasks: `./dev --list` need not load them all.

_KERNEL = "series: 5.4, 5.10, 6.1 or 6.12 (default 5.4)"
_SOURCE = "kernel.org, debian, a URL, a tarball or a directory (default kernel.org)"
_CONFIG = (
    "flavour: guest, debug with the kernel's own detectors, host, or that of the host: distro, "
    "distro-full (default guest; with --host distro)"
)
_MODULE = "a stock kernel of Debian's with the module instead of a patched one"
_SOURCES = {"kernel": _KERNEL, "source": _SOURCE}
_BUILD = {
    **_SOURCES,
    "config": _CONFIG,
    "jobs": "compilers at once (default: one for each processor)",
}
_JSON = {"json": "print for programs"}
_SHOW = {**_JSON, "dry-run": "say what would be done, and do nothing"}


@task(
    help={
        **_BUILD,
        **_SHOW,
        "module": _MODULE,
        "keep": "leave the VM up and say how to reach it",
    }
)
def demo(
    _: Any,
    kernel: str = "",
    source: str = "",
    config: str = "guest",
    jobs: int = 0,
    module: bool = False,
    keep: bool = False,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Build the patched kernel, boot it, and see a handler run before the OOM killer kills."""
    from provisioning import frontend

    request = frontend.Request(kernel, source, config, jobs, module)

    def work() -> int:
        from provisioning.vm.demo import run_demo

        if dry_run:
            frontend.show(frontend.describe(request), json)
            return 0
        chosen = frontend.bootable(request)
        return run_demo(chosen.image, keep, as_json=json, cost=chosen.cost)

    frontend.run_task(work)


@task(
    help={
        "only": "unit, patches, guest, vm or host",
        "all": "every tier on every series; takes hours",
        "count": "OOMs in the storms",
    }
)
def test(_: Any, only: str = "", all: bool = False, count: int = 50) -> None:
    """Run the tests; without options the quick tier."""
    from provisioning import frontend, testing

    frontend.run_task(lambda: testing.run(only, all, count))


@task(
    help={
        **_BUILD,
        **_SHOW,
        "trials": "of each handler, in each kind of OOM, in both ways",
        "only": "one part: see --dry-run",
        "output": "directory for the results (default docs/benchmarks; with --only: none)",
    }
)
def bench(
    _: Any,
    kernel: str = "",
    source: str = "",
    config: str = "guest",
    jobs: int = 0,
    trials: int = 30,
    only: str = "",
    output: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Measure what gs costs, on the patched kernel and against the unpatched one."""
    from provisioning import bench, frontend

    request = frontend.Request(kernel, source, config, jobs)
    order = bench.Order(trials, only, output)

    def work() -> int:
        if dry_run:
            frontend.show(bench.describe(request, order), json)
            return 0
        return bench.run(request, order, json)

    frontend.run_task(work)


@task
def lint(_: Any) -> None:
    """Check style, types and shell scripts."""
    from provisioning import frontend, lint

    frontend.run_task(lint.run)


@task
def package(_: Any) -> None:
    """Make the single file gs-oom.pyz, the wheel and the Debian packages, into dist/."""
    from provisioning import frontend, package

    frontend.run_task(package.run)


@task(help={**_SOURCES, **_SHOW})
def fetch_kernel(
    _: Any, kernel: str = "", source: str = "", dry_run: bool = False, json: bool = False
) -> None:
    """Fetch and unpack kernel sources into the cache."""
    from provisioning import frontend

    request = frontend.Request(kernel, source)

    def work() -> None:
        if dry_run:
            return frontend.show(frontend.describe(request), json)
        sources = request.sources()
        return frontend.show({"sources": sources.origin, "tree": sources.tree()}, json)

    frontend.run_task(work)


@task(help={**_SOURCES, **_SHOW, "config": _CONFIG})
def patch_kernel(
    _: Any,
    kernel: str = "",
    source: str = "",
    config: str = "guest",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Fetch, and apply overlay and patches."""
    from provisioning import frontend
    from provisioning.kernel import build

    request = frontend.Request(kernel, source, config)

    def work() -> None:
        if dry_run:
            return frontend.show(frontend.describe(request), json)
        return frontend.show({"tree": build.patched_tree(request.plan())}, json)

    frontend.run_task(work)


@task(
    help={
        **_BUILD,
        **_SHOW,
        "module": _MODULE,
        "fragment": "file of options, as CONFIG_X=y, that come last; may be repeated",
        "unpatched": "the same configuration of the sources as they are, for comparison",
        "host": "for this machine, by its name for ssh, or a group of hosts.toml; may be repeated",
        "one-shot": "with --host, GRUB boots the new kernel once; without, where it cannot",
        "build-on": "with --host: local, each for itself, or one by its name (default local)",
        "tarball": "with --host: write its kernel into this directory here, and install nothing",
    },
    iterable=["host", "fragment"],
)
def build_kernel(
    _: Any,
    host: list[str],
    fragment: list[str],
    kernel: str = "",
    source: str = "",
    config: str = "",
    jobs: int = 0,
    module: bool = False,
    unpatched: bool = False,
    build_on: str = "local",
    tarball: str = "",
    one_shot: bool = True,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Fetch, patch, configure and build the kernel for the local VM; or bring gs to a host."""
    from provisioning import frontend

    config = config or ("distro" if host or tarball else "guest")
    request = frontend.Request(kernel, source, config, jobs, module, not unpatched, tuple(fragment))

    def work() -> None:
        if dry_run:
            return frontend.show(frontend.describe(request), json)
        if module:
            return frontend.show({"image": frontend.bootable(request).image}, json)
        return frontend.show(frontend.artefact_facts(frontend.kernel_for(request)), json)

    def work_on_hosts() -> int:
        from provisioning import fleet
        from provisioning.hosts import boot

        manner = fleet.Manner(build_on, boot.ONCE if one_shot else boot.FIRST, tarball)
        if dry_run:
            return fleet.plan(request, host, manner, json)
        return fleet.build_kernel(request, host, manner)

    frontend.run_task(work_on_hosts if host or tarball else work)


_NAME = "the machine's name"


@task(
    help={
        **_BUILD,
        "module": _MODULE,
        "name": _NAME,
        "memory": "of the machine, in MB",
        "cpus": "processors",
    }
)
def vm_up(
    _: Any,
    name: str = "default",
    kernel: str = "",
    source: str = "",
    config: str = "guest",
    jobs: int = 0,
    module: bool = False,
    memory: int = 1024,
    cpus: int = 2,
) -> None:
    """Boot the patched kernel in a machine that stays up, with ssh."""
    from provisioning import frontend

    request = frontend.Request(kernel, source, config, jobs, module)

    def work() -> None:
        from provisioning.vm import machines

        chosen = frontend.bootable(request)
        machine = machines.up(chosen.image, name, memory_mb=memory, cpus=cpus, cost=chosen.cost)
        frontend.show(
            {"name": machine.name, "kernel": machine.kernel, "ssh": f"./dev vm.ssh --name {name}"},
            as_json=False,
        )

    frontend.run_task(work)


@task(help={"name": _NAME})
def vm_run(_: Any, name: str = "default") -> None:
    """Run the words after -- in the machine, as root; exits as they do."""
    from provisioning import frontend

    def work() -> int:
        from provisioning.vm import machines

        return machines.ssh(name, frontend.words_after_dashes())

    frontend.run_task(work)


@task(help={"name": _NAME})
def vm_ssh(_: Any, name: str = "default") -> None:
    """Log in to the machine."""
    from provisioning import frontend

    def work() -> int:
        from provisioning.vm import machines

        return machines.ssh(name)

    frontend.run_task(work)


@task(help={"name": _NAME})
def vm_down(_: Any, name: str = "default") -> None:
    """End the machine and remove its files."""
    from provisioning import frontend

    def work() -> None:
        from provisioning.vm import machines

        print(f"{name} is down" if machines.down(name) else f"{name} was not up")

    frontend.run_task(work)


@task(help=_JSON)
def vm_list(_: Any, json: bool = False) -> None:
    """The machines that are up."""
    from provisioning import frontend

    def work() -> None:
        from provisioning.vm import machines

        frontend.show_rows(map(vars, machines.machines()), json)

    frontend.run_task(work)


@task(help={"kernel": _KERNEL + "; all when not given", "source": _SOURCE})
def patches_check(_: Any, kernel: str = "", source: str = "") -> None:
    """Whether each patch applies at fuzz 0 and is as refresh would write it."""
    from provisioning import care, frontend

    frontend.run_task(lambda: care.check(frontend.Request(kernel, source)))


@task(help={"kernel": _KERNEL + "; all when not given", "source": _SOURCE})
def patches_refresh(_: Any, kernel: str = "", source: str = "") -> None:
    """Write stale patches anew."""
    from provisioning import care, frontend

    frontend.run_task(lambda: care.refresh(frontend.Request(kernel, source)))


@task(help={"kernel": _KERNEL, "source": _SOURCE, "output": "directory"})
def patches_export(_: Any, kernel: str = "", source: str = "", output: str = "") -> None:
    """Write overlay and patches as mailable patches."""
    from provisioning import care, frontend

    frontend.run_task(lambda: care.export(frontend.Request(kernel, source), output))


@task(
    help={
        "kernel": _KERNEL,
        "source": _SOURCE,
        "output": "the working tree (default dist/edit-SERIES)",
        "done": "take its commits back into kernel_patches, and remove it",
        "drop": "remove it, and what was changed in it",
    }
)
def patches_edit(
    _: Any,
    kernel: str = "",
    source: str = "",
    output: str = "",
    done: bool = False,
    drop: bool = False,
) -> None:
    """A working tree where each patch is a commit; with --done back into the series."""
    from provisioning import care, frontend

    request = frontend.Request(kernel, source)
    frontend.run_task(lambda: care.edit(request, output, done=done, drop=drop))


@task(
    help={
        "kernel": _KERNEL,
        "to": "the release, such as 5.4.290",
        "source": "kernel.org, a mirror's directory (URL/) or a tarball (default kernel.org)",
        "dry-run": "fetch and try, but write nothing",
    }
)
def patches_bump(
    _: Any, kernel: str = "", to: str = "", source: str = "", dry_run: bool = False
) -> None:
    """Move a series to another release, if its signature is good and the patches apply."""
    from provisioning import care, frontend

    frontend.run_task(lambda: care.bump(frontend.Request(kernel, source), to, dry_run=dry_run))


@task(
    help={**_JSON, "host": "by its name for ssh, or a group of hosts.toml; may be repeated"},
    iterable=["host"],
)
def status(_: Any, host: list[str], json: bool = False) -> None:
    """Where each host stands: its kernel, and whether gs is in it."""
    from provisioning import fleet, frontend

    frontend.run_task(lambda: fleet.status(host, json))


@task(
    help={"host": "by its name for ssh, or a group of hosts.toml; may be repeated"},
    iterable=["host"],
)
def verify(_: Any, host: list[str]) -> None:
    """Check each host: gs is in its kernel, and a handler runs before a kill."""
    from provisioning import fleet, frontend

    frontend.run_task(lambda: fleet.verify(host))


@task(
    help={"host": "by its name for ssh, or a group of hosts.toml; may be repeated"},
    iterable=["host"],
)
def uninstall(_: Any, host: list[str]) -> None:
    """Take gs off each host: kernel or module, packages, and the settings of the boot loader."""
    from provisioning import fleet, frontend

    frontend.run_task(lambda: fleet.uninstall(host))


@task(
    help={"host": "by its name for ssh, or a group of hosts.toml; may be repeated"},
    iterable=["host"],
)
def rollback(_: Any, host: list[str]) -> None:
    """Boot each host into the kernel from before; ours stays installed."""
    from provisioning import fleet, frontend

    frontend.run_task(lambda: fleet.rollback(host))


ns = Collection(
    *(demo, test, bench, lint, package, fetch_kernel, patch_kernel, build_kernel),
    *(status, verify, rollback, uninstall),
)

vm = Collection("vm")
vm.add_task(vm_up, name="up")
vm.add_task(vm_run, name="run")
vm.add_task(vm_ssh, name="ssh")
vm.add_task(vm_down, name="down")
vm.add_task(vm_list, name="list")
ns.add_collection(vm)

patches = Collection("patches")
patches.add_task(patches_check, name="check")
patches.add_task(patches_refresh, name="refresh")
patches.add_task(patches_export, name="export")
patches.add_task(patches_edit, name="edit")
patches.add_task(patches_bump, name="bump")
ns.add_collection(patches)

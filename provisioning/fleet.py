"""What the tasks do with hosts: look at each, and say where it stands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gs.doctor import report
from gs.finding import BAD, Finding
from provisioning import commands, frontend, package, placement
from provisioning.config import REPO, SUDO_PASSWORD, sudo_password
from provisioning.errors import HostFailed, ProvisioningError, UsageError
from provisioning.errors import report as error_report
from provisioning.frontend import Request
from provisioning.hosts import boot, building, fanout, install, inventory, preflight, uploads
from provisioning.hosts.fanout import Outcome
from provisioning.hosts.inventory import Host
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote
from provisioning.kernel import tarball, versions
from provisioning.kernel.build import KernelPackages
from provisioning.kernel.versions import Seed


def status(names: Sequence[str], as_json: bool) -> int:
    """One line for each host: what it runs. HostFailed if one does not answer."""
    outcomes = fanout.on_each(inventory.chosen(names), preflight.gather, "looking")
    frontend.show_rows([_standing(outcome) for outcome in outcomes], as_json)
    failed = [outcome.host for outcome in outcomes if outcome.error]
    _raise_for(failed, len(outcomes))
    return 0


def _standing(outcome: Outcome[Facts]) -> dict[str, Any]:
    name, facts = outcome.host.name, outcome.result
    if facts is None:
        return {"host": name, "kernel": "-", "gs": "-", "system": _why(outcome.error)}
    return {
        "host": name,
        "kernel": facts.one("release"),
        "gs": facts.attachment or "none",
        "system": facts.one("os_name"),
    }


def verify(names: Sequence[str]) -> int:
    """Run tests/host on each of them. HostFailed with the hosts for which one did not pass."""

    def look(remote: Remote) -> str:
        return _verify(remote, preflight.gather(remote))

    return _work(names, look, "verifying")


def _verify(remote: Remote, facts: Facts) -> str:
    """The checks, in a pytest of their own for each host; what it printed is in the host's log."""
    name = remote.host.name
    remote.say("verifying")
    spec = f"ssh://{name}" + ("?sudo=True" if facts.as_root else "")
    # Each host has a Python of its own here, so that what it need not load counts.
    words = [sys.executable, "-m", "pytest", "tests/host", "-p", "no:cacheprovider"]
    words += ["-p", "no:hypothesispytest", "--tb=short", "--hosts", spec]
    told = {SUDO_PASSWORD: sudo_password()} if facts.one("root") == "password" else {}
    done = commands.run(words, cwd=REPO, env=told, check=False)
    remote.note(done.stdout + done.stderr)
    if done.returncode != 0:
        hint = "see its log for each check that failed"
        raise HostFailed(f"{name} is not verified", hint=hint, log=remote.log)
    return "verified"


@dataclass(frozen=True)
class Manner:
    """How kernels come to hosts: where they are built (see placement.py), and how they are tried
    (boot.ONCE or boot.FIRST). With ``tarballs`` they go into that directory here, no further."""

    build_on: str = placement.HERE
    trial: str = boot.ONCE
    tarballs: str = ""

    def checks(self, request: Request) -> Sequence[preflight.Check]:
        """What is looked at on each of the hosts."""
        if request.module:
            return preflight.FOR_MODULE
        if self.tarballs:
            return preflight.FOR_TARBALL
        once = preflight.ONE_SHOT if self.trial == boot.ONCE else preflight.NO_ONE_SHOT
        where = {placement.EACH: preflight.FOR_BUILD, placement.HERE: preflight.BUILT_HERE}
        return (*preflight.FOR_KERNEL, *once, *where.get(self.build_on, ()))


@dataclass(frozen=True)
class _Built:
    """Of each host that can take a kernel what it is grown from and what was built; and what came
    of looking at all of them."""

    looked: list[Outcome[Seed]]
    seeds: dict[Host, Seed]
    kernels: dict[Host, placement.Result]

    def kernel(self, host: Host) -> KernelPackages:
        """Its kernel, or the error with which the build ended."""
        kernel = self.kernels[host]
        if isinstance(kernel, ProvisioningError):
            raise kernel
        return kernel

    def tell(self, done: Sequence[Outcome[str]]) -> int:
        """As _tell(), in the order of the hosts, of those with which nothing could be done, too."""
        order = [outcome.host for outcome in self.looked]
        failed = [Outcome[str](one.host, error=one.error) for one in self.looked if one.error]
        return _tell(sorted((*failed, *done), key=lambda outcome: order.index(outcome.host)))


def _build(request: Request, names: Sequence[str], manner: Manner) -> _Built:
    placement.builder(manner.build_on)  # UsageError before anything else
    hosts, checks = inventory.chosen(names), manner.checks(request)
    looked = fanout.on_each(hosts, lambda one: _seed_of(request, one, checks), "looking")
    seeds = {outcome.host: outcome.result for outcome in looked if outcome.result}
    kernels = placement.built(request, seeds, manner.build_on) if seeds else {}
    return _Built(looked, seeds, kernels)


def build_kernel(request: Request, names: Sequence[str], manner: Manner) -> int:
    """Bring gs to each host, and verify it: as the module, or in a kernel. HostFailed with those
    that failed."""
    if manner.tarballs:
        return _write_tarballs(request, names, manner)
    if request.module:
        return _work(names, _module_on_each(), "installing")
    built = _build(request, names, manner)
    tool = package.tool()

    def put(remote: Remote) -> str:
        kernel, seed = built.kernel(remote.host), built.seeds[remote.host]
        return _put_kernel(remote, kernel, tool, seed, manner.trial)

    return built.tell(fanout.on_each(list(built.seeds), put, "installing") if built.seeds else [])


def _write_tarballs(request: Request, names: Sequence[str], manner: Manner) -> int:
    """A kernel for each host, as a tarball here; nothing changes on the hosts."""
    if request.module:
        what = "--tarball is for kernels"
        raise UsageError(what, hint="the module's sources are in gs-oom-dkms: ./dev package")
    built = _build(request, names, manner)
    done = []
    for host in built.seeds:
        try:
            made = tarball.write(built.kernel(host), Path(manner.tarballs).absolute())
            done.append(Outcome(host, str(made)))
        except ProvisioningError as error:
            done.append(Outcome(host, error=error))
    return built.tell(done)


def _seed_of(request: Request, remote: Remote, checks: Sequence[preflight.Check]) -> Seed:
    """What a host's kernel is grown from, if nothing is in the way there; an empty one where the
    configuration is not the host's."""
    facts = preflight.expect(remote, checks)
    how = versions.flavour(request.config, request.series)
    if facts.one("machine") != how.arch.machine:
        why = f"it is of {facts.one('machine')}, and {how.name} of {how.arch.machine}"
        raise HostFailed(f"{remote.host.name} cannot run this kernel", why)
    return Seed("") if how.base else boot.seed(remote, facts)


def _put_kernel(remote: Remote, kernel: KernelPackages, tool: Path, seed: Seed, trial: str) -> str:
    """Install it, try it, and keep it if it is good; what was done, in a few words."""
    facts = preflight.gather(remote)
    runs = facts.one("release") == kernel.release
    if runs and not facts.one("trial"):
        said = _verify(remote, facts)
        boot.confirm(remote, facts, kernel.release)  # somebody may have chosen it in the menu
        return f"nothing to do; {said}"
    if not runs:
        boot.keep(remote, facts, seed.modules.split())
        # What they depend on is to be found on a host that builds modules, without any network.
        headers = kernel.headers if facts.one("dkms") else None
        install.packages(remote, facts, [deb for deb in (kernel.image, headers, tool) if deb])
        boot.try_it(remote, facts, kernel.release, trial)
    _verify_on_trial(remote, facts)
    boot.confirm(remote, facts, kernel.release)
    return f"{kernel.release} verified, and the default"


def _module_on_each() -> Callable[[Remote], str]:
    debs = (package.dkms(), package.tool())

    def put(remote: Remote) -> str:
        facts = preflight.expect(remote, preflight.FOR_MODULE)
        return f"{install.module(remote, facts, debs)}; {_verify(remote, facts)}"

    return put


def _verify_on_trial(remote: Remote, facts: Facts) -> None:
    """Or go back at once."""
    try:
        _verify(remote, facts)
    except HostFailed as error:
        runs = boot.give_up(remote, facts)
        raise HostFailed(
            error.what, f"{runs} runs there again", error.hint, log=error.log
        ) from None


def rollback(names: Sequence[str]) -> int:
    """Each host runs the kernel from before us again; ours stays installed."""

    def back(remote: Remote) -> str:
        return boot.go_back(remote, preflight.gather(remote))

    return _work(names, back, "rolling back")


def uninstall(names: Sequence[str]) -> int:
    """Take our packages off each host, and what they were installed from; where our kernel runs,
    the one before is booted first."""

    def take_away(remote: Remote) -> str:
        facts = preflight.gather(remote)
        boot.go_back(remote, facts)
        said = install.remove(remote, facts)
        boot.restore(remote, facts)
        building.stop(remote, facts)
        uploads.clear(remote)
        return said

    return _work(names, take_away, "removing")


def _work(names: Sequence[str], work: Callable[[Remote], str], what: str) -> int:
    """Do it on each host, and say what came of it; HostFailed with those that failed."""
    return _tell(fanout.on_each(inventory.chosen(names), work, what))


def _tell(outcomes: Sequence[Outcome[str]]) -> int:
    """What came of each host; HostFailed with those that failed."""
    rows = [{"host": o.host.name, "result": o.result or "FAILED"} for o in outcomes]
    frontend.show_rows(rows, as_json=False)
    for outcome in outcomes:
        if outcome.error:
            print(error_report(outcome.error), file=sys.stderr)
    _raise_for([outcome.host for outcome in outcomes if outcome.error], len(outcomes))
    return 0


def plan(request: Request, names: Sequence[str], manner: Manner, as_json: bool) -> int:
    """What would be built, and for each host what is in the way of installing it; changes nothing.
    HostFailed if anything is in the way on one of them, or it does not answer."""
    hosts = inventory.chosen(names)
    facts = frontend.describe(request)
    checks = dict.fromkeys(hosts, manner.checks(request))
    if one := placement.builder(manner.build_on):
        checks[one] = (*checks.get(one, ()), *preflight.FOR_BUILD)
    outcomes = fanout.on_each(list(checks), preflight.gather, "looking")
    found = {outcome.host: _found(outcome, checks[outcome.host]) for outcome in outcomes}
    if as_json:
        rows = {host.name: [f.as_dict() for f in findings] for host, findings in found.items()}
        frontend.show({**facts, "hosts": rows}, as_json)
    else:
        frontend.show(facts, as_json)
        for host, findings in found.items():
            print(f"\n{host.name}\n{report(findings)}", end="")
    failed = [host for host, findings in found.items() if any(f.level == BAD for f in findings)]
    _raise_for(failed, len(checks))
    return 0


def _found(outcome: Outcome[Facts], checks: Sequence[preflight.Check]) -> list[Finding]:
    if outcome.result is not None:
        return preflight.judge(outcome.result, checks)
    hint = outcome.error.hint if outcome.error else ""
    return [Finding("connection", BAD, _why(outcome.error), hint)]


def _why(error: ProvisioningError | None) -> str:
    return ": ".join(filter(None, (error.what, error.why))) if error else ""


def _raise_for(failed: Sequence[Host], of: int) -> None:
    """HostFailed with the command for those that failed, if there are any, of so many."""
    if failed:
        names = [host.name for host in failed]
        raise HostFailed(
            f"{len(names)} of {of} hosts failed: {', '.join(names)}",
            hint=f"for these alone: {frontend.command_for(names)}",
        )

"""What the tasks do with hosts: look at each, and say where it stands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from gs.doctor import report
from gs.finding import BAD, Finding
from provisioning import commands, frontend, package
from provisioning.config import REPO
from provisioning.errors import HostFailed, ProvisioningError
from provisioning.errors import report as error_report
from provisioning.frontend import Request
from provisioning.hosts import fanout, install, inventory, preflight
from provisioning.hosts.fanout import Outcome
from provisioning.hosts.inventory import Host
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote


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
    spec = f"ssh://{name}" + ("?sudo=True" if install.as_root(facts) else "")
    words = [sys.executable, "-m", "pytest", "tests/host", "-p", "no:cacheprovider"]
    words += ["--tb=short", "--hosts", spec]
    if own := os.environ.get("GS_SSH_CONFIG"):
        words += ["--ssh-config", own]
    done = commands.run(words, cwd=REPO, env={"GS_HOST": name}, check=False)
    remote.note(done.stdout + done.stderr)
    if done.returncode != 0:
        hint = "see its log for each check that failed"
        raise HostFailed(f"{name} is not verified", hint=hint, log=remote.log)
    return "verified"


def build_kernel(request: Request, names: Sequence[str]) -> int:
    """With the module: install it on each host and verify it. HostFailed with those that failed."""
    if not request.module:
        raise frontend.not_yet("build-kernel --host without --module or --dry-run")
    debs = (package.dkms(), package.tool())

    def put(remote: Remote) -> str:
        facts = preflight.gather(remote)
        bad = [f for f in preflight.judge(facts, preflight.FOR_MODULE) if f.level == BAD]
        if bad:
            raise HostFailed(
                f"{remote.host.name} is not ready for the module",
                ", ".join(finding.text for finding in bad),
                "; ".join(finding.mend for finding in bad),
            )
        return f"{install.module(remote, facts, debs)}; {_verify(remote, facts)}"

    return _work(names, put, "installing the module")


def uninstall(names: Sequence[str]) -> int:
    """Take our packages off each host, and what they were installed from."""

    def take_away(remote: Remote) -> str:
        return install.remove(remote, preflight.gather(remote))

    return _work(names, take_away, "removing")


def _work(names: Sequence[str], work: Callable[[Remote], str], what: str) -> int:
    """Do it on each host, and say what came of it; HostFailed with those that failed."""
    outcomes = fanout.on_each(inventory.chosen(names), work, what)
    rows = [{"host": o.host.name, "result": o.result or "FAILED"} for o in outcomes]
    frontend.show_rows(rows, as_json=False)
    for outcome in outcomes:
        if outcome.error:
            print(error_report(outcome.error), file=sys.stderr)
    _raise_for([outcome.host for outcome in outcomes if outcome.error], len(outcomes))
    return 0


def plan(request: Request, names: Sequence[str], as_json: bool) -> int:
    """What would be built, and for each host what is in the way of installing it; changes nothing.
    HostFailed if anything is in the way on one of them, or it does not answer."""
    hosts = inventory.chosen(names)
    facts = frontend.describe(request)
    checks = preflight.FOR_MODULE if request.module else preflight.FOR_KERNEL
    outcomes = fanout.on_each(hosts, preflight.gather, "looking")
    found = {outcome.host: _found(outcome, checks) for outcome in outcomes}
    if as_json:
        rows = {host.name: [f.as_dict() for f in findings] for host, findings in found.items()}
        frontend.show({**facts, "hosts": rows}, as_json)
    else:
        frontend.show(facts, as_json)
        for host, findings in found.items():
            print(f"\n{host.name}\n{report(findings)}", end="")
    failed = [host for host, findings in found.items() if any(f.level == BAD for f in findings)]
    _raise_for(failed, len(hosts))
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

"""What the tasks do with hosts: look at each, and say where it stands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from gs.doctor import report
from gs.finding import BAD, Finding
from provisioning import commands, frontend
from provisioning.config import REPO
from provisioning.errors import HostFailed, ProvisioningError
from provisioning.frontend import Request
from provisioning.hosts import fanout, inventory, preflight
from provisioning.hosts.fanout import Outcome
from provisioning.hosts.inventory import Host
from provisioning.hosts.preflight import Facts


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
    hosts = inventory.chosen(names)
    failed: dict[Host, None] = {}
    mentioned = {f"ssh://{host.name}]": host for host in hosts}

    def heed(line: str) -> None:
        print(line)
        if line.startswith(("FAILED ", "ERROR ")):
            failed.update({host: None for end, host in mentioned.items() if end in line})

    words = [sys.executable, "-m", "pytest", "tests/host", "-v", "-p", "no:cacheprovider"]
    words += ["--hosts", ",".join(f"ssh://{host.name}" for host in hosts)]
    if own := os.environ.get("GS_SSH_CONFIG"):
        words += ["--ssh-config", own]
    done = commands.stream(words, on_line=heed, cwd=REPO, check=False)
    _raise_for(list(failed), len(hosts))
    if done.returncode != 0:
        raise HostFailed("the hosts were not verified", f"pytest ended with {done.returncode}")
    return 0


def plan(request: Request, names: Sequence[str], as_json: bool) -> int:
    """What would be built, and for each host what is in the way of installing it; changes nothing.
    HostFailed if anything is in the way on one of them, or it does not answer."""
    hosts = inventory.chosen(names)
    facts = frontend.describe(request)
    outcomes = fanout.on_each(hosts, preflight.gather, "looking")
    found = {outcome.host: _found(outcome) for outcome in outcomes}
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


def _found(outcome: Outcome[Facts]) -> list[Finding]:
    if outcome.result is not None:
        return preflight.judge(outcome.result, builds=False)
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

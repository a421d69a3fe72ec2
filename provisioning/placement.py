"""Where the kernels of hosts are built: here, on each of them, or on one machine for all."""

from __future__ import annotations

from collections.abc import Mapping

from provisioning.builder import Order, from_json
from provisioning.errors import BuildFailed, ProvisioningError, UsageError
from provisioning.frontend import Request
from provisioning.hosts import building, fanout, inventory, preflight, uploads
from provisioning.hosts.inventory import Host
from provisioning.hosts.preflight import Facts
from provisioning.hosts.remote import Remote
from provisioning.kernel import build, source
from provisioning.kernel.build import KernelPackages
from provisioning.kernel.versions import Seed

HERE, EACH = "local", "each"

#: What was built for a host, or why it was not.
Result = KernelPackages | ProvisioningError


def builder(where: str) -> Host | None:
    """The machine that builds for all, if it is one; UsageError if it is several."""
    if where in (HERE, EACH):
        return None
    found = inventory.chosen([where])
    if len(found) > 1:
        what = f"{where} is a group of {len(found)} hosts"
        raise UsageError(what, hint="name the one that builds")
    return found[0]


def built(request: Request, seeds: Mapping[Host, Seed], where: str) -> dict[Host, Result]:
    """A kernel for each host, grown from its seed; hosts that are alike share one."""
    if where == HERE:
        return _here(request, seeds)
    one = builder(where)
    work = {one: seeds} if one else {host: {host: seed} for host, seed in seeds.items()}
    outcomes = fanout.on_each(
        list(work), lambda remote: _there(remote, request, work[remote.host]), "building"
    )
    done: dict[Host, Result] = {}
    for outcome in outcomes:
        if outcome.error:
            done |= dict.fromkeys(work[outcome.host], outcome.error)
        else:
            done |= outcome.result or {}
    return done


def _here(request: Request, seeds: Mapping[Host, Seed]) -> dict[Host, Result]:
    sources = request.sources()
    plans = {host: request.plan(sources, seed) for host, seed in seeds.items()}
    done: dict[str, Result] = {}
    for key, plan in {plan.image_key: plan for plan in plans.values()}.items():
        try:
            done[key] = build.packages(plan, request.jobs or None)
        except BuildFailed as error:
            done[key] = error
    return {host: done[plan.image_key] for host, plan in plans.items()}


def _there(remote: Remote, request: Request, seeds: Mapping[Host, Seed]) -> dict[Host, Result]:
    facts = preflight.expect(remote, preflight.FOR_BUILD)
    place = _sources_there(remote, request)
    orders = {host: _order(request, place, seed).to_json() for host, seed in seeds.items()}
    done: dict[str, Result] = {}
    for order in dict.fromkeys(orders.values()):
        try:
            done[order] = _ordered(remote, facts, order)
        except ProvisioningError as error:
            done[order] = error
    return {host: done[order] for host, order in orders.items()}


def _ordered(remote: Remote, facts: Facts, order: str) -> KernelPackages:
    there = from_json(building.carry_out(remote, facts, order))
    image, *headers = building.fetch(remote, [p for p in (there.image, there.headers) if p])
    return KernelPackages(image, headers[0] if headers else None, there.release)


def _order(request: Request, place: str, seed: Seed) -> Order:
    return Order(
        request.series,
        place,
        request.config,
        request.patched,
        request.jobs,
        seed if seed.config else None,
        {path.name: path.read_text() for path in request.own_fragments()},
    )


def _sources_there(remote: Remote, request: Request) -> str:
    """What --source stands for, on another machine: what is on this one only is sent there."""
    spec = request.source or source.DEFAULT
    tarball = source.tarball(request.series, spec)
    if tarball is None:
        return spec
    remote.say("sending the sources")
    (there,) = uploads.upload(remote, [tarball])
    return str(there)

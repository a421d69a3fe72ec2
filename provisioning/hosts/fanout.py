"""The same work on many hosts: so many at once, one failing host never stops the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from provisioning import config
from provisioning.errors import ProvisioningError
from provisioning.hosts.inventory import Host
from provisioning.hosts.remote import Remote, connected
from provisioning.progress import bar, rows

#: Hosts that are worked on at the same time.
AT_ONCE = 16

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one host: a result, or an error."""

    host: Host
    result: T | None = None
    error: ProvisioningError | None = None


@dataclass(frozen=True)
class _Said:
    """What is done on a host now."""

    host: Host
    text: str


def on_each(hosts: Sequence[Host], work: Callable[[Remote], T], what: str) -> list[Outcome[T]]:
    """Do the work on each of them, over a connection of its own; in the order of ``hosts``.

    ``what`` says on the progress bar what is done, and Remote.say() in a row below it; only the
    calling thread draws. The others are daemons, so that Ctrl-C need not wait for a host that does
    not answer.
    """
    began = time.strftime("%Y%m%d-%H%M%S")
    waiting: SimpleQueue[Host] = SimpleQueue()
    heard: SimpleQueue[Outcome[T] | Exception | _Said] = SimpleQueue()
    for host in hosts:
        waiting.put(host)

    def on_one(host: Host) -> Outcome[T]:
        log = config.cache_dir() / "hosts" / host.label / f"{began}.log"
        try:
            with connected(host, log, lambda text: heard.put(_Said(host, text))) as remote:
                return Outcome(host, result=work(remote))
        except ProvisioningError as error:
            return Outcome(host, error=error)

    def worker() -> None:
        try:
            while True:
                heard.put(on_one(waiting.get_nowait()))
        except Empty:
            pass
        except Exception as error:  # a mistake of ours, which is not this host's
            heard.put(error)

    for _ in range(min(AT_ONCE, len(hosts))):
        threading.Thread(target=worker, daemon=True).start()
    outcomes: dict[Host, Outcome[T]] = {}
    with bar(what, total=len(hosts), unit="hosts") as progress, rows() as shown:
        while len(outcomes) < len(hosts):
            try:
                said = heard.get(timeout=1)
            except Empty:
                shown.refresh()
                continue
            if isinstance(said, Exception):
                raise said
            if isinstance(said, _Said):
                shown.say(said.host.name, said.text)
                continue
            outcomes[said.host] = said
            shown.end(said.host.name)
            progress.update()
    return [outcomes[host] for host in hosts]

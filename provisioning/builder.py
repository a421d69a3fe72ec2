"""On a host that builds for others: an order in, Debian packages out.

`./dev builder FILE` runs it with Debian's own Python, without a virtual environment.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from provisioning import frontend
from provisioning.kernel import build, source
from provisioning.kernel.build import KernelPackages
from provisioning.kernel.versions import Seed


@dataclass(frozen=True)
class Order:
    """A kernel, by what it is made from; ``fragments`` are texts by their names, and ``jobs`` 0
    stands for one for each processor."""

    series: str
    source: str
    config: str
    patched: bool = True
    jobs: int = 0
    seed: Seed | None = None
    fragments: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The same order gives the same text."""
        return json.dumps(asdict(self), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What :meth:`to_json` wrote."""
        values = json.loads(text)
        seed = values.pop("seed")
        return cls(seed=Seed(**seed) if seed else None, **values)


def carry_out(order: Order) -> KernelPackages:
    """Build them, unless they are in the cache."""
    with tempfile.TemporaryDirectory(prefix="gs-order-") as name:
        fragments = []
        for file, text in order.fragments.items():
            fragments.append(Path(name) / file)
            fragments[-1].write_text(text)
        plan = build.plan(
            order.series,
            sources=source.locate(order.series, order.source),
            flavour=order.config,
            patched=order.patched,
            seed=order.seed,
            fragments=fragments,
        )
        return build.packages(plan, order.jobs or None)


def to_json(packages: KernelPackages) -> str:
    """For :func:`from_json`, on another machine."""
    return json.dumps(asdict(packages), default=str)


def from_json(text: str) -> KernelPackages:
    """Packages with their paths there."""
    values: dict[str, Any] = json.loads(text)
    headers = values["headers"]
    return KernelPackages(
        Path(values["image"]), Path(headers) if headers else None, values["release"]
    )


def main(words: Sequence[str]) -> None:
    """The order is in the file that is named; what was built is said on stdout."""
    (file,) = words

    def work() -> None:
        print(to_json(carry_out(Order.from_json(Path(file).read_text()))))

    frontend.run_task(work)


if __name__ == "__main__":
    main(sys.argv[1:])

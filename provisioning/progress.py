"""What the user sees while something takes long; the only module that knows tqdm."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tqdm import tqdm

#: Seconds between two plain lines where stderr is no terminal.
PLAIN_INTERVAL = 60.0


class Bar(Protocol):
    """What :func:`bar` yields."""

    def update(self, amount: float = 1) -> None:
        """Say that ``amount`` more units are done."""


class _TerminalBar:
    def __init__(self, inner: tqdm[Any]):
        self._inner = inner

    def update(self, amount: float = 1) -> None:
        total = self._inner.total
        if total is not None and self._inner.n + amount > total:
            self._inner.total = None  # an estimate that proved too low: stop promising an end
        self._inner.update(amount)


class _PlainBar:
    def __init__(self, desc: str, total: float | None, unit: str):
        self._desc, self._total, self._unit = desc, total, unit
        self._done = 0.0
        self._next = time.monotonic() + PLAIN_INTERVAL

    def update(self, amount: float = 1) -> None:
        self._done += amount
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PLAIN_INTERVAL
            print(f"  {self._desc}: {self._text()}", file=sys.stderr, flush=True)

    def _text(self) -> str:
        done = f"{_short(self._done)} {self._unit}"
        if not self._total or self._done > self._total:
            return done
        return f"{done} of {_short(self._total)} ({100 * self._done / self._total:.0f} %)"


def _short(number: float) -> str:
    for limit, suffix in ((1e9, " G"), (1e6, " M")):
        if number >= limit:
            return f"{number / limit:.1f}{suffix}"
    return f"{number:.0f}"


@contextmanager
def bar(desc: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
    """A tqdm bar on a terminal, one plain line a minute elsewhere."""
    if not sys.stderr.isatty():
        yield _PlainBar(desc, total, unit)
        return
    from tqdm import tqdm  # costs 50 ms, and most runs draw nothing

    big = unit == "B"
    with tqdm(
        desc=desc, total=total, unit=unit, unit_scale=big, unit_divisor=1000, leave=False
    ) as inner:
        yield _TerminalBar(inner)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce a step on stderr, and how long it took when it is over."""
    print(f"> {name}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"  failed after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        raise
    print(f"  done in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One plain line between the steps, on stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)

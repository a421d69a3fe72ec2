"""What the user sees while something takes long; the only module that knows tqdm."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tqdm import tqdm

#: Seconds between two plain lines where stderr is no terminal.
PLAIN_INTERVAL = 60.0


#: What is under way, the innermost last: each says how far it has come.
_speakers: list[Callable[[], str]] = []

#: When the last plain line was printed, or we began (monotonic).
_spoke = time.monotonic()


def _say(text: str) -> None:
    """A line of its own, above the bar that is drawn."""
    global _spoke
    _spoke = time.monotonic()
    if drawn := sys.modules.get("tqdm"):
        drawn.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


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

    def update(self, amount: float = 1) -> None:
        self._done += amount

    def text(self) -> str:
        done = f"{self._desc}: {_short(self._done)} {self._unit}"
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
        plain = _PlainBar(desc, total, unit)
        with _signs_of_life(plain.text):
            yield plain
        return
    from tqdm import tqdm  # costs 50 ms, and most runs draw nothing

    big = unit == "B"
    with tqdm(
        desc=desc, total=total, unit=unit, unit_scale=big, unit_divisor=1000, leave=False
    ) as inner:
        yield _TerminalBar(inner)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Announce a step on stderr, and how long it took when it is over.

    Where stderr is no terminal it says once a minute that it is still at it.
    """
    _say(f"> {name}")
    began = time.monotonic()

    def so_far() -> str:
        return f"{name}: {time.monotonic() - began:.0f} s so far"

    try:
        with _signs_of_life(so_far):
            yield
    except BaseException:
        _say(f"  failed after {time.monotonic() - began:.1f} s")
        raise
    _say(f"  done in {time.monotonic() - began:.1f} s")


def note(text: str) -> None:
    """One plain line between the steps, on stderr."""
    _say(f"  {text}")


@contextmanager
def _signs_of_life(speaker: Callable[[], str]) -> Iterator[None]:
    """One thread, of the outermost, speaks for the innermost; none on a terminal."""
    _speakers.append(speaker)
    over = threading.Event()
    if len(_speakers) == 1 and not sys.stderr.isatty():
        threading.Thread(target=_speak_until, args=(over,), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        _speakers.pop()


def _speak_until(over: threading.Event) -> None:
    while not over.wait(max(0.0, _spoke + PLAIN_INTERVAL - time.monotonic())):
        if time.monotonic() - _spoke >= PLAIN_INTERVAL:
            for innermost in _speakers[-1:]:  # a slice: it may be over by now
                _say(f"  {innermost()}")

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


class Rows(Protocol):
    """What :func:`rows` yields: several that are worked on at once, each known by its name."""

    def say(self, name: str, text: str) -> None:
        """What this one does from now on."""

    def end(self, name: str) -> None:
        """This one is over."""

    def refresh(self) -> None:
        """Draw anew how long each has been at it; to be called every second or so."""


class _TerminalRows:
    """A line for each; those that the window has no room for, tqdm says that it hides."""

    def __init__(self) -> None:
        self._lines: dict[str, tqdm[Any]] = {}

    def say(self, name: str, text: str) -> None:
        from tqdm import tqdm

        words = f"{name}: {text}"
        if name in self._lines:
            self._lines[name].set_description_str(words, refresh=False)
            self._lines[name].reset()
        else:
            # Whose numbers are not drawn: only its text, and how long it has been shown.
            self._lines[name] = tqdm(desc=words, bar_format="  {desc} {elapsed}", leave=False)

    def end(self, name: str) -> None:
        if name in self._lines:
            self._lines.pop(name).close()

    def refresh(self) -> None:
        for line in self._lines.values():
            line.refresh()

    def close(self) -> None:
        for name in list(self._lines):
            self.end(name)


class _PlainRows:
    def say(self, name: str, text: str) -> None:
        note(f"{name}: {text}")

    def end(self, name: str) -> None:
        pass

    def refresh(self) -> None:
        pass


@contextmanager
def rows() -> Iterator[Rows]:
    """A line for each of several on a terminal, what each says in lines of their own elsewhere."""
    if not sys.stderr.isatty():
        yield _PlainRows()
        return
    drawn = _TerminalRows()
    try:
        yield drawn
    finally:
        drawn.close()


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

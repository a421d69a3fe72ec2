"""Ways to learn of an OOM in time: one protocol, and the choice among those that are there."""

from __future__ import annotations

from ..errors import GsError, UsageError
from ..paths import KernelFiles
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..cgroup import Group
    from ..procfile import Entry

#: What may follow ``--backend``; `auto` is the first of the others that can be taken.
NAMES = ("auto", "kernel", "cgroup1", "cgroup2")


class Armed:
    """A process that is covered; :meth:`disarm` takes that back, :meth:`close` only lets go."""

    def disarm(self) -> None:
        """As if it had never been covered. For a program that then could not be started."""
        raise NotImplementedError

    def close(self) -> None:
        """Free what the caller holds; the process stays covered."""
        raise NotImplementedError


class Backend:
    """What `gs run` and the library ask of a way to learn of an OOM."""

    name = ""
    #: What it can be relied on for, in the words of the documentation.
    promise = ""
    #: Whether the program is to be frozen while its handler runs, where it would not stand still.
    freezes = False

    def is_there(self) -> bool:
        """Whether this machine has it at all, be it usable or not."""
        raise NotImplementedError

    def unusable(self) -> GsError | None:
        """Why it cannot be taken on this machine by this user, or None."""
        raise NotImplementedError

    def keys(self) -> tuple[str, ...]:
        """The options of a registration that it understands."""
        raise NotImplementedError

    def describe(self) -> str:
        """The name with what tells it apart from another of the same name."""
        raise NotImplementedError

    def limit(self) -> int | None:
        """Where no limit was asked for, that of the group that the program needs all the same, in
        bytes; None if it needs none. Raises NotSupported where there is nothing to watch."""
        return None

    def check(self, entry: Entry) -> None:
        """Raise what can be told to be wrong with it without arming: for --dry-run, and sooner."""
        raise NotImplementedError

    def arm(self, entry: Entry, group: Group | None) -> Armed:
        """Cover the process of ``entry``, which is the caller, from now on; ``group`` is the
        memory cgroup that it will enter."""
        raise NotImplementedError


def select(name: str = "auto", files: KernelFiles | None = None) -> Backend:
    """The backend of that name, or the best one here; NotSupported or PermissionDenied if none."""
    if name not in NAMES:
        raise UsageError(f"unknown backend {name!r}", f"there are {', '.join(NAMES)}")
    reasons = []
    for candidate in NAMES[1:] if name == "auto" else (name,):
        backend = named(candidate, files)
        reason = backend.unusable()
        if reason is None:
            return backend
        reasons.append((backend, reason))
    # What keeps one that is there says more than that another is not there.
    raise next((reason for backend, reason in reasons if backend.is_there()), reasons[0][1])


def named(name: str, files: KernelFiles | None = None) -> Backend:
    """The backend of that name, usable or not; KeyError if there is none. Only it is loaded."""
    if name == "kernel":
        from .kernel import KernelBackend

        return KernelBackend(files)
    if name == "cgroup1":
        from .cgroup1 import Cgroup1Backend

        return Cgroup1Backend()
    if name == "cgroup2":
        from .cgroup2 import Cgroup2Backend

        return Cgroup2Backend()
    raise KeyError(name)


class Capabilities(Record):
    """What this machine offers: ``backend`` is the one that `gs run` would take, or None with the
    ``reason``; ``keys`` the options of a registration; ``features`` the kernel's own words."""

    __slots__ = ("backend", "features", "keys", "reason")

    def __init__(
        self,
        backend: str | None,
        reason: str | None,
        keys: tuple[str, ...],
        features: dict[str, str],
    ) -> None:
        self.backend = backend
        self.reason = reason
        self.keys = keys
        self.features = features


def capabilities(*, files: KernelFiles | None = None) -> Capabilities:
    """What this machine offers to this user. Raises nothing: what is missing is in ``reason``.

    Source: /proc/graceful_shutdown_features, an attempt to open the registry, and the memory
    cgroup of this process.
    """
    from ..registry import features

    try:
        found = features(files)
    except GsError:
        found = {}
    try:
        backend = select("auto", files)
    except GsError as error:
        return Capabilities(None, str(error), (), found)
    return Capabilities(backend.name, None, backend.keys(), found)

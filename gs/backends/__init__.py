"""Ways to learn of an OOM in time: one protocol, and the choice among those that are there."""

from __future__ import annotations

from ..errors import GsError, NotSupported, UsageError
from ..paths import KernelFiles
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..procfile import Entry

#: What may follow ``--backend``. The two on memory cgroups are named and not there yet.
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

    def unusable(self) -> GsError | None:
        """Why it cannot be taken on this machine by this user, or None."""
        raise NotImplementedError

    def keys(self) -> tuple[str, ...]:
        """The options of a registration that it understands."""
        raise NotImplementedError

    def describe(self) -> str:
        """The name with what tells it apart from another of the same name."""
        raise NotImplementedError

    def check(self, entry: Entry) -> None:
        """Raise what can be told to be wrong with it without arming: for --dry-run, and sooner."""
        raise NotImplementedError

    def arm(self, entry: Entry) -> Armed:
        """Cover the process of ``entry``, which is the caller, from now on."""
        raise NotImplementedError


def select(name: str = "auto", files: KernelFiles | None = None) -> Backend:
    """The backend of that name, or the best one here; NotSupported or PermissionDenied if none."""
    if name not in NAMES:
        raise UsageError(f"unknown backend {name!r}", f"there are {', '.join(NAMES)}")
    if name.startswith("cgroup"):
        raise NotSupported(f"backend {name}", f"gs has none of that name yet, only {NAMES[1]}")
    from .kernel import KernelBackend

    backend = KernelBackend(files)
    reason = backend.unusable()
    if reason is not None:
        raise reason
    return backend


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

    Source: /proc/graceful_shutdown_features, and an attempt to open the registry.
    """
    from ..registry import features

    try:
        found = features(files)
    except GsError as error:
        return Capabilities(None, str(error), (), {})
    try:
        backend = select("auto", files)
    except GsError as error:
        return Capabilities(None, str(error), (), found)
    return Capabilities(backend.name, None, backend.keys(), found)

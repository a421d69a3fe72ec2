"""The registry of the running kernel: register, unregister, list, and the handlers in it.

The kernel decides everything here; what it answers with an errno becomes one GsError that says
what to do. Its file is written with exactly one write(2) a request, which is atomic.
"""

from __future__ import annotations

import errno
import os

from . import procfile
from .errors import (
    GsError,
    InvalidHandler,
    NoSuchProcess,
    NotSupported,
    PermissionDenied,
    RegistryFull,
    UsageError,
)
from .paths import KernelFiles, absolute, find_program
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Mapping, Sequence, Union

    Command = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]

#: The sysctl that lets users register processes of their own.
UNPRIVILEGED = "unprivileged"

NO_KERNEL_HINT = "boot a patched kernel; `gs-oom doctor` says what this machine offers"


class Registration(Record):
    """What is run for a process before the OOM killer kills it.

    ``argv`` is the handler and its arguments (empty: only a signal), ``grace`` the time it gets in
    seconds (None: the kernel's default), ``signal`` the number of a signal for the process itself
    (None: no signal), ``scope`` whom it covers: "process", or "tree", its descendants too. ``uid``
    is the registrant where that is another user, else None.
    """

    __slots__ = ("argv", "grace", "pid", "scope", "signal", "uid")

    def __init__(
        self,
        pid: int,
        argv: Sequence[str] = (),
        grace: float | None = None,
        signal: int | None = None,
        scope: str = procfile.DEFAULT_SCOPE,
        uid: int | None = None,
    ) -> None:
        self.pid = pid
        self.argv = tuple(argv)
        self.grace = grace
        self.signal = signal
        self.scope = scope
        self.uid = uid

    @classmethod
    def from_entry(cls, entry: procfile.Entry) -> Registration:
        """The same in seconds."""
        grace = None if entry.grace_ms is None else entry.grace_ms / 1000
        return cls(entry.pid, entry.argv, grace, entry.signal, entry.scope, entry.uid)

    @property
    def line(self) -> str:
        """The line that asks the kernel for this."""
        return procfile.format_command(self.to_entry())

    def to_entry(self) -> procfile.Entry:
        """The same in milliseconds."""
        return procfile.Entry(
            self.pid, self.argv, milliseconds(self.grace), self.signal, self.scope, self.uid
        )


# ------------------------------------------------------------------ what a request is made of


def milliseconds(grace: float | None) -> int | None:
    """A grace time in seconds as the kernel counts it; UsageError unless it is 1 ms or more."""
    if grace is None:
        return None
    # The range comes first: infinity and NaN cannot be rounded.
    if not 0.0005 < grace < procfile.INT_MAX / 1000:
        raise UsageError(f"no grace time: {grace} s", "it must be 1 ms or more")
    return round(grace * 1000)


def check_signal(signal: int | None) -> int | None:
    """The number of a signal, as the kernel takes it; UsageError if there is none of it."""
    if signal is None:
        return None
    if not 1 <= signal <= procfile.MAX_SIGNAL:
        raise UsageError(
            f"no signal: {int(signal)}", f"signals are numbered from 1 to {procfile.MAX_SIGNAL}"
        )
    return int(signal)  # an enum of the module `signal` would be written by its name


def check_scope(scope: str) -> str:
    """`process` or `tree`; UsageError for anything else."""
    if scope not in procfile.SCOPES:
        raise UsageError(f"no scope: {scope!r}", hint=f"write {' or '.join(procfile.SCOPES)}")
    return scope


def check_pid(pid: int, what: str) -> int:
    """A number that a process can have; NoSuchProcess for anything else."""
    if not 1 <= pid <= procfile.INT_MAX:
        raise NoSuchProcess(f"cannot {what} {pid}", "no process has that number", "see: ps -e")
    return pid


def handler_argv(command: Command) -> tuple[str, ...]:
    """The handler as it can be registered: found on PATH, absolute, executable.

    ``command`` is a path alone, or a path with its arguments. Raises InvalidHandler.
    """
    if isinstance(command, (str, os.PathLike)):
        command = [command]
    words = [os.fspath(word) for word in command]
    if not words or not words[0]:
        raise InvalidHandler("no handler", "an empty command", "name a program to run")
    for word in words:
        if not word or "\0" in word:
            what = "an empty argument" if not word else "a NUL byte in an argument"
            raise InvalidHandler(
                f"cannot register {words[0]}",
                f"{what} cannot be written in the registry",
                "wrap the command in a script",
            )
    return (find_handler(words[0]), *words[1:])


def find_handler(name: str) -> str:
    """The absolute path of an executable file; InvalidHandler says what is wrong with it."""
    path = find_program(name)
    if path is None:
        if os.path.isdir(name):
            raise InvalidHandler(f"handler {name}", "is a directory", "name a program in it")
        if "/" in name and os.path.exists(name):
            raise InvalidHandler(f"handler {name}", "is not a regular file")
        where = "no such file" if "/" in name else "not found on PATH"
        raise InvalidHandler(f"handler {name}", where, "give the path of a program that exists")
    try:
        path = absolute(path)
    except OSError as error:
        why = f"the working directory is not to be found ({error.strerror})"
        raise InvalidHandler(f"handler {name}", why, "give its absolute path") from None
    if not os.access(path, os.X_OK):
        raise InvalidHandler(f"handler {path}", "is not executable", f"chmod +x {path}")
    return path


# ------------------------------------------------------------------ the file


def features(files: KernelFiles | None = None) -> dict[str, str]:
    """What this kernel offers, as its features file says; NotSupported if there is none."""
    files = files or KernelFiles()
    try:
        with open(files.features, encoding="ascii", errors="replace") as file:
            found = procfile.parse_features(file.read())
    except FileNotFoundError:
        raise _no_kernel(files.features) from None
    except OSError as error:
        raise NotSupported(f"cannot read {files.features}", str(error.strerror)) from None
    if found.get("abi") != "1":
        raise NotSupported(
            f"{files.features} says abi={found.get('abi')}",
            "this gs knows abi=1 only",
            "install the gs that belongs to this kernel",
        )
    return found


def keys_of(found: Mapping[str, str]) -> tuple[str, ...]:
    """The keys of a registry line that this kernel understands."""
    return procfile.feature_list(found, "keys")


def _no_kernel(path: str) -> NotSupported:
    return NotSupported(f"this kernel has no {path}", "it is not patched", NO_KERNEL_HINT)


class RegistryFile:
    """The open registry. Who opened it decides what it may do, also after a change of user."""

    def __init__(self, files: KernelFiles | None = None) -> None:
        self.files = files or KernelFiles()
        path = self.files.registry
        try:
            # O_APPEND is of no meaning to the kernel's file, but keeps recorded ones whole.
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _no_kernel(path) from None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise not_allowed(f"cannot open {path}", self.files) from None
            raise NotSupported(f"cannot open {path}", str(error.strerror)) from None

    def register(self, entry: procfile.Entry) -> None:
        """Write one entry; whatever was registered for the process is replaced."""
        self._write(entry)

    def unregister(self, pid: int) -> None:
        """Take the entry of a process back; NoSuchProcess if it has none."""
        self._write(procfile.Removal(pid))

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> RegistryFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, command: procfile.Entry | procfile.Removal) -> None:
        if isinstance(command, procfile.Entry):
            _check_length(command)
        data = os.fsencode(procfile.format_command(command))
        try:
            written = os.write(self._fd, data + b"\n")
        except OSError as error:
            raise self._explain(error, command) from None
        if written != len(data) + 1:
            raise GsError("cannot register", f"only {written} of {len(data) + 1} bytes were taken")

    def _explain(self, error: OSError, command: procfile.Entry | procfile.Removal) -> GsError:
        """What the kernel's errno means for this command (the table of abi.md)."""
        code, pid = error.errno, command.pid
        if isinstance(command, procfile.Removal):
            if code == errno.ESRCH:
                return NoSuchProcess(
                    f"cannot unregister {pid}", "no such process, or it is not registered"
                )
            what = f"cannot unregister {pid}"
        else:
            what = f"cannot register {pid}"
            handler = command.argv[0] if command.argv else "-"
            if code == errno.ESRCH:
                return NoSuchProcess(what, "no such process that the OOM killer could choose")
            if code == errno.EINVAL:
                return _bad_option(what, command, self.files)
            if code in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENAMETOOLONG, errno.E2BIG):
                return InvalidHandler(f"{what}: handler {handler}", os.strerror(code))
        if code == errno.EPERM:
            return not_allowed(what, self.files)
        if code == errno.EOPNOTSUPP:
            return NotSupported(
                what,
                "the kernel takes no handler from a container, a chroot, a sandboxed unit, or where"
                " every user-mode helper is replaced (STATIC_USERMODEHELPER)",
                "register from the host; in a unit: nsenter --target 1 --mount gs-oom register ...",
            )
        if code == errno.ENOSPC:
            return RegistryFull(
                what,
                "the registry is full",
                "raise it with: sysctl -w vm.graceful_shutdown_max_entries=N",
            )
        return GsError(what, os.strerror(code or 0))


def not_allowed(what: str, files: KernelFiles) -> PermissionDenied:
    """The error for what the kernel allows root alone, or users for what is their own."""
    users = files.read_sysctl(UNPRIVILEGED)
    if users == 1:
        return PermissionDenied(
            what,
            "users may register what is theirs alone, and not from under a seccomp filter",
            "run it as root",
        )
    hint = "run it as root"
    if users == 0:
        hint += (
            f", or let users register their own: sysctl -w vm.graceful_shutdown_{UNPRIVILEGED}=1"
        )
    return PermissionDenied(what, "that takes CAP_SYS_ADMIN", hint)


def _bad_option(what: str, entry: procfile.Entry, files: KernelFiles) -> GsError:
    """Why the kernel called a well-formed line EINVAL: an option it lacks, or a grace too long."""
    return (
        _missing_key(what, entry, files)
        or _over_ceiling(what, entry, files)
        or UsageError(what, "the kernel calls the line malformed")
    )


def _missing_key(what: str, entry: procfile.Entry, files: KernelFiles) -> NotSupported | None:
    """The error for the first option that this kernel's features do not name, if there is one.

    The features decide, and never the kernel's version.
    """
    instead = {}
    if entry.grace_ms is not None:
        instead["grace_ms"] = "leave the grace time out"
    if entry.signal is not None:
        instead["signal"] = (
            "leave the signal out and have a handler send it:"
            f" --on-oom \"sh -c 'kill -{entry.signal} $GS_PID'\""
        )
    if entry.scope != procfile.DEFAULT_SCOPE:
        instead["scope"] = "register each process by itself, with --scope process"
    known = keys_of(features(files)) if instead else ()
    for key, hint in instead.items():
        if key not in known:
            why = f"this kernel takes no {key}= (its keys: {', '.join(known) or 'none'})"
            return NotSupported(what, why, hint)
    return None


def _over_ceiling(what: str, entry: procfile.Entry, files: KernelFiles) -> UsageError | None:
    """The error for a grace time that is longer than this kernel allows, if it is."""
    ceiling = files.read_sysctl("max_grace_ms")
    if ceiling is None or entry.grace_ms is None or entry.grace_ms <= ceiling:
        return None
    return UsageError(
        what,
        f"a grace time of {entry.grace_ms} ms is over the ceiling of {ceiling} ms",
        "shorten it, or raise sysctl vm.graceful_shutdown_max_grace_ms",
    )


def _check_length(entry: procfile.Entry) -> None:
    length = len(os.fsencode(procfile.format_command(entry)))
    if length > procfile.LINE_MAX:
        raise InvalidHandler(
            "cannot register the handler",
            f"its line has {length} bytes, the kernel takes {procfile.LINE_MAX}",
            "put the command into a script",
        )


def check_entry(entry: procfile.Entry, files: KernelFiles | None = None) -> None:
    """Raise what the kernel would say of the entry's line, as far as it can be told beforehand."""
    files = files or KernelFiles()
    _check_length(entry)
    what = f"cannot register {entry.pid}"
    error = _missing_key(what, entry, files) or _over_ceiling(what, entry, files)
    if error is not None:
        raise error


# ------------------------------------------------------------------ the library's functions


def register(
    pid: int,
    handler: Command | None = None,
    grace: float | None = None,
    signal: int | None = None,
    scope: str = procfile.DEFAULT_SCOPE,
    *,
    files: KernelFiles | None = None,
) -> Registration:
    """Have the kernel run ``handler`` before its OOM killer kills process ``pid``.

    ``handler`` is a path, or a list of path and arguments; a bare name is looked for on PATH.
    ``grace`` is in seconds (None: sysctl vm.graceful_shutdown_grace_ms). ``signal`` is the number
    of a signal that the process itself gets when its grace begins; without a handler there must be
    one. ``scope`` is "process", or "tree": also when a descendant of the process is to be killed.
    Registering a process again replaces what there was. Source: a write to
    /proc/graceful_shutdown; which options it takes is in /proc/graceful_shutdown_features.

    Raises InvalidHandler, NoSuchProcess, PermissionDenied, RegistryFull, NotSupported for an
    option that this kernel lacks, and UsageError for one that is out of range.
    """
    if handler is None and signal is None:
        raise UsageError(
            f"cannot register {pid}",
            "neither a handler nor a signal was given",
            "give --on-oom HANDLER, or --signal SIG for a process that saves its state by itself",
        )
    entry = procfile.Entry(
        check_pid(pid, "register"),
        () if handler is None else handler_argv(handler),
        milliseconds(grace),
        check_signal(signal),
        check_scope(scope),
    )
    with RegistryFile(files) as file:
        check_entry(entry, files)
        file.register(entry)
    return Registration.from_entry(entry)


def unregister(pid: int, *, files: KernelFiles | None = None) -> None:
    """Take the registration of process ``pid`` back.

    Source: a write to /proc/graceful_shutdown. Raises NoSuchProcess if there is no such process
    or it is not registered, PermissionDenied, NotSupported.
    """
    check_pid(pid, "unregister")
    with RegistryFile(files) as file:
        file.unregister(pid)


def registrations(*, files: KernelFiles | None = None) -> list[Registration]:
    """Every registration that the caller may see, oldest first; root sees those of all users.

    They are the kernel's: runs that have guards instead are not among them, and where there are
    only guards this raises NotSupported (`gs-oom list` shows both). Source:
    /proc/graceful_shutdown. Raises NotSupported, PermissionDenied, MalformedLine.
    """
    files = files or KernelFiles()
    path = files.registry
    try:
        with open(path, "rb") as file:
            text = os.fsdecode(file.read())
    except FileNotFoundError:
        raise _no_kernel(path) from None
    except PermissionError:
        raise not_allowed(f"cannot read {path}", files) from None
    return [Registration.from_entry(entry) for entry in procfile.parse_registry(text)]


class on_oom:
    """Register the calling process for the length of a ``with`` block.

    Takes what :func:`register` takes, without the pid: ``grace`` in seconds, ``signal`` a number,
    ``scope`` "process" or "tree". What was registered for the process before is there again
    afterwards. The value of the ``with`` is the Registration. Source: /proc/graceful_shutdown,
    read once and written at both ends of the block.

    Entering raises what :func:`register` and :func:`registrations` raise; then nothing has
    changed. Leaving raises PermissionDenied or NotSupported if the registration cannot be taken
    back, and InvalidHandler if the one before cannot be put back; it is no error if somebody else
    took it back already.
    """

    def __init__(
        self,
        handler: Command | None = None,
        grace: float | None = None,
        signal: int | None = None,
        scope: str = procfile.DEFAULT_SCOPE,
        *,
        files: KernelFiles | None = None,
    ) -> None:
        self._request = (handler, grace, signal, scope)
        self._files = files
        self._before: list[Registration] = []

    def __enter__(self) -> Registration:
        pid = os.getpid()
        self._before = [r for r in registrations(files=self._files) if r.pid == pid]
        return register(pid, *self._request, files=self._files)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with RegistryFile(self._files) as file:
            if self._before:
                file.register(self._before[0].to_entry())
                return
            try:
                file.unregister(os.getpid())
            except NoSuchProcess:
                pass  # somebody else took it back already

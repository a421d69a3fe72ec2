"""`gs run`: check everything, prepare, register the own process, and exec the program in it.

This precedes every program that is protected, so it imports little: no argparse, dataclasses,
typing, shlex, re, subprocess, pathlib. A unit test looks at what is loaded.
"""

from __future__ import annotations

import errno
import os
import sys

from . import arguments, backends, errors, registry
from .errors import (
    GsError,
    InvalidHandler,
    NotSupported,
    PermissionDenied,
    ProgramNotExecutable,
    ProgramNotFound,
    UsageError,
)
from .paths import SCOPE_MARK, find_program
from .procfile import DEFAULT_SCOPE, Entry, format_command
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Sequence

    from .cgroup import Group

HELP = """\
usage: gs-oom run [OPTION...] PROG [ARG...]
       gs-oom run PROG [ARG...] [OPTION...]

Runs PROG in this very process (same pid, nothing stays in between), registered so that HANDLER runs
before the OOM killer kills PROG. Options stand before PROG, or all together at the
end, --on-oom among them. `--` before PROG ends the options.

  --on-oom HANDLER     program to run before the kill, with arguments, in shell quoting: no $VAR
                       and no >, for those use: sh -c '...'; looked for on PATH. It starts in /,
                       not where you are: its arguments take whole paths
  --grace TIME         how long it may take, as 5s, 500ms, 2m (default: the kernel's, 2s unless
                       sysctl vm.graceful_shutdown_grace_ms says otherwise)
  --signal SIG         also send PROG this signal when its grace begins, as TERM, SIGUSR1, 15;
                       without --on-oom the signal is all there is
  --scope WHOM         process, or tree: PROG's children too (default: tree where the kernel can)
  --memory-max SIZE    give PROG a memory cgroup of its own with this limit, as 500M
  --swap-max SIZE      and that much swap (default: none)
  --user USER[:GROUP]  register as root, then run PROG as this user; the environment stays
  --backend NAME       auto, kernel, cgroup1 or cgroup2 (default: auto, the first of these that
                       this machine has; `gs-oom doctor` says what each promises)
  --freeze             on cgroup2, where PROG is only slowed down, freeze it until HANDLER has
                       ended; but a frozen program cannot answer its handler
  --allow-unprotected  run PROG even where it cannot be protected
  --dry-run            check everything, print what would be done, and do nothing

The exit status is PROG's own; 125 if gs failed before PROG began, 126 if PROG cannot be executed,
127 if it was not found.

  gs-oom run --on-oom /usr/local/bin/save-state --grace 5s -- python3 train.py
"""

#: No error begins so.
BEGINS = b"\n"

_IN_SCOPE = "a systemd user scope"

#: Python ignores these two, and an exec'd program would inherit that.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


class User(Record):
    """Who PROG is to run as."""

    __slots__ = ("gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = tuple(groups)


class Plan:
    """Everything that was checked and decided before anything is done."""

    def __init__(self, scanned: arguments.RunArguments) -> None:
        options = scanned.options
        self.warnings: list[str] = []
        self.argv = scanned.program
        self.path = _find_prog(scanned.program[0])
        self.dry_run = "--dry-run" in options
        self.memory_max, self.swap_max = _parse_memory(options)
        self.memory_place = ""
        self.scoped = False
        self.user = _parse_user(options["--user"]) if "--user" in options else None
        self._unprotected_is_fine = "--allow-unprotected" in options
        self.entry = _parse_entry(options)
        if "--freeze" in options and self.entry.signal is not None:
            raise UsageError("--freeze and --signal", "a frozen program does not get its signal")
        self.backend = self._select_backend(options.get("--backend", "auto"))
        if self.memory_max is not None:
            self.memory_place = self._find_place()
        if self.backend is not None:
            self.backend.freezes = "--freeze" in options
        if self.backend is not None and self.memory_max is None:
            self._take_limit(self.backend)
        if self.backend is not None:
            if "--scope" not in options:
                self._choose_scope(self.backend)
            self.backend.check(self.entry)
            if _is_never_chosen():
                self.warnings.append(
                    "oom_score_adj is -1000: the OOM killer never chooses this process, so that"
                    " no handler ever runs for it (set it with: choom -n 0 -- gs-oom run ...)"
                )
        self.must_limit_swap = "--swap-max" in options
        if self.must_limit_swap:
            from . import cgroup

            cgroup.check_swap(self.memory_place, cgroup.require())

    def _select_backend(self, name: str) -> backends.Backend | None:
        try:
            return backends.select(name)
        except (NotSupported, PermissionDenied) as error:
            if name in ("auto", "cgroup2") and self._goes_into_scope():
                return backends.named("cgroup2")
            self.tolerate(error)
            return None

    def _find_place(self) -> str:
        """The directory for the program's group, which a user may have in a scope alone."""
        from . import cgroup

        if self.scoped:
            return _IN_SCOPE
        try:
            return cgroup.find_place(cgroup.require())
        except (NotSupported, PermissionDenied):
            if self._goes_into_scope():
                return _IN_SCOPE
            raise

    def _goes_into_scope(self) -> bool:
        """Start again in a systemd user scope, where there is one to be had; else this comes back.
        Of a dry run, whether that would be done."""
        from . import scope

        if self.dry_run:
            self.scoped = scope.is_available()
        else:
            scope.enter()
        return self.scoped

    def _choose_scope(self, backend: backends.Backend) -> None:
        """A victim is often a child, so these are covered too where the backend can do that."""
        keys = backend.keys()
        if "scope" in keys:
            self.entry = self.entry.replace(scope="tree")
        else:
            self.warnings.append(
                "only the process itself is covered, not its children (this kernel has no"
                " scope=tree; --scope process silences this)"
            )

    def _take_limit(self, backend: backends.Backend) -> None:
        """A group of its own for the program where the backend needs one, with the swap it had."""
        try:
            self.memory_max, self.swap_max = backend.limit(), None
        except NotSupported as error:
            self.tolerate(error)
            self.backend = None
        if self.memory_max is not None:
            self.memory_place = self._find_place()

    def tolerate(self, error: GsError) -> None:
        """Go on unprotected where that was allowed, else raise."""
        if not self._unprotected_is_fine:
            if not error.hint.endswith("--allow-unprotected"):
                hint = f"{error.hint}, " if error.hint else ""
                error.hint = f"{hint}or run it without protection: --allow-unprotected"
            raise error
        # What was said of the protection no longer matters.
        self.warnings = [f"NOT protected: {error.what}: {error.why}"]

    def describe(self) -> str:
        """What --dry-run prints."""
        import shlex

        def words(argv: Sequence[str]) -> str:
            return " ".join(map(shlex.quote, argv))

        backend = self.backend.describe() if self.backend else "none: NOT protected"
        rows = [
            ("backend", f"{backend}, in {_IN_SCOPE}" if self.scoped else backend),
            ("handler", words(self.entry.argv) or f"none, signal {self.entry.signal}"),
            ("program", words([self.path, *self.argv[1:]])),
            ("registers", format_command(self.entry.replace(pid="PID"))),
        ]
        if self.memory_max is not None:
            sizes = f"{self.memory_max} bytes, swap {self._describe_swap()}"
            rows.append(("memory", f"{sizes}, a cgroup in {self.memory_place}"))
        if self.user is not None:
            rows.append(("user", f"uid {self.user.uid}, gid {self.user.gid}"))
        return "".join(f"{name + ':':<11}{value}\n" for name, value in rows)

    def _describe_swap(self) -> str:
        from . import cgroup

        if self.swap_max is None:
            return "as before"
        if not cgroup.limits_swap(self.memory_place, cgroup.require()):
            return "not limited (this kernel does not account for it)"
        return f"{self.swap_max} bytes"


# ---------------------------------------------------------------------------- checking


def _find_prog(name: str) -> str:
    path = find_program(name)
    if path is None:
        if name and os.path.isdir(name):
            raise ProgramNotExecutable(f"cannot run {name}", "is a directory")
        where = "no such file" if "/" in name else "not found on PATH"
        raise ProgramNotFound(f"cannot run {name or 'an empty name'}", where)
    if not os.access(path, os.X_OK):
        raise ProgramNotExecutable(f"cannot run {path}", "not executable", f"chmod +x {path}")
    return path


def _parse_entry(options: dict[str, str]) -> Entry:
    """The registration that is asked for; its process is the one that will exec."""
    signal = arguments.parse_signal(options["--signal"]) if "--signal" in options else None
    if "--on-oom" not in options and signal is None:
        raise UsageError(
            "nothing to do before a kill",
            "there is neither --on-oom nor --signal",
            "give --on-oom HANDLER before PROG, or as the last option behind it; or --signal SIG"
            " before PROG",
        )
    argv: Sequence[str] = ()
    if "--on-oom" in options:
        argv = registry.handler_argv(arguments.split_words(options["--on-oom"]))
    grace = arguments.parse_grace(options["--grace"]) if "--grace" in options else None
    scope = registry.check_scope(options.get("--scope", DEFAULT_SCOPE))
    return Entry(os.getpid(), argv, registry.milliseconds(grace), signal, scope)


def _parse_memory(options: dict[str, str]) -> tuple[int | None, int | None]:
    """Limit and swap."""
    if "--memory-max" not in options:
        if "--swap-max" in options:
            raise UsageError("--swap-max alone limits nothing", hint="give --memory-max too")
        return None, 0
    from . import cgroup

    memory_max = arguments.parse_size(options["--memory-max"])
    cgroup.check_limit(memory_max)
    return memory_max, arguments.parse_size(options.get("--swap-max", "0"))


def _parse_user(text: str) -> User:
    import grp
    import pwd

    name, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"--user {text}", f"there is no user {name!r}") from None
    try:
        gid = entry.pw_gid if not group else _group_number(grp, group)
        groups = os.getgrouplist(entry.pw_name, gid)
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"--user {text}", f"there is no group {group!r}") from None
    if os.geteuid() != 0 and entry.pw_uid != os.geteuid():
        raise PermissionDenied(f"--user {text}", "only root can become another user")
    if os.geteuid() != 0 and gid != os.getegid():
        raise PermissionDenied(f"--user {text}", "only root can become of another group")
    return User(entry.pw_uid, gid, groups)


def _group_number(grp: object, group: str) -> int:
    if group.isdigit():
        return int(group)
    return int(grp.getgrnam(group).gr_gid)  # type: ignore[attr-defined]


def _is_never_chosen() -> bool:
    """Whether this process, and so PROG, is exempt from the OOM killer."""
    try:
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            return file.read().strip() == "-1000"
    except OSError:
        return False


# ---------------------------------------------------------------------------- doing


def execute(plan: Plan, status_fd: int | None = None) -> NoReturn:
    """Register, confine, become the user, exec. What was done is undone if that fails."""
    group: Group | None = None
    armed: backends.Armed | None = None
    try:
        if plan.memory_max is not None:
            from . import cgroup

            group = cgroup.make(
                plan.memory_max, plan.swap_max, must_limit_swap=plan.must_limit_swap
            )
            if plan.swap_max is not None:
                _warn_of_swap(group)
        armed = _arm(plan, group)
        for warning in plan.warnings:
            _say(warning)
        if group is not None:
            group.enter()
        if plan.user is not None:
            _become(plan.user)
        if status_fd is not None:
            os.write(status_fd, BEGINS)
        _exec(plan)
    except BaseException:
        if plan.user is not None and os.getresuid()[2] == 0:
            os.seteuid(0)
        if armed is not None:
            armed.disarm()
        if group is not None:
            group.leave_and_remove()
        raise


def _warn_of_swap(group: Group) -> None:
    from . import cgroup

    if cgroup.has_swap() and not cgroup.limits_swap(group.path, group.where):
        _say(
            "PROG may swap: this kernel does not account for swap, so that --memory-max does not"
            " limit it (boot it with swapaccount=1)"
        )


def _arm(plan: Plan, group: Group | None) -> backends.Armed | None:
    if plan.backend is None:
        return None
    try:
        return plan.backend.arm(plan.entry, group)
    except (UsageError, InvalidHandler):
        raise
    except GsError as error:
        plan.tolerate(error)
        return None


def _become(user: User) -> None:
    """Root stays the saved user until the exec, which overwrites that: so a failed exec can still
    be cleaned up after, and the program has no way back."""
    if os.geteuid() != 0:
        return
    from . import _sys

    try:
        # The kernel does so only when root is given up for good, the saved user too.
        _sys.clear_ambient_capabilities()
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, 0)
    except OSError as error:
        raise PermissionDenied(f"cannot become user {user.uid}", str(error.strerror)) from None


def _exec(plan: Plan) -> NoReturn:
    _restore_signals()
    environment = _environment()
    try:
        try:
            os.execve(plan.path, plan.argv, environment)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without #!: the shell's, as with env(1).
            os.execve("/bin/sh", ["sh", plan.path, *plan.argv[1:]], environment)
    except OSError as error:
        what = f"cannot run {plan.path}"
        if error.errno == errno.ENOENT:
            raise ProgramNotFound(what, "its interpreter was not found") from None
        if error.errno == errno.E2BIG:
            raise GsError(what, "its arguments and environment are too long") from None
        raise ProgramNotExecutable(what, str(error.strerror)) from None


def _restore_signals() -> None:
    # Not the module `signal`: its enums cost more time than all that is done here.
    import _signal  # type: ignore[import-not-found]

    for name in _IGNORED_BY_PYTHON:
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)


def _environment() -> dict[bytes, bytes]:
    """The environment that gs was given: Python may have added LC_CTYPE to it (PEP 538), and
    gs.scope its mark."""
    environment = dict(os.environb)
    environment.pop(os.fsencode(SCOPE_MARK), None)
    if b"LC_CTYPE" in environment:
        try:
            with open("/proc/self/environ", "rb") as file:
                given = file.read()
        except OSError:
            return environment
        if not any(word.startswith(b"LC_CTYPE=") for word in given.split(b"\0")):
            del environment[b"LC_CTYPE"]
    return environment


# ---------------------------------------------------------------------------- the command


def _say(text: object) -> None:
    print(f"gs run: {text}", file=sys.stderr, flush=True)


def main(words: Sequence[str], status_fd: int | None = None) -> int:
    """`gs run WORDS...`; comes back only if PROG was not started, with the exit status.

    With ``status_fd`` an error is not printed but written there (see gs.child), behind BEGINS where
    PROG was to begin next; the descriptor is closed when PROG begins.
    """
    try:
        scanned = arguments.scan_run(words)
        if scanned.help:
            print(HELP, end="")
            return 0
        plan = Plan(scanned)
        if status_fd is not None:
            os.set_inheritable(status_fd, False)
        if not plan.dry_run:
            execute(plan, status_fd)
        for warning in plan.warnings:
            _say(warning)
        print(plan.describe(), end="")
        return 0
    except GsError as error:
        if status_fd is not None:
            os.write(status_fd, pack_error(error))
        else:
            _say(error)
        started = isinstance(error, (ProgramNotFound, ProgramNotExecutable))
        return error.exit_code if started else errors.RUN_FAILED
    except KeyboardInterrupt:
        return 130


def pack_error(error: GsError) -> bytes:
    """An error as bytes for another process; :func:`unpack_error` makes it one again."""
    parts = (type(error).__name__, error.what, error.why, error.hint)
    return os.fsencode("\0".join(parts))


def unpack_error(data: bytes) -> GsError:
    """The error that was packed, with BEGINS before it or not."""
    name, what, why, hint = os.fsdecode(data.lstrip(BEGINS)).split("\0")
    error: GsError = getattr(errors, name)(what, why, hint)
    return error

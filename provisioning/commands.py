"""The one gateway to other programs: clean environment, own process group, no orphans."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from provisioning.errors import (
    MAKE_ROOM,
    CommandFailed,
    CommandTimedOut,
    DiskFull,
    HostFailed,
    Interrupted,
    MissingPackages,
)
from provisioning.log import logger

#: What a program of ours may see of the caller's environment; the rest (CFLAGS, MAKEFLAGS,
#: GREP_OPTIONS, ARCH, …) would change results behind our back.
PASSED_ENVIRONMENT = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "LANG", "TZ"),
        *("GS_CACHE", "GS_JOBS", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"),
        "GS_SSH_CONFIG",
        *("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"),
        *("VIRTUAL_ENV", "CCACHE_DIR"),
    }
)

#: Seconds between asking a process group to end and killing it.
TERM_GRACE = 5.0

#: Lines of output that :func:`stream` keeps for the error message.
KEPT_LINES = 200

#: What every program says of a full disk (strerror of ENOSPC and EDQUOT).
_NO_ROOM = ("No space left on device", "Disk quota exceeded")

Word = str | Path


@dataclass(frozen=True)
class Completed:
    """How a program ended and what it printed (undecodable bytes are replaced)."""

    returncode: int
    stdout: str
    stderr: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment that programs run with: the white list, a fixed locale, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ENVIRONMENT}
    if os.path.isdir("/usr/sbin"):  # a user's PATH on Debian lacks it
        kept["PATH"] = kept.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[Word],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
    input: bytes | None = None,
    check: bool = True,
) -> Completed:
    """Run a program to its end. Raises CommandFailed unless it ends with 0 (``check``)."""
    words = [str(word) for word in argv]
    process = _popen(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with _ended(process):
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise _timed_out(words, timeout, log) from None
    done = Completed(process.returncode, _text(out), _text(err))
    if log is not None:
        _append(log, f"$ {shlex.join(words)}\n{done.stdout}{done.stderr}")
    if check and done.returncode != 0:
        raise _failed(words, done.returncode, done.stderr or done.stdout, log)
    return done


def stream(
    argv: Sequence[Word],
    *,
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Completed:
    """Run a long program; every line (both streams, no newline) goes to ``on_line`` and the log.

    The result's ``stdout`` holds the last lines only.
    """
    words = [str(word) for word in argv]
    kept: deque[str] = deque(maxlen=KEPT_LINES)
    process = _popen(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _signal_group(process, signal.SIGKILL)

    timer = threading.Timer(timeout, expire) if timeout is not None else None
    with _ended(process), _log_file(log, words) as sink:
        if timer:
            timer.start()
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                line = _text(raw).rstrip("\r\n")
                kept.append(line)
                if sink:
                    sink.write(line + "\n")
                on_line(line)
            process.wait()
        finally:
            if timer:
                timer.cancel()
    if expired.is_set():
        raise _timed_out(words, timeout, log)
    output = "\n".join(kept)
    if check and process.returncode != 0:
        raise _failed(words, process.returncode, output, log)
    return Completed(process.returncode, output, "")


def pipe(
    producer: Sequence[Word], consumer: Sequence[Word], *, timeout: float | None = None
) -> Completed:
    """``producer | consumer``: the consumer's output; raises when either of them fails."""
    first, second = [str(w) for w in producer], [str(w) for w in consumer]
    left = _popen(first, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with _ended(left):
        right = _popen(second, stdin=left.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert left.stdout is not None and left.stderr is not None
        left.stdout.close()  # so that the producer notices when the consumer ends early
        with _ended(right):
            try:
                out, err = right.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                raise _timed_out(second, timeout, None) from None
        problem = _text(left.stderr.read())
        left.wait()
    if right.returncode != 0:
        raise _failed(second, right.returncode, _text(err) or _text(out), None)
    if left.returncode != 0:
        raise _failed(first, left.returncode, problem, None)
    return Completed(0, _text(out), _text(err))


def spawn(
    argv: Sequence[Word],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.STDOUT,
    pass_fds: Sequence[int] = (),
    die_with_parent: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program that runs beside us, in its own session, and return at once.

    With ``die_with_parent`` the kernel kills it when the *thread* that started it ends, however
    that happens; start it from the main thread.
    """
    words = [str(word) for word in argv]
    if die_with_parent:
        words = ["setpriv", "--pdeathsig", "KILL", "--", *words]
    return _popen(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
    )


def end(process: subprocess.Popen[bytes], grace: float = TERM_GRACE) -> None:
    """End a program and everything in its process group: SIGTERM, ``grace`` seconds, SIGKILL."""
    try:
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second Ctrl-C comes meanwhile
        _signal_group(process, signal.SIGKILL)
    process.wait()


def which_or_hint(name: str, package: str) -> Path:
    """The program's path, or MissingPackages with the line that installs it."""
    found = shutil.which(name, path=environment()["PATH"])
    if found is None:
        raise missing_packages(f"{name} is not installed", [package])
    return Path(found)


def missing_packages(what: str, packages: Sequence[str]) -> MissingPackages:
    """The error for programs or files that Debian packages would bring."""
    line = shlex.join(["apt-get", "install", "--no-install-recommends", *packages])
    return MissingPackages(what, hint=f"install it as root: {line}")


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and a lost terminal unwind as Interrupted, and clean-up code runs."""

    def on_term(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, on_term)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup means it
    }
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted", hint="run it again to go on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    options["env"] = environment(options.pop("env", None))
    try:
        # A session of its own: the terminal's Ctrl-C reaches only us, and we end the whole group.
        return subprocess.Popen(words, start_new_session=True, **options)
    except FileNotFoundError as error:
        logger.debug("cannot start %s: %s", shlex.join(words), error)
        if error.filename and str(error.filename) == str(options.get("cwd")):
            raise CommandFailed(
                f"cannot run {words[0]}", f"no directory {error.filename}"
            ) from None
        raise CommandFailed(f"cannot run {words[0]}", "no such program") from None
    except OSError as error:
        raise CommandFailed(f"cannot run {words[0]}", error.strerror or str(error)) from None


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever interrupts the block also ends the process group."""
    try:
        yield
    except BaseException:
        end(process)
        for pipe_end in (process.stdin, process.stdout, process.stderr):
            if pipe_end:
                pipe_end.close()
        raise


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # all gone already, or only zombies of another user's are left


@contextmanager
def _log_file(log: Path | None, words: Sequence[str]) -> Iterator[IO[str] | None]:
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as sink:  # by lines: people follow it with tail -f
        sink.write(f"$ {shlex.join(words)}\n")
        yield sink


def _append(log: Path, text: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as sink:
        sink.write(text if text.endswith("\n") else text + "\n")


def _failed(words: Sequence[str], status: int, output: str, log: Path | None) -> HostFailed:
    how = f"ended with {status}" if status >= 0 else f"was killed by signal {-status}"
    lines = [line.strip()[:300] for line in output.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    logger.debug("%s %s: %s", shlex.join(words), how, said)
    what = f"{Path(words[0]).name} {how}"
    for line in lines:
        if any(sign in line for sign in _NO_ROOM):
            return DiskFull(what, line, MAKE_ROOM, log=log)
    return CommandFailed(what, said, log=log, output=output)


def _timed_out(words: Sequence[str], timeout: float | None, log: Path | None) -> CommandTimedOut:
    logger.debug("%s was killed after %s s", shlex.join(words), timeout)
    return CommandTimedOut(
        f"{Path(words[0]).name} was stopped", f"not over after {timeout:g} s", log=log
    )


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")

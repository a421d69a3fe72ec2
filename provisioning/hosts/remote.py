"""One host over SSH: the only module that knows Fabric.

Host keys are verified against known_hosts, as ssh(1) does it with StrictHostKeyChecking=yes; Fabric
by itself takes any. Everything that is run, and what it printed, goes to the host's log.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fabric
import paramiko
from invoke.exceptions import CommandTimedOut as InvokeTimedOut
from invoke.exceptions import ThreadException
from paramiko.ssh_exception import (
    AuthenticationException,
    BadHostKeyException,
    ChannelException,
    NoValidConnectionsError,
    SSHException,
)

from provisioning.commands import Completed
from provisioning.config import sudo_password
from provisioning.errors import CommandFailed, CommandTimedOut, ConnectionLost, HostFailed
from provisioning.hosts.inventory import Host

#: Seconds until a host must have answered.
CONNECT_TIMEOUT = 20

#: Seconds between two signs of life that a host is asked for.
_KEEPALIVE = 15

#: Seconds for a command, unless it is given others.
TIMEOUT = 120.0

#: Seconds between two attempts to reach a host that reboots.
_RETRY = 2.0

#: What makes a command root's; the latter reads a password first, which :class:`Remote` gives it.
SUDO = ("sudo", "-n", "--")
SUDO_ASKS = ("sudo", "-S", "-p", "", "--")

#: Bytes of the output that a failure quotes.
_QUOTED = 2000

#: Bytes that are under way to a host at once. With more of them sshd's buffer grows, which took it
#: 105 ms of a processor for a file of 3 MB; all the rest of the copy, here and there, takes 136.
_BURST = 1 << 20

_GLOBAL_KEYS = "/etc/ssh/ssh_known_hosts"
_OWN_KEYS = "~/.ssh/known_hosts"


# It says on stderr what its exceptions say.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class _AtOnce(io.StringIO):
    """Input that is read as a whole: Invoke asks for a character at a time, and a program that has
    ended meanwhile would be an error."""

    def read(self, size: int | None = -1) -> str:
        """All that is left."""
        return super().read()


class Remote:
    """A host that answers; made by :func:`connected`, and of use to one thread. ``say`` tells
    those who wait what is under way there."""

    def __init__(
        self, host: Host, connection: fabric.Connection, log: Path, say: Callable[[str], None]
    ):
        self.host = host
        self.log = log
        self.say = say
        self._connection = connection

    def run(
        self,
        words: Sequence[str],
        *,
        timeout: float = TIMEOUT,
        check: bool = True,
        shown: str = "",
        noted: bool = True,
        stdin: str = "",
    ) -> Completed:
        """Run a program there. CommandFailed if it does not end with 0 (``check``) or in time (in
        seconds; it then goes on there), ConnectionLost. ``shown`` stands in the log for a line that
        is long; nothing does unless it is to be ``noted``."""
        line = shlex.join(words)
        if tuple(words[: len(SUDO_ASKS)]) == SUDO_ASKS:
            stdin = sudo_password() + "\n" + stdin
        if noted:
            self.note(f"$ {shown or line}")
        try:
            in_stream = _AtOnce(stdin) if stdin else False
            done = self._connection.run(line, timeout=timeout, in_stream=in_stream)
        except InvokeTimedOut:
            raise CommandTimedOut(
                f"{self.host.name}: {words[0]} did not end in {timeout:.0f} s", log=self.log
            ) from None
        except (SSHException, EOFError, OSError, ThreadException) as error:
            raise self._lost(error) from None
        if noted:
            self.note(done.stdout + done.stderr)
        # The same for a program that a signal ended, but not over a connection that is no more.
        if done.exited == -1 and not self._connection.is_connected:
            raise self._lost(EOFError("it ended"))
        completed = Completed(done.exited, done.stdout, done.stderr)
        if check and done.exited:
            raise CommandFailed(
                f"{self.host.name}: {words[0]} ended with {done.exited}",
                done.stderr.strip()[-_QUOTED:],
                log=self.log,
                output=done.stdout,
            )
        return completed

    def put(self, local: Path, there: Path, mode: int = 0o644) -> None:
        """Copy a file, which is there whole or not at all. HostFailed if it cannot be written."""
        part = f"{there}.part"
        self.note(f"put {local} {there}")
        try:
            sftp = self._sftp()
            _send(sftp, local, part)
            sftp.chmod(part, mode)
            sftp.posix_rename(part, str(there))
        except (SSHException, EOFError, TimeoutError) as error:
            raise self._lost(error) from None
        except OSError as error:
            why = error.strerror or str(error)
            raise HostFailed(f"{self.host.name}: cannot write {there}", why, log=self.log) from None

    def get(self, there: Path, local: Path) -> None:
        """Copy a file from there. HostFailed if there is none."""
        self.note(f"get {there}")
        try:
            self._sftp().get(str(there), str(local))
        except (SSHException, EOFError, TimeoutError) as error:
            raise self._lost(error) from None
        except OSError as error:
            what = f"cannot read {self.host.name}:{there}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                what = f"cannot write {local}"
            raise HostFailed(what, error.strerror or str(error), log=self.log) from None

    def _sftp(self) -> paramiko.SFTPClient:
        """Files' own channel; what is asked there has the time of a command."""
        sftp: paramiko.SFTPClient = self._connection.sftp()
        if channel := sftp.get_channel():
            channel.settimeout(TIMEOUT)
        return sftp

    def note(self, text: str) -> None:
        """Write to the host's log."""
        with self.log.open("a") as log:
            log.write(text.rstrip("\n") + "\n" if text else "")

    def reboot(self, become: Sequence[str], timeout: float, hint: str) -> None:
        """Have it reboot (``become``: what makes a command root's), and connect to it again.
        HostFailed, with the hint, if no other boot answers in time, in seconds."""
        before = self._boot_id()
        try:
            self.run([*become, "systemctl", "--no-block", "reboot"])
        except HostFailed:
            pass  # it was that quick, or else the same boot answers until the time is over
        self._until(lambda: self._boot_id() != before, timeout, hint)

    def again(self, timeout: float) -> None:
        """Connect once more, where the connection was lost; HostFailed if it is not possible in
        time, in seconds."""
        self._until(lambda: True, timeout, "run it again when it answers")

    def _until(self, is_it: Callable[[], bool], timeout: float, hint: str) -> None:
        """Connect again and again, until the host that was sought answers."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            time.sleep(_RETRY)
            self._connection.close()
            try:
                self._connection = _connection(self.host)
                _open(self._connection)
                if is_it():
                    return
            except Exception as error:  # of all the ways to be down, none is final
                self.note(f"not yet: {error}")
        raise HostFailed(
            f"{self.host.name} did not come back in {timeout:.0f} s",
            hint=hint,
            log=self.log,
        )

    def _boot_id(self) -> str:
        words = ["cat", "/proc/sys/kernel/random/boot_id"]
        return self.run(words, timeout=CONNECT_TIMEOUT).stdout

    def close(self) -> None:
        """End the connection, and with it whatever waits for it."""
        self._connection.close()

    def _lost(self, error: Exception) -> ConnectionLost:
        return ConnectionLost(
            f"{self.host.name}: the connection was lost",
            str(error) or type(error).__name__,
            "run it again",
            log=self.log,
        )


@contextmanager
def connected(
    host: Host, log: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[Remote]:
    """Connect for the length of the block; HostFailed says why it cannot be reached."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = _connection(host)
    except Exception as error:  # from the parsers of ssh's files
        hint = "look at the name, at ssh_config and at known_hosts"
        raise HostFailed(f"cannot reach {host.name}", str(error), hint) from None
    remote = Remote(host, connection, log, say)
    remote.note(f"# {time.strftime('%F %T')} {host.name}")
    try:
        _open(connection)
    except Exception as error:
        why, hint = _explained(host, connection, error)
        remote.note(why)
        raise HostFailed(f"cannot reach {host.name}", why, hint) from None
    try:
        yield remote
    finally:
        remote.close()


def _connection(host: Host) -> fabric.Connection:
    return connection_to(host.name, os.environ.get("GS_SSH_CONFIG"))


def connection_to(name: str, ssh_config: Path | str | None = None) -> fabric.Connection:
    """One that is not open yet, and takes known hosts only; ``ssh_config`` in the place of the
    user's. Its configuration is its own: a shared one accumulates."""
    config = fabric.Config(runtime_ssh_path=str(ssh_config) if ssh_config else None)
    config["run"].update({"in_stream": False, "hide": True, "warn": True})
    config["connect_kwargs"]["transport_factory"] = _prompt
    connection = fabric.Connection(name, config=config, connect_timeout=CONNECT_TIMEOUT)
    _verify_host_keys(connection)
    return connection


def _open(connection: fabric.Connection) -> None:
    """Connect, so that the end of a host that says nothing more is noticed, too: it may have hung,
    or have been reset. paramiko by itself waits for an hour for a new channel."""
    connection.open()
    connection.transport.set_keepalive(_KEEPALIVE)
    connection.transport.channel_timeout = CONNECT_TIMEOUT


def _prompt(sock: Any, **options: Any) -> paramiko.Transport:
    """One that sends a small packet at once. Else (tcp(7), TCP_NODELAY) it waits until the one
    before is acknowledged, which the host puts off: for 40 ms, with nearly every command."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **options)


def _verify_host_keys(connection: fabric.Connection) -> None:
    """Of the host itself, and of those by way of which it is reached."""
    while isinstance(connection, fabric.Connection):
        client = connection.client
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        own = connection.ssh_config.get("userknownhostsfile", _OWN_KEYS)
        shared = connection.ssh_config.get("globalknownhostsfile", _GLOBAL_KEYS)
        for name in f"{own} {shared}".split():
            path = Path(name).expanduser()
            if path.is_file():
                client.load_system_host_keys(str(path))
        connection = connection.gateway


def _send(sftp: paramiko.SFTPClient, local: Path, there: str) -> None:
    """Copy a file in bursts; whatever a burst could not write is raised by its last byte."""
    with local.open("rb") as source, sftp.open(there, "wb") as target:
        while burst := source.read(_BURST):
            target.set_pipelined(True)
            target.write(burst[:-1])
            target.set_pipelined(False)
            target.write(burst[-1:])


def _explained(host: Host, connection: fabric.Connection, error: Exception) -> tuple[str, str]:
    """Why it could not be reached, and what to do."""
    where = f"{connection.host}:{connection.port}"
    if isinstance(error, socket.gaierror):
        return f"no address for {connection.host}", "look at the name, and at ssh_config"
    if isinstance(error, BadHostKeyException):
        return (
            "its host key is another one than in known_hosts",
            "find out why; if it is right: ssh-keygen -R NAME, then connect with ssh once",
        )
    if isinstance(error, AuthenticationException):
        return (
            f"it does not take {connection.user}: {error}",
            f"try: ssh {host.name} true; keys are taken from the agent and from ssh_config",
        )
    if isinstance(error, SSHException) and "not found in known_hosts" in str(error):
        return "its host key is not known", f"connect once, and compare it: ssh {host.name} true"
    if isinstance(error, ChannelException):
        by = connection.gateway.original_host
        return f"{by} cannot connect to {where}", f"try there, on {by}"
    if isinstance(error, (NoValidConnectionsError, ConnectionError)):
        return f"nothing answers at {where}", "is it up, and does sshd run?"
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"no answer from {where} in {CONNECT_TIMEOUT} s", "is it up? is there a firewall?"
    return str(error) or type(error).__name__, f"try: ssh {host.name} true"

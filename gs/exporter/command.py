"""What the command `gs exporter` does with its options."""

from __future__ import annotations

import os
import signal
import sys

from ..errors import GsError, UsageError
from . import exposition
from .follow import Follower
from .state import default_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

#: container-oomkill's port.
DEFAULT_LISTEN = "127.0.0.1:9262"
#: Seconds between two writings of the file; as often as node_exporter is usually asked.
_REWRITE = 15.0


def run(listen: str | None, once: bool, textfile: str | None, state: str | None) -> None:
    """Print or write the figures once, or keep answering until SIGTERM or SIGINT."""
    if listen is not None and (once or textfile is not None):
        raise UsageError("exporter", "nobody is answered then", "leave --listen out")
    host, port = parse_address(listen or DEFAULT_LISTEN)
    follower = Follower(state or default_directory())
    try:
        if once:
            follower.catch_up(patience=False)
            _write(follower, textfile)
        else:
            _keep_on(follower, textfile, host, port)
    finally:
        follower.close()


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [HOST]:PORT; UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"bad address {text!r}", "it is not HOST:PORT", f"as {DEFAULT_LISTEN}")
    return host.strip("[]"), int(port)


def _write(follower: Follower, textfile: str | None) -> None:
    if textfile is None:
        print(exposition.text(follower), end="")
        return
    try:
        exposition.write_file(follower, textfile)
    except OSError as error:
        raise GsError(f"cannot write {textfile}", error.strerror or "") from None


def _keep_on(follower: Follower, textfile: str | None, host: str, port: int) -> None:
    stop = _stop_descriptor()
    if textfile is None:
        exposition.serve(follower, host, port)
        print(f"gs-oom: answering http://{host}:{port}/metrics", file=sys.stderr, flush=True)
        follower.follow(stop)
    else:
        _write(follower, textfile)
        while not follower.follow(stop, _REWRITE):
            _write(follower, textfile)
    follower.catch_up()


def _stop_descriptor() -> int:
    """Readable when the process is to end."""
    stop, ring = os.pipe()
    os.set_blocking(ring, False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(ring)
    return stop

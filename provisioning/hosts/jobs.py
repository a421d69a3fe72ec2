"""Long programs on a host: started once, followed, and found again by whoever asks for the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from provisioning.errors import CommandTimedOut, ConnectionLost, HostFailed
from provisioning.hosts.remote import Remote

_SCRIPT = Path(__file__).parent / "job.sh"

#: Seconds in which a host whose connection was lost must answer again.
RECONNECT = 600.0

#: How a job stands that has not ended, and one that has without a status; else it is its status.
_RUNS, LOST = "runs", "lost"


def run(
    remote: Remote,
    folder: Path,
    words: Sequence[str],
    on_line: Callable[[str], None],
    become: Sequence[str] = (),
) -> tuple[str, str]:
    """Start it in that directory of the host's, or find it running there, and follow it to its end:
    its exit status, or LOST where it had none, and what it printed on stdout.

    Each line of its stderr goes to ``on_line`` and to the host's log. A connection that is lost is
    made again; the job goes on meanwhile, as it does when this process ends. ``become``: what makes
    a command root's, for a program that is.
    """
    remote.run(["mkdir", "-p", "-m", "700", str(folder)])
    if _job(remote, become, "start", str(folder), *words).strip() == "found":
        _tell(remote, "it runs there already")
    size, rest = 0, ""
    while True:
        stands, size, text = _more(remote, folder, size)
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            remote.note(line)
            on_line(line)
        if stands != _RUNS:
            return stands, _job(remote, become, "out", str(folder))


def stop(remote: Remote, folders: Path, become: Sequence[str]) -> None:
    """End all jobs whose directories are in this one."""
    for name in remote.run(["ls", str(folders)], check=False).stdout.split():
        _job(remote, become, "stop", str(folders / name))


def _more(remote: Remote, folder: Path, size: int) -> tuple[str, int, str]:
    """How it stands, the size of its log, and what is new in it."""
    try:
        said = _job(remote, [], "more", str(folder), str(size), noted=False)
    except (ConnectionLost, CommandTimedOut) as error:
        _tell(remote, f"{error.what}; connecting again")
        remote.again(RECONNECT)
        return _RUNS, size, ""
    head, _, text = said.partition("\n")
    try:
        stands, new_size = head.split()
        return stands, int(new_size), text
    except ValueError:
        raise HostFailed(
            f"{remote.host.name}: a job does not tell how it stands", head, log=remote.log
        ) from None


def _tell(remote: Remote, text: str) -> None:
    """Of the job itself, so that its log does not have it."""
    remote.note(text)
    remote.say(text)


def _job(remote: Remote, become: Sequence[str], *words: str, noted: bool = True) -> str:
    command = [*become, "sh", "-c", _SCRIPT.read_text(), "job.sh", *words]
    return remote.run(command, shown=" ".join(["job.sh", *words]), noted=noted).stdout

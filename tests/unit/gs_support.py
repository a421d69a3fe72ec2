"""What the tests of gs share: recorded kernel files in a directory, and the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]

#: Where no directory can be made.
NO_RUN_DIRECTORY = "/dev/null/run"

#: As a patched kernel of this project prints it.
FEATURES = """\
abi=1
attachment=builtin
version=1
keys=grace_ms
events=grace,done,timeout,failed,averted,gone,kill,lost
wait=in-place
static_usermodehelper=0
reserve_kb=8192
entries=0
count_grace=0
"""

#: The same with every key of the ABI.
FULL_FEATURES = FEATURES.replace("keys=grace_ms", "keys=grace_ms,signal,scope")


def make_procfs(directory: Path, features: str = FEATURES) -> Path:
    """A directory in the place of /proc: the features, and an empty file as the registry.

    What is written to that registry can be read, and nothing more is claimed: how a kernel
    answers is tested in the guest.
    """
    directory.mkdir()
    (directory / "graceful_shutdown").write_text("")
    (directory / "graceful_shutdown_features").write_text(features)
    sysctl = directory / "sys" / "vm"
    sysctl.mkdir(parents=True)
    (sysctl / "graceful_shutdown_max_grace_ms").write_text("30000\n")
    return directory


def environment(procfs: Path | None = None, **more: str) -> dict[str, str]:
    """A small environment for the command, with the kernel's files in another place, and nowhere
    to write a guarded run down."""
    env = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"}
    env["GS_RUN_DIRECTORY"] = NO_RUN_DIRECTORY
    env.update(more)
    env["GS_PROCFS"] = str(procfs or "/nowhere")
    return env


def gs(
    *words: str,
    procfs: Path | None = None,
    cwd: Path | None = None,
    within: Sequence[str] = (),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, with an interpreter that has this checkout alone; by way of
    the command ``within``."""
    start = f"import sys; sys.path.insert(0, {str(REPO)!r}); from gs.cli import main; "
    return subprocess.run(
        [*within, sys.executable, "-S", "-E", "-c", start + "sys.exit(main())", *words],
        env=environment(procfs, **more),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

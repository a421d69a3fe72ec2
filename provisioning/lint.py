"""The gates that code passes before it is tested, by name; the first failure stops."""

from __future__ import annotations

import sys
from pathlib import Path

from provisioning import commands
from provisioning.config import REPO
from provisioning.errors import HostFailed
from provisioning.progress import step

_PYTHON = (sys.executable, "-m")
_VERMIN = str(Path(sys.executable).with_name("vermin"))  # it cannot be run with -m

#: Name → command, run at the top of the checkout.
GATES: dict[str, tuple[str, ...]] = {
    "style": (*_PYTHON, "ruff", "check", "."),
    "format": (*_PYTHON, "ruff", "format", "--check", "."),
    "types": (*_PYTHON, "mypy"),
    "python 3.8": (_VERMIN, "--quiet", "--no-tips", "-t=3.8-", "--violations", "gs"),
    "shell": (
        *("shellcheck", "dev", ".ci/run"),
        *("provisioning/vm/guest/init", "provisioning/hosts/facts.sh"),
    ),
}


def run() -> int:
    """Run every gate; HostFailed with its output at the first that does not pass."""
    for name, command in GATES.items():
        with step(name):
            done = commands.run(command, cwd=REPO, check=False)
            if done.returncode != 0:
                print(done.stdout + done.stderr, end="", file=sys.stderr)
                raise HostFailed(f"the gate {name!r} does not pass", hint="mend what it names")
    return 0

"""Writes at random, most of which must be taken or refused as a whole, for KASAN to look on."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable

from harness import SLOWER, program

WRITES = int(os.environ.get("GS_WRITES", "10000"))
SEED = int(os.environ.get("GS_SEED") or secrets.randbelow(1 << 31) + 1)

#: Seconds for one write, emulated on a busy host, and for all the rest.
ONE, REST = 0.005, 60.0


def test_writes_at_random(record_property: Callable[[str, object], None]) -> None:
    """The program knows what must come of them, and repeats them from the seed."""
    done = subprocess.run(
        [program("write_random"), str(WRITES), str(SEED)],
        capture_output=True,
        timeout=(REST + ONE * WRITES) * SLOWER,
    )
    said = done.stdout.decode(errors="backslashreplace")
    record_property("random writes", said.strip())
    assert done.returncode == 0, f"{said}\n{done.stderr.decode(errors='replace')}"
    assert f"seed={SEED} " in said and " refused=0" not in said

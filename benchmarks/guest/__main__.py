"""Usage: python3 -m benchmarks.guest PART COUNT OF. Writes /out/samples.json.

PART is handlers, oom (handlers, only under OOM), phases, registry, others or backends (see the
modules of these names); COUNT the trials of each kind, or kills; OF what is measured in this boot
and compared with others: a kernel, or a backend.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.guest import backends, handlers, others, phases, registry
from benchmarks.guest.machine import prepare

PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "handlers": handlers.measure,
    "oom": handlers.measure_oom,
    "phases": phases.measure,
    "registry": registry.measure,
    "others": others.measure,
}


def main(part: str, count: int, of: str) -> int:
    """Measure one part."""
    # Or this program is an asker in a global OOM, and waits for the grace like the rest.
    ctypes.CDLL(None).mlockall(1 | 2)  # MCL_CURRENT | MCL_FUTURE
    prepare()
    samples = backends.measure(count, of) if part == "backends" else PARTS[part](count)
    samples["kernel"] = os.uname().release
    samples["processors"] = os.cpu_count()
    samples["memory_kb"] = int(Path("/proc/meminfo").read_text().split()[1])
    Path("/out/samples.json").write_text(json.dumps(samples))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))

"""Which tests a tier has, and how pytest is called for it."""

from __future__ import annotations

import os
import sys

from provisioning import config
from provisioning.errors import UsageError
from provisioning.progress import note

#: What each kind of test needs is in its marker's text in pyproject.toml.
KINDS = ("unit", "patches", "guest", "vm", "host")

#: What is done more often where everything is tested: inputs of the fuzzer (tests/fuzz), writes at
#: random to the registry, loads of the module, events for the exporter, runs of the kernel's own
#: selftests, backends in machines. What takes another architecture's tools. And every way in which
#: a kernel can be bad.
THOROUGH = {
    "GS_FUZZ": "1000000",
    "GS_WRITES": "100000",
    "GS_CYCLES": "1000",
    "GS_EXPORTED": "10000",
    "GS_SELFTEST_RUNS": "3",
    "GS_GUEST_BACKENDS": "all",
    "GS_ARM64": "1",
    "GS_BAD_KERNELS": "all",
}


def run(only: str, everything: bool, count: int) -> int:
    """Become pytest: its closing line is the last one, its exit status ours."""
    if only and only not in KINDS:
        raise UsageError(f"there is no kind of test {only!r}", hint=f"take {', '.join(KINDS)}")
    if only == "host":
        raise UsageError("no host is named", hint="./dev verify --host NAME runs those tests")
    if count < 1:
        raise UsageError("--count must be at least 1")
    _announce_cache()
    os.chdir(config.REPO)
    os.environ["GS_COUNT"] = str(count)
    if everything:
        os.environ["GS_SERIES"] = os.environ["GS_CONFIG"] = "all"
        for name, value in THOROUGH.items():
            os.environ.setdefault(name, value)
    words = ["-m", only] if only else []
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *words])


def _announce_cache() -> None:
    kernels = config.cache_dir() / "kernel-image"
    state = "warm" if kernels.is_dir() and any(kernels.iterdir()) else "cold"
    note(f"the cache is {state}: {config.cache_dir()}")
    for series in config.SERIES:
        own = config.source_from_environment(series)
        if own:
            note(f"sources of {series}: {own}")

"""The figures of the last kill: their names in Prometheus, what they mean, and how a record of a
kill tells them. Names and labels are those of container-oomkill."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Mapping, Optional

    from ..procfile import Value

    Data = Mapping[str, Value]
    #: A figure's value, None where the record cannot tell it.
    Reader = Callable[[Data], Optional[int]]
    Figures = Dict[str, int]

PAGE_SIZE = os.sysconf("SC_PAGESIZE")


def _number(key: str, factor: int = 1) -> Reader:
    def read(data: Data) -> int | None:
        value = data.get(key)
        return value * factor if isinstance(value, int) else None

    return read


def _kb(key: str) -> Reader:
    return _number(key, 1024)


def _swap_kb(own: str, with_memory: str, memory: str) -> Reader:
    """Version 2 of memory cgroups counts swap by itself, version 1 together with memory."""

    def read(data: Data) -> int | None:
        swap, both, alone = data.get(own), data.get(with_memory), data.get(memory)
        if isinstance(swap, int):
            return swap * 1024
        if isinstance(both, int) and isinstance(alone, int):
            return max(both - alone, 0) * 1024
        return None

    return read


def _flags(data: Data) -> int | None:
    value = data.get("flags")
    try:
        return int(value, 16) if isinstance(value, str) else None
    except ValueError:
        return None


def _pinned_pages(data: Data) -> int | None:
    value = data.get("pinned_kb")
    return value * 1024 // PAGE_SIZE if isinstance(value, int) else None


def _uptime_ms(data: Data) -> int | None:
    now, began = data.get("time_ns"), data.get("start_boottime_ns")
    if isinstance(now, int) and isinstance(began, int):
        return (now - began) // 1_000_000
    return None


#: Name behind ``container_oomkills_`` → help, and where it comes from.
FIGURES: dict[str, tuple[str, Reader]] = {
    "page_size_bytes": ("Size of a page", lambda data: PAGE_SIZE),
    "oc_total_bytes": (
        "Memory and swap that the OOM killer divided among the candidates",
        _number("total_pages", PAGE_SIZE),
    ),
    "oc_chosen_points": ("Badness of the process that was chosen, in pages", _number("points")),
    "memory_usage_bytes": ("Memory charged to the victim's cgroup", _kb("mem_kb")),
    "memory_limit_bytes": ("Limit of the victim's cgroup; absent: none", _kb("mem_max_kb")),
    "memory_request_bytes": ("Protected memory (memory.low) of the cgroup", _kb("mem_low_kb")),
    "swap_usage_bytes": (
        "Swap charged to the victim's cgroup",
        _swap_kb("mem_swap_kb", "memsw_kb", "mem_kb"),
    ),
    "swap_limit_bytes": (
        "Limit of the cgroup's swap; absent: none",
        _swap_kb("mem_swap_max_kb", "memsw_max_kb", "mem_max_kb"),
    ),
    "swappiness": ("Inclination to swap, 0 to 200", _number("swappiness")),
    "rss_file_bytes": ("Resident file pages of the victim", _kb("file_kb")),
    "rss_anon_bytes": ("Resident anonymous memory of the victim", _kb("anon_kb")),
    "rss_swapents_bytes": ("Swap used by the victim", _kb("swapents_kb")),
    "rss_shmem_bytes": ("Resident shared memory of the victim", _kb("shmem_kb")),
    "pgtables_bytes": ("Page tables of the victim", _kb("pgtables_kb")),
    "task_size": ("Size of the victim's address space at most, in bytes", _kb("task_size_kb")),
    "hiwater_rss_bytes": ("Most that was ever resident of the victim", _kb("hiwater_rss_kb")),
    "hiwater_vm_bytes": ("Most that the victim ever had mapped", _kb("hiwater_vm_kb")),
    "total_vm_bytes": ("Memory that the victim had mapped", _kb("total_vm_kb")),
    "locked_vm_bytes": ("Memory that the victim had locked", _kb("locked_kb")),
    "pinned_vm": ("Pages of the victim that were pinned", _pinned_pages),
    "data_vm_bytes": ("Private writable mappings, without the stack", _kb("data_kb")),
    "exec_vm_bytes": ("Executable mappings", _kb("exec_kb")),
    "stack_vm_bytes": ("Mappings of stacks", _kb("stack_kb")),
    "oom_score_adj": ("Adjustment of the badness, -1000 to 1000", _number("oom_score_adj")),
    "num_threads": ("Threads of the victim", _number("threads")),
    "min_flt": ("Minor page faults of the victim", _number("minflt")),
    "maj_flt": ("Major page faults of the victim", _number("majflt")),
    "flags": ("PF_ flags of the victim", _flags),
    "prio": ("Priority of the victim", _number("prio")),
    "static_prio": ("Priority of the victim by its nice value", _number("static_prio")),
    "utime": ("Time in user mode, in nanoseconds", _number("utime_ns")),
    "stime": ("Time in the kernel, in nanoseconds", _number("stime_ns")),
    "gtime": ("Time as a guest, in nanoseconds", _number("gtime_ns")),
    "start_time_ns": ("Start of the victim on CLOCK_MONOTONIC", _number("start_time_ns")),
    "start_boottime_ns": ("Start of the victim on CLOCK_BOOTTIME", _number("start_boottime_ns")),
    "uptime_ms": ("Age of the victim when it was killed, in milliseconds", _uptime_ms),
}


def figures_of(data: Data) -> Figures:
    """The figures that a record of a kill can tell."""
    found = {name: read(data) for name, (_, read) in FIGURES.items()}
    return {name: value for name, value in found.items() if value is not None}

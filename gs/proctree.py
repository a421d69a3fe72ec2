"""One reading of /proc: every process with the figures that the OOM killer weighs, and their tree.

What has ended by the time it is read is left out. Three files a process are read where it has
memory of its own, by their raw bytes: ten thousand processes are to take less than a second.
"""

from __future__ import annotations

import os

from .record import Record
from .victims import stat_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Iterator

PAGE = os.sysconf("SC_PAGESIZE")
#: <linux/sched.h>
_PF_EXITING, _PF_KTHREAD = 0x4, 0x200000
#: SIGKILL in the masks of /proc/PID/status.
_KILL_BIT = 1 << 8
#: Of nearly all processes.
_NOTHING_PENDING = b"\nSigPnd:\t%016d\nShdPnd:\t%016d\n" % (0, 0)
#: More than status or stat ever hold; most of what is there comes with one read(2).
_CHUNK = 8192


class Process(Record):
    """A process as it was read: memory in kB, ``score`` as /proc/PID/oom_score has it.

    ``has_memory`` is false of kernel threads and of what has ended and waits for its parent;
    ``is_dying`` tells that SIGKILL is on its way. Source: proc_pid_status(5), proc_pid_stat(5).
    """

    __slots__ = (
        "adj",
        "comm",
        "has_memory",
        "is_dying",
        "is_kernel_thread",
        "pgtables_kb",
        "pid",
        "ppid",
        "rss_kb",
        "score",
        "state",
        "swap_kb",
        "threads",
    )

    def __init__(
        self,
        pid: int,
        ppid: int,
        comm: str,
        state: str = "S",
        threads: int = 1,
        score: int = 0,
        adj: int = 0,
        rss_kb: int = 0,
        swap_kb: int = 0,
        pgtables_kb: int = 0,
        has_memory: bool = True,
        is_kernel_thread: bool = False,
        is_dying: bool = False,
    ) -> None:
        self.pid = pid
        self.ppid = ppid
        self.comm = comm
        self.state = state
        self.threads = threads
        self.score = score
        self.adj = adj
        self.rss_kb = rss_kb
        self.swap_kb = swap_kb
        self.pgtables_kb = pgtables_kb
        self.has_memory = has_memory
        self.is_kernel_thread = is_kernel_thread
        self.is_dying = is_dying

    @property
    def weight(self) -> int:
        """Pages that it holds: resident, in swap, and of page tables."""
        return (self.rss_kb + self.swap_kb + self.pgtables_kb) * 1024 // PAGE


def read(proc: str = "/proc") -> list[Process]:
    """All processes below ``proc``, kernel threads too, in the order of their numbers; OSError if
    there is no such directory."""
    directory = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = []
        for pid in sorted(map(int, filter(str.isdigit, os.listdir(directory)))):
            try:
                found.append(_read_one(directory, pid))
            except (OSError, ValueError, IndexError):
                pass  # it has ended meanwhile
        return found
    finally:
        os.close(directory)


def _read_one(proc: int, pid: int) -> Process:
    status = _bytes_of(proc, f"{pid}/status")
    # What is looked for stands in this order.
    at = status.index(b"\nState:\t")
    comm = _unescaped(status[len(b"Name:\t") : status.index(b"\n")])
    state = chr(status[at + 8])
    parent = status.index(b"\nPPid:\t", at)
    ppid = int(status[parent + 7 : status.index(b"\n", parent + 7)])
    memory = status.find(b"\nVmRSS:", parent)
    threads = _number(status, b"\nThreads:", parent)
    if memory < 0:
        return _without_memory(proc, pid, Process(pid, ppid, comm, state, threads))
    return Process(
        pid,
        ppid,
        comm,
        state,
        threads,
        int(_bytes_of(proc, f"{pid}/oom_score")),
        int(_bytes_of(proc, f"{pid}/oom_score_adj")),
        _number(status, b"\nVmRSS:", memory),
        _number(status, b"\nVmSwap:", memory),
        _number(status, b"\nVmPTE:", memory),
        True,
        False,
        _is_dying(status, memory),
    )


def _without_memory(proc: int, pid: int, found: Process) -> Process:
    """A kernel thread, one that has ended, or one whose first thread alone has."""
    words = _bytes_of(proc, f"{pid}/stat").rpartition(b")")[2].split()
    flags = int(words[6])
    # Without memory and not ending is also what the kernel has made to become a program one day.
    is_ending = found.state in "ZX" or flags & _PF_EXITING
    is_kernel_thread = bool(flags & _PF_KTHREAD) or not is_ending
    adj = int(_bytes_of(proc, f"{pid}/oom_score_adj"))
    found = found.replace(adj=adj, has_memory=False, is_kernel_thread=is_kernel_thread)
    if is_kernel_thread or found.threads < 2:
        return found
    # The kernel takes the memory of any thread: find_lock_task_mm().
    for name in _names_in(proc, f"{pid}/task"):
        status = _bytes_of(proc, f"{pid}/task/{name}/status")
        if b"\nVmRSS:" in status:
            return found.replace(
                has_memory=True,
                score=int(_bytes_of(proc, f"{pid}/oom_score")),
                rss_kb=_number(status, b"\nVmRSS:", 0),
                swap_kb=_number(status, b"\nVmSwap:", 0),
                pgtables_kb=_number(status, b"\nVmPTE:", 0),
                is_dying=_is_dying(status, 0),
            )
    return found


def _names_in(directory: int, name: str) -> list[str]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _bytes_of(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        data = os.read(fd, _CHUNK)
        if len(data) < _CHUNK:
            return data
        return data + _rest_of(fd)
    finally:
        os.close(fd)


def _rest_of(fd: int) -> bytes:
    data = b""
    while block := os.read(fd, 1 << 16):
        data += block
    return data


def _number(status: bytes, key: bytes, start: int) -> int:
    """The number behind a key, without its unit; 0 where there is none (VmSwap without swap)."""
    at = status.find(key, start)
    if at < 0:
        return 0
    at += len(key)
    text = status[at : status.index(b"\n", at)]
    return int(text[:-3] if text.endswith(b" kB") else text)


def _is_dying(status: bytes, start: int) -> bool:
    if status.find(_NOTHING_PENDING, start) >= 0:
        return False
    return any(_mask(status, key, start) & _KILL_BIT for key in (b"\nSigPnd:", b"\nShdPnd:"))


def _mask(status: bytes, key: bytes, start: int) -> int:
    at = status.find(key, start) + len(key)
    return int(status[at : status.index(b"\n", at)], 16) if at >= len(key) else 0


def _unescaped(name: bytes) -> str:
    """The name as it is: status writes newline and backslash as \\n and \\\\."""
    if b"\\" in name:
        name = name.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\0", b"\\")
    return os.fsdecode(name)


# ---------------------------------------------------------------------------- more of a few


def start_time(pid: int, proc: str = "/proc") -> int:
    """When it began, in clock ticks since the boot; 0 if it has ended."""
    words = stat_words(pid, proc)
    return int(words[19]) if len(words) > 19 else 0


def command_line(pid: int, proc: str = "/proc") -> list[str]:
    """Its words; none of a kernel thread, and of what has ended."""
    try:
        with open(f"{proc}/{pid}/cmdline", "rb") as file:
            data = file.read()
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0")] if data else []


def memory_pages(proc: str = "/proc") -> tuple[int, int]:
    """Pages of memory, and of swap, as the kernel counts them: totalram_pages, total_swap_pages.
    Source: proc_meminfo(5)."""
    from .cgroup import read_file

    rows = (line.partition(":")[::2] for line in read_file(f"{proc}/meminfo").splitlines())
    kb = {key: int(value.split()[0]) for key, value in rows if value.split()}
    return kb.get("MemTotal", 0) * 1024 // PAGE, kb.get("SwapTotal", 0) * 1024 // PAGE


# ---------------------------------------------------------------------------- the tree


def in_order(processes: Iterable[Process]) -> Iterator[tuple[int, Process]]:
    """Depth and process, each behind its parent; whose parent is not among them begins a tree."""
    processes = list(processes)
    pids = {one.pid for one in processes}
    children: dict[int, list[Process]] = {}
    for one in processes:
        children.setdefault(one.ppid if one.ppid in pids else 0, []).append(one)
    stack = [(0, one) for one in reversed(children.get(0, []))]
    while stack:
        depth, one = stack.pop()
        yield depth, one
        stack += [(depth + 1, child) for child in reversed(children.get(one.pid, []))]

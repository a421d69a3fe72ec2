"""The only ctypes: system calls that Python 3.8's library lacks.

ctypes is loaded when it is first needed, since it costs memory in processes that stay resident.
"""

from __future__ import annotations

import os

# <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# <asm-generic/unistd.h>, and the same on x86: numbers of later system calls are common to all.
_NR_PIDFD_OPEN = 434
# <asm/unistd.h>, by what uname(2) calls the machine
_NR_KCMP = {"x86_64": 312, "aarch64": 272}
# <linux/kcmp.h>
_KCMP_VM = 1

# <sys/inotify.h>
IN_MODIFY, IN_MOVED_TO, IN_CREATE = 0x2, 0x80, 0x100


def clear_ambient_capabilities() -> None:
    """Drop those that an exec would hand on; OSError where the kernel refuses."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def adopt_orphans(yes: bool) -> None:
    """Whether descendants whose parent has ended become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(yes))


def forbid_new_privileges() -> None:
    """From now on no exec of this process gives it more rights than it has."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def eventfd() -> int:
    """A new eventfd(2): close-on-exec, not blocking."""
    if hasattr(os, "eventfd"):  # Python 3.10
        fd: int = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return fd
    return _call("eventfd", 0, os.O_CLOEXEC | os.O_NONBLOCK)


def pidfd_open(pid: int) -> int:
    """A descriptor that becomes readable when the process ends (Linux 5.3)."""
    if hasattr(os, "pidfd_open"):  # Python 3.9
        fd: int = os.pidfd_open(pid)
        return fd
    return _call("syscall", _NR_PIDFD_OPEN, pid, 0)


def share_memory(first: int, second: int) -> bool | None:
    """Whether two processes have one address space; None where the kernel does not tell: without
    CONFIG_KCMP, or without the right to trace them. Source: kcmp(2)."""
    number = _NR_KCMP.get(os.uname().machine)
    if number is None:
        return None
    try:
        return _call("syscall", number, first, second, _KCMP_VM, 0, 0) == 0
    except OSError:
        return None


def watch_directory(path: str) -> int:
    """A descriptor that is readable when a file in the directory was written, made or renamed."""
    fd = _call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _call("inotify_add_watch", fd, os.fsencode(path), IN_MODIFY | IN_MOVED_TO | IN_CREATE)
    except OSError:
        os.close(fd)
        raise
    return fd


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, value, 0, 0, 0)


def _call(name: str, *arguments: int | bytes) -> int:
    """A function of the C library whose result is negative where it fails."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = getattr(libc, name)(*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

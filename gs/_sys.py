"""The only ctypes: system calls that Python 3.8's library lacks."""

from __future__ import annotations

import ctypes
import os

# <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def clear_ambient_capabilities() -> None:
    """Drop those that an exec would hand on; OSError where the kernel refuses."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def adopt_orphans(yes: bool) -> None:
    """Whether descendants whose parent has ended become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(yes))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_ulong(word) for word in (value, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

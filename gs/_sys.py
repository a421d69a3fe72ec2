"""The only ctypes: system calls that Python 3.8's library lacks."""

from __future__ import annotations

import ctypes
import os

# <linux/prctl.h>
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def clear_ambient_capabilities() -> None:
    """Drop those that an exec would hand on (prctl(2)); OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

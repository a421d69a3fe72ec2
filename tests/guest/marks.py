"""Marks for guest tests of what only some attachments of the core give."""

from __future__ import annotations

import pytest
from harness import features

#: Who waits in place stands in the allocation, where neither a signal nor a tracer reaches it.
needs_fault_end = pytest.mark.skipif(
    features().get("wait") != "fault-end", reason="this kernel's askers wait in place"
)

"""`python -m gs` is the command."""

from __future__ import annotations

import sys

from gs.cli import main

if __name__ == "__main__":
    sys.exit(main())

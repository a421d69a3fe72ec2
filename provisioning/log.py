"""Logging set-up: one logger, plain lines on stderr, nothing configured on import."""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("gs")


def setup(verbose: bool = False) -> None:
    """Send our messages to stderr; calling it again only changes the level."""
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False

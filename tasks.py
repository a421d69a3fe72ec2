"""Invoke tasks: parse options, call provisioning, print the summary. No logic lives here."""

from __future__ import annotations

from typing import Any

from invoke.tasks import task


@task
def lint(context: Any) -> None:
    """Check style and types."""
    context.run("ruff check . && ruff format --check . && mypy", pty=False)

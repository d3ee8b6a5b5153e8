"""Ranks of a torchrun job, read from its environment variables (one process without them)."""

from __future__ import annotations

import os


def rank() -> int:
    """Return this process's rank, 0 outside torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes of the job, 1 outside torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes files and prints."""
    return rank() == 0

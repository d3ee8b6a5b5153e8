"""Floor 8: the command line. Each subcommand parses, calls, prints; the logic lives below.

Subcommands are imported when called, so ``gnn-mtl --help`` loads nothing heavy.
"""

from gnn_mtl.cli._main import main

__all__ = ["main"]

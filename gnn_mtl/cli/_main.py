"""The entry point: find the subcommand, run it, turn typed errors into messages and exit codes."""

from __future__ import annotations

import difflib
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from gnn_mtl import __version__
from gnn_mtl._core.errors import GnnMtlError, GnnMtlWarning

COMMANDS = {
    "demo": "compare joint, single-task and scheduled training on the embedded graph",
    "train": "train one run from a recipe, a run folder or flags",
    "compare": "methods x seeds: mean, spread, paired tests, wins and losses per label",
    "report": "write one self-contained HTML page from run folders",
    "affinity": "measure how the tasks of a trained run help or hurt each other",
    "group": "group the tasks of an affinity file",
    "merge": "make one model of a run of one model per group",
    "data": "list, fetch, make, import, verify and show datasets",
    "bench": "measure this machine: sampler, epoch, schedule, aggregate and more",
    "doctor": "say what is installed, and what is missing for what",
}

HELP = """\
usage: gnn-mtl COMMAND [options]

Which labels should a graph network learn together?

commands:
{commands}

gnn-mtl COMMAND --help shows the options of a command; gnn-mtl --version the version.
Exit codes: 0 done, 2 usage, 3 data, 4 training stopped by a guard, 130/143 interrupted (resumable).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if not argv or argv[0] in ("-h", "--help", "help"):
        rows = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
        print(HELP.format(commands=rows), end="")
        return 0
    if argv[0] in ("-V", "--version", "version"):
        print(f"gnn-mtl {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f" Perhaps you meant `gnn-mtl {near[0]}`." if near else ""
        print(f"gnn-mtl: unknown command {argv[0]!r}.{hint} See gnn-mtl --help.", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("gnn_mtl").setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    warnings.filterwarnings("always", category=GnnMtlWarning)
    try:
        return int(import_module(f"gnn_mtl.cli._{argv[0]}").run(argv[1:]) or 0)
    except GnnMtlError as error:
        print(f"gnn-mtl {argv[0]}: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError as error:
        print(f"gnn-mtl {argv[0]}: no such file: {error.filename or error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"gnn-mtl {argv[0]}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"gnn-mtl {argv[0]}: {error.filename} cannot be used: {error.strerror}. Check its "
            "permissions or choose another place.",
            file=sys.stderr,
        )
        return 3


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    """One plain line for our own warnings; where it came from only for others'."""
    if issubclass(category, GnnMtlWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        print(f"{filename}:{lineno}: {category.__name__}: {message}", file=sys.stderr)

"""Tables in a README, made of records and written between two marks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def between_marks(text: str) -> str:
    """Return what stands between the marks of a README, without blank lines around it."""
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n")


def print_or_write(made: str, readme: str | os.PathLike[str], argv: Sequence[str]) -> int:
    """Print the tables, or with ``--write`` among the arguments put them between the marks.

    Args:
        made: The tables, as Markdown.
        readme: The file that has the marks.
        argv: Arguments of the command line.

    Returns:
        The exit code, 0.
    """
    if "--write" not in argv:
        print(made)  # noqa: T201 - what the script is called for
        return 0
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
    return 0

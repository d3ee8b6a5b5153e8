"""Tables as text: Markdown, aligned plain text, or a rich table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gnn_mtl._core.errors import UsageError
from gnn_mtl.reports._table import Table, format_cell

if TYPE_CHECKING:
    from rich.table import Table as RichTable


def render_table(table: Table, form: Literal["markdown", "text"] = "text") -> str:
    """Write a table as Markdown or as aligned plain text, notes below.

    Raises:
        UsageError: If ``form`` is another word.
    """
    if form not in ("markdown", "text"):
        raise UsageError(f"`form` should be 'markdown' or 'text'. Found {form!r}.")
    heads, body = _strings(table)
    widths = [max(len(line[i]) for line in [heads, *body]) for i in range(len(heads))]
    lines = []
    if form == "markdown":
        lines += [f"**{table.title}**", "", _join(heads, widths, "|")]
        lines.append(
            "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
        )
        lines += [_join([text.replace("|", "\\|") for text in line], widths, "|") for line in body]
        notes = [f"- {note}" for note in table.notes]
    else:
        lines += [table.title, _join(heads, widths, ""), "  ".join("─" * w for w in widths)]
        lines += [_join(line, widths, "") for line in body]
        notes = list(table.notes)
    return "\n".join(line.rstrip() for line in [*lines, "", *notes]).rstrip() + "\n"


def rich_table(table: Table) -> RichTable:
    """Return a table for ``rich.console.Console.print``; its notes are the caption."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(
        title=Text(table.title), caption=Text("\n".join(table.notes)), box=box.SIMPLE_HEAD,
        caption_justify="left", title_justify="left",
    )  # fmt: skip
    heads, body = _strings(table)
    for index, head in enumerate(heads):
        rich.add_column(Text(head), justify="right" if index else "left", no_wrap=index > 0)
    for line in body:
        rich.add_row(*(Text(text) for text in line))
    return rich


def _strings(table: Table) -> tuple[list[str], list[list[str]]]:
    heads = ["method", *(f"{c.title}{' (oracle)' if c.oracle else ''}" for c in table.columns)]
    body = []
    for row in table.rows:
        name = f"{row.method} [{row.remark}]" if row.remark else row.method
        body.append([name, *(format_cell(row.cells.get(c.key), c) for c in table.columns)])
    return heads, body


def _join(texts: list[str], widths: list[int], edge: str) -> str:
    padded = [
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(texts, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |" if edge else "  ".join(padded)

"""Figures as inline SVG: text stays text, colours follow the page, ids never clash.

Matplotlib draws in placeholder colours; :func:`to_svg` turns them into CSS variables, so that one
drawing is right on light, on dark and on paper.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

from gnn_mtl._core.optional import require

INK, MUTED, LINE, SURFACE = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", SURFACE: "--surface"}
METHOD_COLORS = 30  # --m0 and so on in style.css

# Twelve group colours of middle lightness (after Paul Tol's colour-blind safe schemes), readable on
# light and dark; numbers stand beside them wherever they are used.
GROUPS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#ee8866", "#44bb99", "#8877cc", "#997700", "#77aadd", "#bb5566",
)  # fmt: skip
HELPS, HURTS, UNKNOWN = "#3b76c4", "#d1572e", "#9a9a9a"

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def method_color(index: int) -> str:
    """Return the placeholder colour of the method numbered ``index`` (0 is the reference)."""
    return f"#0500{_place(index):02x}"


def method_variable(index: int) -> str:
    """Return the CSS variable of the same colour."""
    return f"var(--m{_place(index)})"


def _place(index: int) -> int:
    """The place among the colours; where they run out, the reference's is not used again."""
    return index if index < METHOD_COLORS else 1 + (index - 1) % (METHOD_COLORS - 1)


def group_color(index: int) -> str:
    """Return the colour of the group numbered ``index``."""
    return GROUPS[index % len(GROUPS)]


def style() -> Any:  # noqa: ANN401
    """Return a context in which every figure of a report is drawn."""
    matplotlib = require("matplotlib", extra="plot", purpose="The report")
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401
    """Return an empty figure of ``width`` x ``height`` inches, without pyplot's global state."""
    module = require("matplotlib.figure", extra="plot", purpose="The report")
    return module.Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Any, name: str, alt: str, tips: Mapping[str, str] | None = None) -> str:  # noqa: ANN401
    """Return the figure as an ``<svg>`` element.

    Args:
        figure: A matplotlib figure.
        name: A word unique on the page; prefixes every id.
        alt: What the figure shows, for readers who do not see it.
        tips: Texts shown on hover, by the gid of an artist.
    """
    buffer = io.StringIO()
    matplotlib = require("matplotlib", extra="plot", purpose="The report")
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A label may be in a script the measuring font lacks; the browser's font draws it.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        figure.savefig(
            buffer,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', text)
    head = (
        f'<svg class="plot" role="img" aria-label="{html.escape(alt)}" viewBox="{box and box[1]}">'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, f"var({variable})")
    text = re.sub(r"#0500([0-9a-f]{2})", lambda found: f"var(--m{int(found[1], 16)})", text)
    for gid, tip in (tips or {}).items():
        mark = f'<g id="{name}-{gid}">'
        text = text.replace(mark, f"{mark}<title>{html.escape(tip)}</title>")
    return text


def short(name: str, width: int = 26) -> str:
    """Return a label name fit for a figure: printable, one line, not longer than ``width``."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= width else clean[: width - 1] + "…"

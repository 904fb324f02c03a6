"""Matplotlib figures as inline SVG that follows the page's light or dark colours.

Figures are drawn in marker colours; in the SVG each becomes a CSS variable, which the style sheet defines twice.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from models.events import Tier

INK: Final = "#0a0001"
MUTED: Final = "#0a0002"
RULE: Final = "#0a0003"
PAPER: Final = "#0a0004"
ACCENT: Final = "#0a0005"
TIER: Final[dict[Tier, str]] = {"green": "#0a0011", "yellow": "#0a0012", "red": "#0a0013"}

_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    ACCENT: "accent",
    TIER["green"]: "green",
    TIER["yellow"]: "yellow",
    TIER["red"]: "red",
}
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, read aloud
    "svg.hashsalt": "demur",  # equal figures give equal bytes
    "text.parse_math": False,  # names come from outside: a dollar is a dollar
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "hatch.color": PAPER,
    "hatch.linewidth": 1.2,
    "figure.constrained_layout.use": True,
}
_NOISE: Final = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>| xmlns(:\w+)?=\"[^\"]*\"", re.DOTALL
)


@contextmanager
def themed() -> Iterator[None]:
    """Draw in the page's style; matplotlib's own settings are back afterwards."""
    with mpl.rc_context(_STYLE):
        yield


def svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an inline SVG element whose ids are its own, and which says in words what it shows."""
    out = StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = _NOISE.sub("", out.getvalue()).replace("xlink:href", "href")
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font:[^;\"]*?(\d[\d.]*px)[^;\"]*", r"font-size: \1", text)
    opening = f'<svg role="img" aria-labelledby="{name}-says" class="chart"'
    says = f'<title id="{name}-says">{escape(description)}</title>'
    return re.sub(r"<svg([^>]*)>", lambda m: f"{opening}{_sized(m[1])}>{says}", text, count=1).strip()


def _sized(attributes: str) -> str:
    """Drop the fixed size: the view box keeps the shape, the page decides the width."""
    return re.sub(r' (width|height|version)="[^"]*"', "", attributes)

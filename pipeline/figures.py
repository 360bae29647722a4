"""What all pictures share: colours, names as text, and the one way a figure becomes a file."""

from __future__ import annotations

import unicodedata
import warnings
from functools import cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.files import atomic_path

DPI = 130

# Okabe and Ito's colours, told apart by the colour-blind too.
BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
INK, GRAY = "#1A1A1A", "#666666"

#: Asked, in this order, for letters that matplotlib's own font lacks. Colour emoji fonts are bitmaps it cannot draw.
FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC",
    "Hiragino Sans", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai", "Nirmala UI", "Noto Emoji",
    "Segoe UI Emoji", "Segoe UI Symbol", "Symbola",
)  # fmt: skip


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, atomically, cut to what is drawn; a letter that no font has becomes a box, unsaid."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not set(text.get_fontfamily()) & {"monospace", "DejaVu Sans Mono"}:
            text.set_fontfamily(list(_families()))
    with atomic_path(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure.savefig(draft, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15, facecolor="white")


def one_line(text: str, width: int) -> str:
    """Returns a name as one line of at most `width` columns that can be drawn, cut in its middle if it is longer.

    Both ends are kept, since names of a folder differ in either. Chinese and other wide letters fill two columns.

    >>> one_line("a class" + chr(10) + "name", 20)
    'a class name'
    >>> one_line("DSC_2024-07-31_holiday_0001.jpg", 15)
    'DSC_202…001.jpg'
    """
    shown = " ".join("".join(map(_drawable, text)).split())
    if _columns(shown) <= width:
        return shown
    head, tail = shown, shown
    while _columns(head) > width // 2:
        head = head[:-1]
    while _columns(tail) > width - 1 - width // 2:
        tail = tail[1:]
    return f"{head}…{tail}"


@cache
def _families() -> tuple[str, ...]:
    """Returns the font families of a text; looked for once, since the search reads the list of fonts."""
    installed = set(font_manager.get_font_names())
    return ("DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed))


def _drawable(letter: str) -> str:
    if letter.isspace() or unicodedata.category(letter) == "Cc":
        return " "
    if unicodedata.category(letter) == "Cs":
        return "\N{REPLACEMENT CHARACTER}"  # a byte that is no UTF-8, on which FreeType's binding raises
    joins = unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"
    return "" if joins else letter  # marks that join emoji or choose their look would be boxes of their own


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)

"""Names and numbers in Markdown: shown as they are, whatever they are made of."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

#: What means something in GitHub's Markdown inside a line, or in HTML; an underscore only at the edge of a word.
_SPECIAL = re.compile(r"[\\`*\[\]<>&|~$@^#{}]|:(?=//|[\w+-]+:)|(?<!\w)_|_(?!\w)|(?<=www)\.", re.IGNORECASE)

#: A name that overrides the direction of writing would mirror the sentence it stands in.
_TURNING = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Raw(str):
    """Text that is Markdown already."""


def escape(name: str) -> Raw:
    r"""Returns a name as Markdown that shows it and does nothing else, in a sentence, a heading or a cell of a table.

    Characters that mean something are written as HTML's numbers, which no reader of Markdown takes for marks.

    >>> escape("a|b<i>`x`")
    'a&#124;b&#60;i&#62;&#96;x&#96;'
    >>> escape("snow_leopard\n# 2")
    'snow_leopard&#92;n&#35; 2'
    """
    plain = "".join(map(_visible, _TURNING.sub("", name)))
    return Raw(_SPECIAL.sub(lambda match: f"&#{ord(match.group())};", plain))


def _visible(character: str) -> str:
    """Returns a character, or its escape where it would end the line or cannot be stored."""
    hidden = unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
    return character.encode("unicode_escape").decode() if hidden else character


def number(value: Any) -> Raw:
    """Returns a number as a reader wants it: shares with three decimals, thousands parted.

    >>> number(0.96654), number(12345), number(269.0), number(None), number(3.2e-07), number(1.0)
    ('0.967', '12,345', '269', 'unknown', '3.2e-07', '1.000')
    """
    if value is None:
        return Raw("unknown")
    if isinstance(value, int) or (value.is_integer() and abs(value) > 1):
        return Raw(f"{value:,.0f}")
    return Raw(f"{value:.3g}" if 0 < abs(value) < 0.0005 else f"{value:,.3f}")

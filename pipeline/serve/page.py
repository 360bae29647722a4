"""The page, put together from its three files, and the policy that lets a browser run nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files

from pipeline.serve.gate import UPLOAD_LIMIT

#: Places in `page.html`.
_STYLE, _SCRIPT, _LIMIT = "/* page.css */", "/* page.js */", "UPLOAD_LIMIT"


@dataclass(frozen=True)
class Page:
    """One HTML document and its Content-Security-Policy (https://www.w3.org/TR/CSP3).

    No text of a model is part of it: the script fetches the contract and sets it as text.
    """

    html: bytes
    policy: str


def build_page() -> Page:
    """Returns the page with its style and script inside; the policy names both by their digests."""
    folder = files("pipeline.serve")
    html, style, script = [
        (folder / f"page.{kind}").read_text(encoding="utf-8").replace(_LIMIT, str(UPLOAD_LIMIT))
        for kind in ("html", "css", "js")
    ]
    policy = [
        "default-src 'none'",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'",
        "img-src blob: data:",  # the images that were dropped, and the icon
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return Page(html.replace(_STYLE, style).replace(_SCRIPT, script).encode(), "; ".join(policy))


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

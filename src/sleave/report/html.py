"""What both pages share: one HTML file that needs nothing else, whose texts can never become markup or script."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def document(title: str, header: str, body: str, data: Mapping[str, Any]) -> str:
    """A page: no request leaves it, and a browser runs no script in it but ours (its policy names ours by its hash).

    Args:
        title: plain text.
        header, body: HTML.
        data: what the script reads.
    """
    style, script = (f"\n{(HERE / name).read_text(encoding='utf-8')}" for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{style}</style></head>\n<body>\n"
        f'<a class="skip" href="#main">Skip to the content</a>\n<header>{header}</header>\n'
        f'<main id="main">\n{body}\n</main>\n<footer><p>Made by sleave.</p></footer>\n'
        f'<script type="application/json" id="data">{as_json(data)}</script>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def as_json(value: Any) -> str:
    """JSON for a script element; without `<`, no text in it can end the script or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def section(name: str, title: str, says: str, content: str, note: str = "") -> str:
    """A part of the page with a heading and a sentence; `content` is HTML, the rest plain text."""
    small = f" <small>{escape(note)}</small>" if note else ""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}{small}</h2>'
        f"<p>{escape(says)}</p>\n{content}</section>"
    )


def links(parts: Mapping[str, str]) -> str:
    """Where to go: titles by the names of sections."""
    items = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in parts.items())
    return f'<nav aria-label="On this page"><ul>{items}</ul></nav>'


def none(says: str) -> str:
    """A sentence in place of something that is not there."""
    return f'<p class="none">{escape(says)}</p>'


def wide(label: str, table: str) -> str:
    """A table that may be wider than the screen: it scrolls by itself, with the keyboard too."""
    return f'<div class="wide" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'

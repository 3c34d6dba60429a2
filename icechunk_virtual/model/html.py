"""Small pieces of HTML for notebooks. Every text is escaped here, and nowhere else is HTML made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_SHOWN = 100
_CELL = ' style="text-align: left; vertical-align: top"'


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html(text: str) -> Html:
    """Text as HTML: escaped, unless it is HTML already."""
    return text if isinstance(text, Html) else Html(escape(text))


def card(title: str, rows: Iterable[tuple[str, str]]) -> Html:
    """A title above names and values; rows without a value are left out."""
    cells = (f"<tr><th{_CELL}>{html(name)}</th><td{_CELL}>{html(value)}</td></tr>" for name, value in rows if value)
    return Html(f"<div><strong>{html(title)}</strong><table>{''.join(cells)}</table></div>")


def lines(texts: Sequence[str]) -> Html:
    """Texts one below the other; of many the first ones, and how many more there are."""
    shown = [html(text) for text in texts[:_SHOWN]]
    if len(texts) > _SHOWN:
        shown.append(Html(f"... {len(texts) - _SHOWN} more"))
    return Html("<br>".join(shown))


def fold(summary: str, content: str) -> Html:
    """Content that is shown on a click."""
    return Html(f"<details><summary>{html(summary)}</summary>{html(content)}</details>")

"""Building blocks of the HTML report: a single file without scripts or network access."""

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_NO_TEXT = re.compile("[^\\t\\n -~\\xa0-\\ud7ff\\ue000-\U0010ffff]")  # control characters and lone surrogates
_STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf8")


def document(title: str, sections: Mapping[str, str]) -> str:
    """Returns a complete page; sections are by heading, and empty ones are omitted."""
    shown = {name: content for name, content in sections.items() if content}
    links = "".join(f'<li><a href="#{_anchor(name)}">{html.escape(name)}</a></li>' for name in shown)
    parts = "".join(
        f'<section aria-labelledby="{_anchor(name)}"><h2 id="{_anchor(name)}">{html.escape(name)}</h2>'
        f"{content}</section>"
        for name, content in shown.items()
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<a class="skip" href="#main">to the content</a><h1>{html.escape(title)}</h1>'
        f'<nav aria-label="sections"><ul>{links}</ul></nav><main id="main">{parts}</main></body></html>\n'
    )
    return _NO_TEXT.sub("\ufffd", page)


def name(text: str) -> str:
    """Returns an escaped name with optional line breaks after dots and slashes and between words."""
    return re.sub(r"(?<=[a-z0-9])([./]|_(?=[a-z]))", r"\1<wbr>", html.escape(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of HTML cells that scrolls on narrow screens."""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(head[0] or "table")}"><table><thead>'
        f"<tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def image(pixels: np.ndarray, described: str, css: str = "", width: int = 0) -> str:
    """Returns an inline image of pixels, uint8 ``[H, W, 3]``."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    size = f' width="{width}"' if width else ""
    content = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img class="{css}"{size} alt="{html.escape(described, quote=True)}" src="data:image/png;base64,{content}">'


def _anchor(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())

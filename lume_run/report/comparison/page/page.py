"""The sweep as one HTML file without network: page.html, page.css and three scripts around compact JSON.

Text of run folders reaches the page only inside that JSON, as text nodes, and inside SVG that matplotlib escaped;
a content security policy lets no other script run than the page's own, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lume_run.report.comparison.page.data import page_data
from lume_run.report.comparison.plots.style import COLOURS, FAINT, GRID, INK, PAPER
from lume_run.report.comparison.run_folders import Collection
from lume_run.report.comparison.summary import Section

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "robustness.js", "panel.js")
CSS_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--soft)",
    GRID: "var(--line)",
    PAPER: "none",
    **{colour: f"var(--c{number})" for number, colour in enumerate(COLOURS)},
}


def render_page(
    title: str, collection: Collection, sections: Sequence[Section], *, figures: Sequence[str], most: int
) -> str:
    """The whole file; `figures` are those of `embed_figure`, `most` prompts a side and run are shown, or fewer."""
    data = page_data(collection, sections, most)
    script = "".join(map(_read_asset, SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    help_text = "Marks are groups: filters above dim those left out, and a click opens one."
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "title": html.escape(title),
        "style": _read_asset("page.css"),
        "charts": "\n".join(figures),
        "plots_told": help_text if figures else "There are none: they need matplotlib (pip install 'lume-run[plots]').",
        "data": embed_json(data),
        "script": script,
    }
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], _read_asset("page.html"))


def _read_asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def embed_json(data: Any) -> str:
    """Compact JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for mark, code in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(mark, code)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written to a file


def embed_figure(name: str, title: str, caption: str, svg: str) -> str:
    """An SVG of matplotlib as part of the page: in its colours, without its own ids, with a title."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(\bid="|url\(#|href="#)(?!group=)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    role = f' role="img" aria-label="{html.escape(title)}"'
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', lambda match: match[1] + role, svg, count=1)
    svg = re.sub("|".join(CSS_VARIABLES), lambda match: CSS_VARIABLES[match[0]], svg)
    svg = re.sub(r"(font: [^;\"]*?)'[^']*'(?:, '[^']*')*(, sans-serif)?", r"\1system-ui, sans-serif", svg)
    text = f"<figcaption><strong>{html.escape(title)}</strong>{html.escape(caption)}</figcaption>"
    return f'<figure id="{name}">{svg}{text}</figure>'

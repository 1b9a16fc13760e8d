"""A hook of MkDocs: formulas become MathML when the site is built, so that no page needs a script from elsewhere."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex makes of $...$ and $$...$$.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas of a page."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(match: re.Match[str]) -> str:
    tag, formula = match.groups()
    if tag == "span":
        return convert(html.unescape(formula))
    return f'<div class="formula">{convert(html.unescape(formula), display="block")}</div>'

"""MkDocs hook that converts formulas to MathML when the site is built, so that pages need no external script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# The output of pymdownx.arithmatex for $...$ and $$...$$.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Return the content of a page with formulas as MathML."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(match: re.Match[str]) -> str:
    tag, formula = match.groups()
    if tag == "span":
        return convert(html.unescape(formula))
    return f'<div class="formula">{convert(html.unescape(formula), display="block")}</div>'

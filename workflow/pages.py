"""What a report shows: words and tables in which nothing that a file or a result says is more than text."""

from collections.abc import Mapping
from html import escape

import pandas as pd
from IPython.display import HTML
from pandas.io.formats.style import Styler

_NO_FORMULAS = 'class="tex2jax_ignore mathjax_ignore"'  # MathJax would make links of \href{javascript:…}


def words(tag: str, *lines: str) -> HTML:
    """Return lines of plain text as an element of a page."""
    return HTML(f"<{tag} {_NO_FORMULAS}>{'<br>'.join(map(escape, lines))}</{tag}>")


def shown(rows: pd.DataFrame, formats: Mapping[str, str] | None = None) -> Styler:
    """Return a table as it stands on a page, its columns in the formats given."""
    style = rows.style.format(formats, na_rep="–", escape="html").format_index(escape="html", axis="columns")
    return style.hide(axis="index").set_table_attributes(_NO_FORMULAS)

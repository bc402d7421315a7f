"""The site's settings. `make docs` runs the lessons first: see build.py."""

import re

project = "decoupled-kit"
copyright = "The decoupled-kit authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "decoupled-kit"
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # build.py has run them, with kit.notebook's strict parameters
nb_merge_streams = True  # the lines of a run's progress are one output
nb_mime_priority_overrides = [("html", "text/html", 0), ("html", "image/png", 1)]  # a figure with its text
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "misc.highlighting_failure"]
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"


def plain(app, what, name, obj, options, lines):
    """Take docstrings as the prose that they are: code in backticks, nothing else is markup."""
    text = "\n".join(lines)
    parts = re.split(r"(`[^`]+`)", text)
    escaped = [f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts]
    lines[:] = "".join(escaped).replace("::\n", ":\n").splitlines()


def setup(app):
    app.connect("autodoc-process-docstring", plain)

"""Sphinx configuration. Built strictly: every warning is an error (`make docs`)."""

import immiscible

project = "immiscible"
author = "The immiscible authors"
copyright = "2026, The immiscible authors"
version = release = immiscible.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def add_what_it_does(app, what, name, obj, options, lines):
    """Couplings say what they do in three attributes, which are shown below their first sentence."""
    if what == "class" and all(isinstance(getattr(obj, text, None), str) for text in ("moves", "law", "cost")):
        first = lines.index("") if "" in lines else len(lines)
        said = (f"| *{text}*: {getattr(obj, text)}" for text in ("moves", "law", "cost"))
        lines[first:first] = ["", *(line.replace("|n|", r"\|n\|") for line in said)]


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", add_what_it_does)


html_theme = "furo"
html_title = f"immiscible {release}"
html_static_path = ["_static"]
html_css_files = ["front.css"]

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

html_theme = "furo"
html_title = f"immiscible {release}"
html_static_path = ["_static"]
html_css_files = ["front.css"]

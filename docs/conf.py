"""Sphinx settings: Markdown sources, the Furo theme."""

project = "flask-aio"
author = "The flask-aio maintainers"
copyright = "2026, The flask-aio maintainers"
version = "0.1"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

maximum_signature_line_length = 88
autodoc_default_options = {"members": True, "member-order": "bysource"}

html_theme = "furo"
html_title = "flask-aio"
html_static_path = ["_static"]
html_css_files = ["site.css"]

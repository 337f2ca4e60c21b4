"""Sphinx settings: Markdown sources, the Furo theme."""

project = "flask-aio"
author = "The flask-aio maintainers"
copyright = "2026, The flask-aio maintainers"
version = "0.1"

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "flask-aio"

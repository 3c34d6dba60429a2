"""How Sphinx builds these pages: `make docs`. Needs no network; every warning is an error there."""

from importlib.metadata import version as version_of

project = "icechunk-virtual"
author = "The icechunk-virtual developers"
version = release = version_of("icechunk-virtual")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "icechunk-virtual"

myst_heading_anchors = 3

default_role = "code"  # docstrings name things in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
napoleon_google_docstring = False
napoleon_use_rtype = False

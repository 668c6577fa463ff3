"""The documentation site: `make docs` writes docs/_build/index.html, which works from a folder and asks nobody else."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project, author, copyright = "cfdg_jax", "The cfdg_jax authors", "the cfdg_jax authors, MIT licence"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "mathml", "field_pages"]
exclude_patterns = ["_build", "_ext", "_static"]
html_static_path, html_css_files = ["_static"], ["site.css"]
html_theme = "furo"
html_title = "cfdg_jax"
html_copy_source = False
html_show_search_summary = False  # a browser may not fetch pages from a folder
default_role = "literal"
smartquotes = False  # an empty string is no pair of quotation marks
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_fence_as_directive = ["math"]  # ```math, which GitHub draws too
myst_heading_anchors = 4
highlight_language = "text"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["myst.header"]


def _as_on_github(app, name, source):
    """Anchors that GitHub reads as HTML are targets here; documents outside this folder are named and not linked."""
    text = re.sub(r'<a id="([\w-]+)"></a>', r"(\1)=", source[0])
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./[\w/.-]+\.md(?:#[\w-]+)?\)", r"\1", text) if "/" not in name else text


def setup(app):
    app.connect("source-read", _as_on_github)

"""Mathematics as MathML, made while the site is built: every current browser draws it, and no script is fetched."""

from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

log, latex = logging.getLogger(__name__), LatexToMathML(fancy_error=False)


def _inline(self, node):
    self.body.append(_convert(node, display=False))
    raise SkipNode


def _display(self, node):
    self.body.append(f'<div class="math">{_convert(node, display=True)}</div>\n')
    raise SkipNode


def _convert(node, display):
    """MathML of a formula; one that is not understood is a warning, which `make docs` takes for an error."""
    try:
        return latex.convert_with_local_state(node.astext(), displaystyle=display)
    except LatexError as error:
        log.warning("%s in the formula %s", error, node.astext(), location=node)
        return ""


def setup(app):
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True}

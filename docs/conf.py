"""Sphinx configuration. What can be written from the code is written from it, at every build (docs/pages.py)."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import pages  # noqa: E402

project = "lmtrace"
copyright = "the lmtrace authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
html_title = "lmtrace"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
suppress_warnings: list[str] = []
if not all((HERE / f"{page}.md").exists() for page in ("models", "benchmarks")):
    suppress_warnings.append("toc.not_readable")  # both are written by runs, and a checkout may lack them

pages.write_all()


class Errors(SphinxDirective):
    """The messages of the modules that it names: ```{errors} text/readers```; `:cure:` is for those without their own."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"cure": directives.unchanged}  # noqa: RUF012  docutils reads it so

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        self.env.note_dependency(str(HERE / "pages.py"))
        return self.parse_text_to_nodes(pages.error_table(self.arguments[0].split(), self.options.get("cure", "")))


def setup(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("errors", Errors)

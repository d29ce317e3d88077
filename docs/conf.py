"""How Sphinx makes the documentation: `make docs`."""

from importlib.metadata import version as version_of

project = "VLQ"
author = "The VLQ authors"
copyright = author
release = version_of("vlq")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
html_theme = "furo"
html_title = "VLQ"
html_show_sphinx = False

myst_heading_anchors = 3
# Blocks of indented text show terminals, Python and JSON alike: none is taken for Python.
highlight_language = "none"
copybutton_prompt_text = "$ "

default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100

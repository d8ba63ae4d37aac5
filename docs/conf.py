"""Settings of the site.

uv run --group docs sphinx-build -W --keep-going docs build/site
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
# E402: these modules are found only with the path above.

import make_reference  # noqa: E402
from numpy.typing import ArrayLike  # noqa: E402
from sphinx.util.typing import stringify_annotation  # noqa: E402

import smile_synth  # noqa: E402

project = "SMILE video"
author = copyright = "The SMILE video developers"
version = release = smile_synth.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "py:obj"
smartquotes = False  # "--" starts an option

html_theme = "furo"
html_title = f"SMILE video {version}"
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 3
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}
autodoc_member_order = "bysource"
autodoc_use_type_comments = False
napoleon_numpy_docstring = False
# Names of attributes as text: as fields, Sphinx would link them to attributes of the same name elsewhere.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
python_maximum_signature_line_length = 90
copybutton_exclude = ".linenos, .gp, .go"

# Types of other libraries, type aliases and names in docstrings that are arguments have no page here.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:class", r"(?!smile_).*"), ("py:exc", r"(?!smile_).*")]

# A private module's class -> the public name under which the reference describes it.
_PUBLIC: dict[str, str] = {}


def _public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a class that is named by its private module to its page, or show it without a link."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(("smile_synth.", "smile_train.")):
        return None
    if target not in _PUBLIC:
        return content
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], _PUBLIC[target], node, content
    )


_ARRAY_LIKE = stringify_annotation(ArrayLike, "smart")
_ARRAY = re.compile(r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[~numpy\.(\w+)\]\]")


def _shorten_types(app: Any, what: str, name: str, value: Any, options: Any, *texts: str | None) -> Any:
    """Show the names ArrayLike and NDArray[uint8] in signatures instead of their long definitions."""
    return tuple(
        text and _ARRAY.sub(r"NDArray[\1]", text.replace(_ARRAY_LIKE, "ArrayLike")) for text in texts
    )


def setup(app: Any) -> None:
    """Write the generated pages and connect the links."""
    make_reference.write_pages(HERE / "generated")
    for module_name, names in make_reference.PUBLIC_NAMES.items():
        module = import_module(module_name)
        for name in names:
            value = getattr(module, name)
            _PUBLIC[f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"] = (
                f"{module_name}.{name}"
            )
    app.connect("autodoc-process-signature", _shorten_types)
    app.connect("missing-reference", _public_name)
    app.connect("source-read", make_reference.rewrite_links)

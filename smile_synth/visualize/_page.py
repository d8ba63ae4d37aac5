"""Jinja templates of the self-contained pages."""

from __future__ import annotations

import jinja2


def page_environment(package: str = "smile_synth.visualize") -> jinja2.Environment:
    """Return the environment of the ``templates`` folder of a package; all of them can extend ``page.html``.

    Text is escaped unless it is `markupsafe.Markup`; an undefined name raises.
    """
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "smile_synth.visualize"))]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

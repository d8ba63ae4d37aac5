"""Self-contained pages from the templates beside the code."""

from __future__ import annotations

import jinja2


def page_environment(package: str = "smile_synth.visualize") -> jinja2.Environment:
    """Return the environment of a package's ``templates`` folder; ``page.html`` is there for all of them.

    Everything is escaped unless it is `markupsafe.Markup`; a name that is not given raises.
    """
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "smile_synth.visualize"))]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

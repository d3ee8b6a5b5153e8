"""``render_page``: one HTML file from a template of this room."""

from __future__ import annotations


def render_page(template: str, **values: object) -> str:
    """Fill a template: everything is escaped, and a name without a value is an error.

    Args:
        template: File name below ``templates``.
        **values: What the template shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gnn_mtl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)

"""Optional dependencies by name, with the install command in the error."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from gnn_mtl._core.errors import MissingExtraError


def is_installed(module: str) -> bool:
    """Return whether ``module`` could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or raise an error that says how to install it.

    Args:
        module: Dotted module name.
        extra: Name of the extra of this package that brings it.
        purpose: What needs it, as the subject of the sentence, e.g. ``"The report"``.

    Raises:
        MissingExtraError: If the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        raise MissingExtraError(
            f"{purpose} needs `{top}`, which is not installed: pip install 'gnn-mtl[{extra}]'"
        ) from error

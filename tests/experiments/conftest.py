"""Experiments as they are run: scripts that import each other from their own folder."""

import importlib
import sys

import pytest


@pytest.fixture(scope="module")
def scripts(request):
    """Import the ``SCRIPTS`` of the module's ``FOLDER``, and leave no trace of it."""
    names = request.module.SCRIPTS
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(request.module.FOLDER))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def table(scripts):
    return scripts["table"]

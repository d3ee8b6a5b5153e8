"""Optional dependencies by name."""

import json

import pytest

from gnn_mtl._core.errors import MissingExtraError, UsageError
from gnn_mtl._core.optional import is_installed, require


def test_what_is_installed():
    assert is_installed("json")
    assert is_installed("os.path")
    assert not is_installed("no_such_module")
    assert not is_installed("no_such_module.below")
    assert not is_installed("json.no_such_module")


def test_require_imports():
    assert require("json", extra="plot", purpose="The test") is json


def test_require_says_how_to_install():
    with pytest.raises(MissingExtraError) as caught:
        require("no_such_module.below", extra="plot", purpose="The plot")
    assert str(caught.value) == (
        "The plot needs `no_such_module`, which is not installed: pip install 'gnn-mtl[plot]'"
    )
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)

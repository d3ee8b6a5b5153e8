"""Gradients as the gradients room hands them over."""

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def observed():
    """Return a function from rows to the object that ``update`` takes."""

    def make(rows, tasks=None, valid=None):
        rows = torch.as_tensor(rows)
        return SimpleNamespace(
            tasks=tuple(range(len(rows))) if tasks is None else tuple(tasks),
            jacobian=rows,
            valid=torch.ones(len(rows), dtype=torch.bool) if valid is None else valid,
        )

    return make

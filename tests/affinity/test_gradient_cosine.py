"""Cosine affinity of gradients that autograd computed."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.affinity import gradient_cosine


def test_golden_quadratics():
    """grouping.md's three tasks: L_i = .5 |s - c_i|^2 at s = 0."""
    centers = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    shared = torch.zeros(2, requires_grad=True)
    rows = []
    for center in centers:
        loss = 0.5 * ((shared - center) ** 2).sum()
        rows.append(torch.autograd.grad(loss, shared)[0])
    affinity = gradient_cosine(torch.stack(rows), label_names=("a", "b", "c"))
    expected = [[1, 0.707107, -1], [0.707107, 1, -0.707107], [-1, -0.707107, 1]]
    np.testing.assert_allclose(affinity.values, expected, atol=1e-6)
    assert (affinity.unit, affinity.symmetric) == ("cosine", True)
    assert affinity.label_names == ("a", "b", "c")


def test_positive_means_that_a_step_for_one_helps_the_other():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    values = gradient_cosine(rows).values
    change = -1e-3 * (rows @ rows.T).numpy()  # of loss j by a step for task i, to first order
    assert (np.sign(values) == -np.sign(change)).all()
    np.testing.assert_allclose(values, cosine_similarity(rows.numpy()), atol=1e-12)


def test_permuting_tasks_permutes_cells_and_unknown_rows_stay_unknown():
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    rows[2] = 0
    order = [3, 2, 5, 0, 1, 4]
    values, moved = gradient_cosine(rows).values, gradient_cosine(rows[order]).values
    np.testing.assert_allclose(moved, values[np.ix_(order, order)], atol=1e-12)
    assert np.isnan(values[2]).all()
    assert (~np.isnan(values)).sum() == 25


def test_wrong_shape():
    with pytest.raises(ShapeError):
        gradient_cosine(torch.zeros(3))

"""Averages of sketches and of products, against averages of gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import GradientEMA
from gnn_mtl.linalg import count_sketch
from gnn_mtl.schedulers._running_affinity import ProductEMA, SketchEMA


def _rows(step, num_tasks=5, width=400):
    return torch.randn(num_tasks, width, generator=torch.Generator().manual_seed(step))


def test_the_average_of_sketches_is_the_sketch_of_the_average(observed):
    plain, sketched = GradientEMA(5, beta=0.7), SketchEMA(5, beta=0.7, sketch_dim=64, seed=4)
    for step in range(6):
        plain.update(observed(_rows(step)))
        sketched.update(observed(_rows(step)))
    torch.testing.assert_close(sketched.mean(), count_sketch(plain.mean(), 64, seed=sketched.seed))
    error = np.abs(sketched.affinity().values - plain.affinity().values)
    assert 0 < error.max() < 5 / np.sqrt(64)


def test_short_gradients_are_not_sketched(observed):
    plain, sketched = GradientEMA(5), SketchEMA(5, sketch_dim=400)
    for each in (plain, sketched):
        each.update(observed(_rows(0)))
    assert torch.equal(plain.mean(), sketched.mean())


def test_one_observation_gives_the_cosines_of_the_gradients(observed):
    plain, products = GradientEMA(5), ProductEMA(5)
    for each in (plain, products):
        each.update(observed(_rows(0)))
    np.testing.assert_allclose(products.affinity().values, plain.affinity().values, atol=1e-6)


def test_products_are_averaged_cell_by_cell_with_their_own_counts(observed):
    products = ProductEMA(3, beta=0.5)
    first, second = _rows(0, 3), _rows(1, 3)
    products.update(observed(first))
    products.update(observed(second[:2], (0, 1)))
    a, b = first.double() @ first.double().T, second.double() @ second.double().T
    mean = (a * 0.25 + b * 0.5) / 0.75
    mean[2], mean[:, 2] = a[2], a[:, 2]
    norm = mean.diagonal().sqrt()
    expected = (mean / norm[:, None] / norm).numpy()
    np.testing.assert_allclose(products.affinity().values, expected, atol=1e-9)
    assert products.ages == [0, 0, 1]
    assert products.affinity().counts[2].tolist() == [1, 1, 1]


def test_a_gramian_may_be_given_instead(observed):
    rows = _rows(0)
    given, computed = ProductEMA(5), ProductEMA(5)
    given.update(
        SimpleNamespace(
            tasks=tuple(range(5)), gramian=rows.double() @ rows.double().T,
            valid=torch.ones(5, dtype=torch.bool),
        )
    )  # fmt: skip
    computed.update(observed(rows))
    np.testing.assert_allclose(given.affinity().values, computed.affinity().values, atol=1e-12)


def test_noise_shrinks_averaged_products_and_not_averaged_gradients(observed):
    """The bias that the module's docstring states: |mu|^2 / (|mu|^2 + sigma^2)."""
    mean = torch.tensor([[1.0, 0.0], [-0.6, 0.8]]).repeat_interleave(50, dim=1) / 50**0.5
    gradient, products = GradientEMA(2, beta=0.98), ProductEMA(2, beta=0.98)
    for step in range(400):
        noise = torch.randn(2, 100, generator=torch.Generator().manual_seed(step)) / 10  # sigma 1
        for each in (gradient, products):
            each.update(observed(mean + noise))
    assert gradient.affinity().values[0, 1] == pytest.approx(-0.6, abs=0.08)
    assert products.affinity().values[0, 1] == pytest.approx(-0.3, abs=0.06)


def test_wrong_input(observed):
    for make in (lambda: ProductEMA(0), lambda: ProductEMA(2, beta=1.0)):
        with pytest.raises(UsageError):
            make()
    with pytest.raises(UsageError, match="sketch_dim"):
        SketchEMA(2, sketch_dim=0)
    products = ProductEMA(2)
    with pytest.raises(UsageError, match="distinct"):
        products.update(observed(_rows(0, 2), (0, 0)))
    with pytest.raises(ShapeError, match="gramian"):
        products.update(observed(_rows(0, 2), (0,)))
    good = products.state_dict()
    other = {**good, "products": {**good["products"], "beta": 0.1}}
    for bad in (other, {k: v for k, v in good.items() if k != "ages"}):
        with pytest.raises(UsageError, match=r"(Gramian|products)"):
            products.load_state_dict(bad)

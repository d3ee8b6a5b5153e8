"""Aligned-MTL: against the singular vectors of the gradients."""

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import AlignedMTL
from gnn_mtl.aggregation._aligned_mtl import aligned_mtl_weights

SCALES = ["min", "median", "rmse"]


def draw(tasks, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, width, generator=generator, dtype=torch.float64)


def weights(jacobian, scale="min", preference=()):
    method = AlignedMTL(norm="native", scale=scale, preference=preference)
    return method.build(len(jacobian)).weights(jacobian @ jacobian.T)


def explicit(jacobian, preference, scale):
    """The mean of the orthogonal polar factor's rows, times the scale: Algorithm 1 by vectors."""
    u, s, v = torch.linalg.svd(jacobian, full_matrices=False)
    u, s, v = u[:, s > 1e-9], s[s > 1e-9], v[s > 1e-9]
    size = {"min": s.min(), "median": s.median(), "rmse": s.square().mean().sqrt()}[scale]
    return size * (preference @ u @ v) / len(preference)


def test_orthogonal_gradients_by_hand():
    # eigenvalues 1, 9, 25: aligned rows have length 1, 3 or sqrt(35 / 3); w_i = length / n_i / 3
    jacobian = torch.diag(torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64))
    for scale, length in zip(SCALES, [1.0, 3.0, (35 / 3) ** 0.5], strict=True):
        wanted = [length / norm / 3 for norm in (1, 3, 5)]
        assert weights(jacobian, scale).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(1, 5), (4, 9), (20, 40), (7, 3)])
def test_equals_the_explicit_form(shape, scale):
    jacobian = draw(*shape, seed=sum(shape))
    found = weights(jacobian, scale) @ jacobian
    assert torch.allclose(found, explicit(jacobian, torch.ones(shape[0]).double(), scale))


@pytest.mark.parametrize("scale", SCALES)
def test_aligned_rows_are_orthogonal_and_equally_long(scale):
    jacobian = draw(6, 11, seed=2)
    rows = torch.stack(
        [aligned_mtl_weights(jacobian @ jacobian.T, 6 * one, scale) @ jacobian
         for one in torch.eye(6, dtype=torch.float64)]
    )  # fmt: skip
    products = rows @ rows.T
    size = products[0, 0]
    assert torch.allclose(products, size * torch.eye(6, dtype=torch.float64), atol=1e-9)
    values = torch.linalg.eigvalsh(jacobian @ jacobian.T)
    wanted = {"min": values.min(), "median": values.median(), "rmse": values.mean()}[scale]
    assert float(size) == pytest.approx(float(wanted))


def test_the_preference_weighs_the_aligned_rows():
    jacobian = draw(4, 9, seed=3)
    preference = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
    found = weights(jacobian, "rmse", tuple(preference.tolist())) @ jacobian
    assert torch.allclose(found, explicit(jacobian, preference / preference.mean(), "rmse"))


def test_antiparallel_gradients_are_finite():
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert weights(jacobian).tolist() == [0.0, 0.0]  # and no noise that could be blown up
    other = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    assert weights(3e5 * other).tolist() == [0.0, 0.0]


def test_agrees_with_torchjd():
    jd = pytest.importorskip("torchjd.aggregation")
    for seed in range(5):
        gramian = (lambda rows: rows @ rows.T)(draw(8, 15, seed))
        for scale in SCALES:
            theirs = jd.AlignedMTLWeighting(scale_mode=scale)(gramian)
            ours = aligned_mtl_weights(gramian, torch.ones(8, dtype=torch.float64), scale)
            assert torch.allclose(ours, theirs, rtol=1e-8)


def test_an_unknown_scale_is_refused():
    with pytest.raises(UsageError, match="min, median, rmse"):
        AlignedMTL(scale="max")

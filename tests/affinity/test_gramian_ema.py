"""Averages of inner products: less memory than averages of gradients, and another bias."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.affinity import GradientEMA, GramianEMA

NAN = float("nan")


def _stream(steps=6, seed=0):
    return torch.randn(steps, 4, 9, generator=torch.Generator().manual_seed(seed)).double()


def test_equals_the_weighted_mean_of_its_history():
    stream = _stream()
    ema = GramianEMA(4, beta=0.8)
    for rows in stream:
        assert ema.update(rows @ rows.T) == (0, 1, 2, 3)
    weights = 0.8 ** torch.arange(5, -1, -1.0, dtype=torch.float64)
    weights = weights / weights.sum()
    expected = torch.einsum("s,sip,sjp->ij", weights, stream, stream)
    torch.testing.assert_close(ema.mean(), expected)
    norms = expected.diagonal().sqrt()
    np.testing.assert_allclose(ema.affinity().values, expected / norms / norms[:, None], atol=1e-12)
    assert (ema.affinity().counts == 6).all()


def test_noise_stays_in_plain_norms_and_not_in_split_halves():
    """Truth -.6; a gradient EMA, a Gramian EMA, and a Gramian EMA of two independent halves."""
    means = torch.zeros(2, 50, dtype=torch.float64)
    means[0, 0], means[1, :2] = 1.0, torch.tensor([-0.6, 0.8])
    rng = torch.Generator().manual_seed(0)

    def draw():
        return means + torch.randn(2, 50, generator=rng, dtype=torch.float64) * (4 / 50) ** 0.5

    plain, halves = GramianEMA(2, beta=0.995), GramianEMA(2, beta=0.995)
    for _ in range(1500):
        a, b = draw(), draw()
        plain.update(a @ a.T)
        halves.update((a @ b.T + b @ a.T) / 2)
    assert plain.affinity().values[0, 1] == pytest.approx(-0.6 / 5, abs=0.04)  # 1 + noise / signal
    assert halves.affinity().values[0, 1] == pytest.approx(-0.6, abs=0.08)


def test_sketches_are_linear_and_go_into_the_gradient_average(observed):
    stream = _stream()
    project = torch.randn(9, 5, generator=torch.Generator().manual_seed(1)).double()
    whole, sketched = GradientEMA(4), GradientEMA(4)
    for rows in stream:
        whole.update(observed(rows))
        sketched.update(observed(rows @ project))
    torch.testing.assert_close(
        sketched.mean(), whole.mean() @ project.float(), atol=1e-5, rtol=1e-5
    )


def test_pairs_keep_their_own_history():
    ema = GramianEMA(3, beta=0.5)
    ema.update(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), tasks=(2, 0))
    ema.update(torch.full((3, 3), 2.0), valid=torch.tensor([True, False, False]))
    broken = torch.eye(3)
    broken[0, 2] = broken[2, 0] = NAN
    ema.update(broken, valid=torch.tensor([True, False, True]))
    assert ema.counts.tolist() == [[3, 0, 1], [0, 0, 0], [1, 0, 2]]
    assert ema.mean()[0, 2] == 0.5
    assert ema.mean()[2, 2] == 1.0
    assert np.isnan(ema.affinity().values[1]).all()
    assert np.isnan(GramianEMA(2).affinity().values).all()


def test_resumes_bit_identical_and_refuses():
    stream = _stream()
    ema, other = GramianEMA(4), GramianEMA(4)
    for rows in stream[:3]:
        ema.update(rows @ rows.T)
    other.load_state_dict(ema.state_dict())
    for rows in stream[3:]:
        ema.update(rows @ rows.T)
        other.update(rows @ rows.T)
    assert torch.equal(ema.mean(), other.mean())
    assert repr(eval(repr(ema))) == repr(ema)  # noqa: S307
    with pytest.raises(UsageError, match="Expected the state"):
        ema.load_state_dict(GramianEMA(4, beta=0.1).state_dict())
    with pytest.raises(UsageError, match="average"):
        ema.load_state_dict({k: v for k, v in ema.state_dict().items() if k != "average"})
    with pytest.raises(ShapeError, match="gramian"):
        ema.update(torch.eye(3))
    with pytest.raises(ShapeError, match="valid"):
        ema.update(torch.eye(4), valid=torch.ones(3, dtype=torch.bool))
    with pytest.raises(UsageError, match="distinct"):
        ema.update(torch.eye(2), tasks=(0, 0))
    with pytest.raises(UsageError, match="beta"):
        GramianEMA(2, beta=1.0)
    with pytest.raises(UsageError, match="at least one task"):
        GramianEMA(0)

"""MGDA: equal gains, stationarity, what the gradients are divided by, and TorchJD."""

import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import MGDA
from gnn_mtl.aggregation._mgda import mgda_weights


def gradients(tasks, width, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, width, generator=draw, dtype=torch.float64)


def weights_of(config, rows, **given):
    return config.build(len(rows)).weights(rows @ rows.T, **given)


@pytest.mark.parametrize("tasks", [1, 3, 20, 112])
def test_all_tasks_gain_the_squared_length_or_more(tasks):
    rows = gradients(tasks, 150, tasks)
    weights = weights_of(MGDA(norm="native"), rows)
    direction = weights @ rows
    excess = rows @ direction - direction @ direction
    assert float(weights.sum()) == pytest.approx(1)
    assert float(excess.min()) > -1e-10
    assert float((excess * weights).abs().max()) < 1e-12


def test_by_hand():
    # (2, 0) and (0, 1): the foot of the origin on the line is (2, 4) / 5
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    weights = weights_of(MGDA(norm="native"), rows)
    assert weights.tolist() == pytest.approx([0.2, 0.8])
    # a gradient behind the shorter one has no say
    rows = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    assert weights_of(MGDA(norm="native"), rows).tolist() == pytest.approx([0, 1])


def test_the_direction_vanishes_where_a_combination_does():
    rows = gradients(5, 12, 0)
    rows[3] = -(2 * rows[0] + rows[1])
    direction = MGDA(norm="native").build(5)(rows)
    assert float(direction.norm()) < 1e-7 * float(rows.norm())
    assert float(MGDA().build(5)(rows).norm()) < 1e-5 * float(rows.norm())  # not blown up


def test_normalized_by_length_the_lengths_do_not_turn_the_direction():
    rows = gradients(6, 30, 1)
    factors = torch.tensor([1e-3, 1.0, 50.0, 0.2, 1e3, 7.0]).double()[:, None]
    config = MGDA(normalize="l2", norm="unit")
    found = config.build(6)(rows)
    assert torch.allclose(config.build(6)(rows * factors), found, atol=1e-9)
    unit = rows / rows.norm(dim=1, keepdim=True)
    gains = unit @ (weights_of(MGDA(normalize="l2", norm="native"), rows) @ rows)
    assert torch.allclose(gains, gains.mean().expand(6), atol=1e-10)  # equal among unit gradients


def test_normalized_by_losses():
    rows, losses = gradients(4, 10, 2), torch.tensor([0.1, 1.0, 4.0, 0.5]).double()
    by_loss = weights_of(MGDA(normalize="loss", norm="native"), rows, losses=losses)
    expected = mgda_weights((rows / losses[:, None]) @ (rows / losses[:, None]).T) / losses
    assert torch.allclose(by_loss, expected)
    both = weights_of(MGDA(normalize="loss_l2", norm="native"), rows, losses=losses)
    scaled = rows / losses[:, None] / rows.norm(dim=1, keepdim=True)
    expected = mgda_weights(scaled @ scaled.T) / losses / rows.norm(dim=1)
    assert torch.allclose(both, expected)
    assert float((rows @ (both @ rows)).min()) > 0
    assert not torch.allclose(by_loss / by_loss.sum(), both / both.sum(), atol=1e-3)
    with pytest.raises(UsageError, match="positive"):
        weights_of(MGDA(normalize="loss"), rows, losses=losses - 1)


def test_no_longer_than_what_the_reference_approaches():
    torchjd = pytest.importorskip("torchjd.aggregation")
    rows = gradients(8, 30, 3)
    gramian = rows @ rows.T
    ours = weights_of(MGDA(norm="native"), rows)
    theirs = torchjd.MGDAWeighting(epsilon=1e-5, max_iters=500)(gramian)
    length, reference = ours @ gramian @ ours, theirs @ gramian @ theirs
    assert float(length) <= float(reference)
    assert float(length) == pytest.approx(float(reference), rel=1e-2)


def test_unknown_normalization_is_refused():
    with pytest.raises(UsageError, match="loss_l2"):
        MGDA(normalize="l1")

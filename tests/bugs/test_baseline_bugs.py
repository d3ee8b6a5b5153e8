"""B13 of SON-GOKU's released code, baselines that are not the published ones, one by one.

Each test computes what the released code does as well, and that it is something else.
"""

import inspect

import pytest
import torch

from gnn_mtl import aggregation
from gnn_mtl.aggregation import FAMO, MGDA, AdaTask, FairGrad, NashMTL, PCGrad
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import SAGE, LabelModel, Linear, masked_bce
from gnn_mtl.training import AggregatorHooks, Optimizers, Train, train_step

BASELINES = {
    "FAMO": "test_famo_compares_two_losses_of_one_batch",
    "FairGrad": "test_fairgrad_is_solved_whatever_the_units_of_the_gradients",
    "NashMTL": "test_nash_is_solved_and_its_weights_need_not_sum_to_1",
    "MGDA": "test_mgda_is_the_shortest_vector_of_two_camps",
    "AdaTask": "test_adatask_corrects_its_bias_once_and_by_the_steps_of_each_task",
    "PCGrad": "test_pcgrad_sums_and_leaves_the_heads_alone",
}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_is_here_and_tested(name):
    assert issubclass(getattr(aggregation, name), aggregation.AggregatorConfig)
    assert f"{name}(" in inspect.getsource(globals()[BASELINES[name]])


def gramian_of(seed, size=6, width=10, spread=1.0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, width, generator=draw, dtype=torch.float64)
    rows *= 10 ** (spread * torch.linspace(-1, 1, size, dtype=torch.float64))[:, None]
    return rows @ rows.T


def test_adatask_corrects_its_bias_once_and_by_the_steps_of_each_task():
    """A constant gradient moves Adam by its rate at every step; corrected twice, tenfold at first.

    Task 4 comes from the fifth step on: counted with the others', its first step would be 0.3.
    """
    adam = AdaTask().build(6)
    gradient = torch.tensor([[5.0, -0.1, 300.0], [2.0, 2.0, -0.01]], dtype=torch.float64)
    for step in range(1, 13):
        tasks = [1] if step < 5 else [1, 4]
        steps = adam.rows(gradient[: len(tasks)], tasks=tasks)
        torch.testing.assert_close(steps, gradient[: len(tasks)].sign(), rtol=1e-4, atol=0)
    twice = 1 / (1 - 0.9) * (1 - 0.9) / (1 - 0.9) * (1 - 0.999) ** 0.5 / (1 - 0.999) ** 0.5
    assert twice == pytest.approx(10)


def test_famo_compares_two_losses_of_one_batch(tiny):
    """What it is told after the step is the loss of the same nodes under the new parameters."""
    torch.manual_seed(0)
    encoder = SAGE(hidden_channels=8, norm="layer", dropout=0.0).build(6)
    model = LabelModel(encoder, Linear().build(8, 5))
    loader = NeighborLoader(tiny, num_neighbors=[4, 4], batch_size=20, seed=1)
    famo = FAMO().build(5)
    told, original = [], famo.observe_after
    famo.observe_after = lambda losses, *, tasks: (
        told.append(losses.clone()), original(losses, tasks=tasks),
    )  # fmt: skip
    optimizers = Optimizers(model, Train(lr=0.1, warmup_steps=0))
    for index in range(2):
        train_step(model, loader.batch(0, index), range(5), optimizers, hooks=AggregatorHooks(famo))
        same, other = (
            masked_bce(model(batch), batch.y, batch.observed, range(5)).detach().double()
            for batch in (loader.batch(0, index), loader.batch(0, 1 - index))
        )
        torch.testing.assert_close(told[-1], same)
        assert not torch.allclose(told[-1], other, rtol=1e-3)
    assert len(told) == 2


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_fairgrad_is_solved_whatever_the_units_of_the_gradients(factor):
    """Gradient steps of 0.1 on G w = w^(-1/2) with G as it is diverge from about |G| = 20."""
    gramian = factor * gramian_of(0, spread=1.0)
    weights = FairGrad(norm="native", alpha=2.0).build(6).weights(gramian)
    gains = (gramian @ weights) * weights.sqrt()
    torch.testing.assert_close(gains / gains.mean(), torch.ones(6).double(), rtol=1e-5, atol=0)
    if factor == 1e12:
        released = torch.full((6,), 1 / 6, dtype=torch.float64, requires_grad=True)
        for _ in range(20):
            loss = (gramian @ released - released.abs().pow(-0.5)).square().sum()
            (slope,) = torch.autograd.grad(loss, released)
            released = (released - 0.1 * slope).detach().requires_grad_()
        assert not released.isfinite().all()


def test_nash_is_solved_and_its_weights_need_not_sum_to_1():
    r"""G w = 1 / w, so the direction has the squared length S; the sum of w is not to be set."""
    gramian = gramian_of(1, spread=0.5)
    weights = NashMTL(norm="native").build(6).weights(gramian)
    torch.testing.assert_close(weights * (gramian @ weights), torch.ones(6).double(), rtol=1e-5,
                               atol=0)  # fmt: skip
    assert float(weights @ gramian @ weights) == pytest.approx(6, rel=1e-5)
    assert abs(float(weights.sum()) - 1) > 0.1


def test_mgda_is_the_shortest_vector_of_two_camps():
    """Projected steps of 1 / max G_ii overshoot: the largest eigenvalue is many times that."""
    camps = torch.ones(20, dtype=torch.float64)
    camps[10:] = -1.0
    gramian = gramian_of(2, size=20, width=30, spread=0.1)
    gramian += 900 * camps[:, None] * camps[None, :]
    assert torch.linalg.eigvalsh(gramian)[-1] > 10 * gramian.diagonal().max()
    weights = MGDA(norm="native").build(20).weights(gramian)
    gains = gramian @ weights
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1)
    assert float(gains.min()) >= float(weights @ gains) * (1 - 1e-9)
    released = torch.full((20,), 1 / 20, dtype=torch.float64)
    for _ in range(100):
        released = _on_simplex(released - gramian @ released / gramian.diagonal().max())
    assert float(released @ gramian @ released) > 2 * float(weights @ gains)


def _on_simplex(point):
    """The nearest point of the simplex (Held, Wolfe and Crowder 1974)."""
    ordered = point.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(point) + 1)
    return (point - excess[ordered > excess][-1]).clamp(min=0)


def test_pcgrad_sums_and_leaves_the_heads_alone(tiny):
    """No conflict: weights of 1, not 1 / S. Heads move as in plain training, whatever it does."""
    assert PCGrad(norm="native").build(9).weights(gramian_of(3).abs()).tolist() == [1.0] * 6
    batch = NeighborLoader(tiny, num_neighbors=[4, 4], batch_size=20, seed=1).batch(0, 0)
    heads, trunks = [], []
    for hooks in (None, AggregatorHooks(PCGrad(norm="native").build(5), mode="full")):
        torch.manual_seed(0)
        model = LabelModel(
            SAGE(hidden_channels=8, norm="layer", dropout=0.0).build(6), Linear().build(8, 5)
        )
        optimizers = Optimizers(model, Train(lr=0.1, warmup_steps=0))
        train_step(model, batch, range(5), optimizers, hooks=hooks)
        heads.append(torch.cat([p.detach().flatten() for p in model.head_parameters()]))
        trunks.append(torch.cat([p.detach().flatten() for p in model.shared_parameters()]))
    torch.testing.assert_close(heads[0], heads[1])
    assert not torch.allclose(trunks[0], trunks[1], rtol=1e-3)

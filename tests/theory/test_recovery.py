"""When the graph of noisy gradients is the graph of true ones (SON-GOKU §5.4), and how it errs.

Enough: every cosine within the margin of its own, for which about
``sigma^2 / (m0^2 margin^2) log(T / delta)`` samples suffice. The larger simulations are in
``experiments/recovery``.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl.affinity import GradientEMA
from gnn_mtl.gradients import TaskGradients
from gnn_mtl.linalg import cosine_of_gramian, cosine_of_rows, unbiased_gramian
from gnn_mtl.tasks import Affinity, conflict_graph


def _two_groups(num_tasks, dim):
    """Unit vectors with cosine .6 inside a group and -.6 across, and the true conflicts."""
    signs = np.where(np.arange(num_tasks) < num_tasks // 2, 1.0, -1.0)
    means = np.zeros((num_tasks, dim))
    cosine = 0.6 * np.outer(signs, signs) + 0.4 * np.eye(num_tasks)
    means[:, :num_tasks] = np.linalg.cholesky(cosine)
    return means, np.outer(signs, signs) < 0


@pytest.mark.parametrize(("beta", "samples"), [(0.0, 5), (0.5, 3), (0.9, 1), (0.9, 19), (0.9, 300)])
def test_an_average_over_time_is_worth_so_many_samples(beta, samples):
    """n_eff = (1 + beta)(1 - beta^n) / ((1 - beta)(1 + beta^n)): one over the sum of its weights'
    squares, read off the average of unit vectors."""
    ema = GradientEMA(1, beta=beta)
    for step in range(samples):
        ema.update(TaskGradients((0,), torch.eye(samples)[step : step + 1], torch.tensor([True])))
    weights = ema.mean()[0].double()
    assert float(weights.sum()) == pytest.approx(1.0)
    past = beta**samples
    expected = (1 + beta) * (1 - past) / ((1 - beta) * (1 + past))
    assert 1 / float(weights.square().sum()) == pytest.approx(expected, rel=1e-5)


def test_cosines_do_not_see_the_bias_correction():
    """Tasks observed for different lengths of time are corrected by different factors."""
    generator = torch.Generator().manual_seed(0)
    ema = GradientEMA(4, beta=0.9)
    for step in range(6):
        rows = torch.randn(4, 7, generator=generator)
        ema.update(TaskGradients((0, 1, 2, 3), rows, torch.arange(4) <= step))
    assert ema.counts == [6, 5, 4, 3]
    weights = torch.tensor([[1 - 0.9**count] for count in ema.counts])
    plain = ema.mean() * weights
    assert not torch.allclose(plain, ema.mean())
    for rows in (plain, ema.mean()):
        np.testing.assert_allclose(cosine_of_rows(rows), ema.affinity().values, atol=1e-6)


@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(0.05, 0.9))
@settings(max_examples=30, deadline=None)
def test_errors_below_the_margin_change_no_edge(seed, tasks, tau):
    rng = np.random.default_rng(seed)
    true = cosine_of_rows(torch.from_numpy(rng.standard_normal((tasks, 4)))).numpy()
    margin = np.abs(true + tau)[np.triu_indices(tasks, 1)].min()
    error = np.triu(rng.uniform(-1, 1, true.shape), 1) * margin * 0.999
    seen = (true + error + error.T).clip(-1, 1)
    assert np.array_equal(
        conflict_graph(Affinity(seen, "cosine"), tau), conflict_graph(Affinity(true, "cosine"), tau)
    )


def test_the_samples_of_the_bound_are_enough_and_a_fifteenth_of_them_too():
    means, truth = _two_groups(40, 100)
    noise, margin = 4.0, 0.35
    bound = noise / margin**2 * np.log(40 / 0.01)
    rng = np.random.default_rng(0)

    def exact(samples):
        drawn = rng.standard_normal(means.shape) * np.sqrt(noise / 100 / samples)
        seen = cosine_of_rows(torch.from_numpy(means + drawn)).numpy()
        return np.array_equal(conflict_graph(Affinity(seen, "cosine"), 0.25), truth)

    assert all(exact(bound) for _ in range(50))
    assert np.mean([exact(bound / 15) for _ in range(50)]) > 0.9  # sufficient, far from necessary


def _halves(samples, noise, shared, rng, dim=2000):
    """Means of two halves of the samples of a pair with cosine -.6, ``[2, 2, dim]``."""
    means = np.zeros((2, dim))
    means[0, 0], means[1, :2] = 1.0, (-0.6, 0.8)
    own, common = rng.standard_normal((2, 2, dim)), rng.standard_normal((2, 1, dim))
    drawn = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    return torch.from_numpy(means + drawn * np.sqrt(noise / dim / (samples / 2)))


def _split_half(halves):
    cross = torch.einsum("asd,btd->asbt", halves, halves)
    return float(cosine_of_gramian(unbiased_gramian(cross, torch.ones(2, 2)))[0, 1])


@pytest.mark.parametrize(
    ("shared", "plain", "spread"), [(0.0, -0.326, 0.04), (0.3, -0.189, 0.05), (0.6, -0.051, 0.06)]
)
def test_noise_shrinks_cosines_correlated_noise_turns_them_and_two_halves_do_neither(
    shared, plain, spread
):
    rng = np.random.default_rng(1)
    drawn = [_halves(19, 16.0, shared, rng) for _ in range(100)]
    averages = [float(cosine_of_rows(halves.mean(dim=0))[0, 1]) for halves in drawn]
    assert np.mean(averages) == pytest.approx(plain, abs=0.015)
    unbiased = [_split_half(halves) for halves in drawn]
    assert np.mean(unbiased) == pytest.approx(-0.6, abs=0.02)
    assert np.std(unbiased) == pytest.approx(spread, abs=0.015)


def test_too_few_samples_give_an_empty_graph_until_a_known_number():
    """Edges of a plain average need n > sigma^2 tau / (m0^2 (|c| - tau)); two halves do not."""
    means, truth = _two_groups(10, 2000)
    noise, tau = 16.0, 0.25
    threshold = noise * tau / (0.6 - tau)  # 11.4
    rng = np.random.default_rng(2)

    def found(samples, *, split):
        drawn = rng.standard_normal((2, *means.shape)) * np.sqrt(noise / 2000 / (samples / 2))
        halves = torch.from_numpy(means + drawn)
        if split:
            cross = torch.einsum("asd,btd->asbt", halves, halves)
            cosine = cosine_of_gramian(unbiased_gramian(cross, torch.ones(2, 10)))
        else:
            cosine = cosine_of_rows(halves.mean(dim=0))
        graph = conflict_graph(Affinity(cosine.numpy(), "cosine"), tau)
        assert not (graph & ~truth).any()
        return graph.sum() / truth.sum()

    assert np.mean([found(threshold / 2, split=False) for _ in range(10)]) < 0.02
    assert np.mean([found(2 * threshold, split=False) for _ in range(10)]) > 0.98
    assert np.mean([found(threshold / 2, split=True) for _ in range(10)]) > 0.98

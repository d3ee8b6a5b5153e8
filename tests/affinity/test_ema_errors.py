"""Standard errors of cosines of averages, against the spread over many equal histories."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import GradientEMA, GramianEMA

TASKS, COPIES, WIDTH = 4, 60, 40
BLOCKS = [slice(TASKS * k, TASKS * (k + 1)) for k in range(COPIES)]
PAIRS = np.triu_indices(TASKS, 1)


def _means():
    """Four mean gradients with cosines of either sign."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((TASKS, WIDTH))
    rows[1] = rows[0] + 0.5 * rows[1]
    rows[2] = -rows[0] + 1.5 * rows[2]
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def _history(steps, sigma, shared=0.0, seed=0):
    """Noisy gradients ``[steps, COPIES * TASKS, WIDTH]``; tasks of a copy share some noise."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((steps, COPIES, TASKS, WIDTH))
    common = rng.standard_normal((steps, COPIES, 1, WIDTH))
    noise = sigma * (np.sqrt(1 - shared) * own + np.sqrt(shared) * common) / np.sqrt(WIDTH)
    return (_means().repeat(COPIES, 1) + torch.from_numpy(noise.reshape(steps, -1, WIDTH))).float()


def _cells(matrix):
    """Cells of the pairs inside each copy, ``[COPIES, pairs]``."""
    return np.stack([matrix[block, block][PAIRS] for block in BLOCKS])


def _said_over_seen(affinity):
    """Errors said over errors seen (the spread over the copies), a number a pair."""
    said = np.sqrt((_cells(affinity.stderr) ** 2).mean(axis=0))
    return said / _cells(affinity.values).std(axis=0, ddof=1)


@pytest.mark.parametrize("shared", [0.0, 0.6])
@pytest.mark.parametrize(("beta", "sigma"), [(0.9, 0.5), (0.9, 1.0), (0.95, 1.0)])
def test_says_how_far_equal_histories_lie_apart(beta, sigma, shared, observed):
    ema = GradientEMA(TASKS * COPIES, beta=beta)
    for rows in _history(60, sigma, shared):
        ema.update(observed(rows))
    ratio = _said_over_seen(ema.affinity())
    assert 0.85 < np.median(ratio) < 1.2  # 60 copies know a spread to 9 %
    assert (ratio > 0.7).all()
    assert (ratio < 1.5).all()


def test_tasks_that_are_never_observed_together(observed):
    ema = GradientEMA(TASKS * COPIES, beta=0.9)
    for step, rows in enumerate(_history(120, 1.0)):
        half = [t for t in range(len(rows)) if (t % TASKS) % 2 == step % 2]
        ema.update(observed(rows[half], half))
    ratio = _said_over_seen(ema.affinity())
    assert (ratio > 0.7).all()
    assert (ratio < 1.5).all()


@pytest.mark.parametrize("sigma", [0.4, 20.0])
def test_where_averages_are_noisy_it_errs_on_the_large_side(sigma, observed):
    ema = GradientEMA(TASKS * COPIES, beta=0.5)
    for rows in _history(60, sigma):
        ema.update(observed(rows))
    ratio = _said_over_seen(ema.affinity())
    assert 1.0 < np.median(ratio) < 2.0
    assert (ratio > 0.8).all()


@pytest.mark.parametrize(("beta", "sigma"), [(0.5, 0.3), (0.9, 1.0)])
def test_products_say_it_too(beta, sigma):
    ema = GramianEMA(TASKS * COPIES, beta=beta)
    for rows in _history(60, sigma):
        wide = rows.double()
        ema.update(wide @ wide.T)
    ratio = _said_over_seen(ema.affinity())
    assert 0.8 < np.median(ratio) < 1.25
    assert (ratio > 0.65).all()
    assert (ratio < 1.5).all()


def test_the_first_observation_says_nothing_and_the_same_again_no_noise(observed):
    rows = _means()
    for scale in (1e-25, 1.0, 1e15):  # products of norms would leave float32
        ema = GradientEMA(TASKS)
        ema.update(observed(rows * scale))
        assert ema.affinity().stderr is None
        ema.update(observed(rows * scale))
        np.testing.assert_allclose(ema.affinity().stderr, 0.0, atol=2e-6)
        ema.update(observed(rows.flip(0) * scale))
        assert (ema.affinity().stderr[PAIRS] > 1e-3).all()


def test_tasks_without_two_observations_are_unknown(observed):
    ema = GradientEMA(TASKS)
    for rows in _history(3, 1.0)[:, :TASKS]:
        ema.update(observed(rows[:2], (0, 2)))
    ema.update(observed(_means()[:1], (1,)))
    errors = ema.affinity().stderr
    assert errors[0, 2] > 0
    assert errors[0, 0] == errors[1, 1] == 0
    assert np.isnan(errors[0, 1])
    assert np.isnan(errors[3]).all()


def test_a_constant_scale_of_a_task_does_not_show(observed):
    plain, scaled = GradientEMA(TASKS), GradientEMA(TASKS)
    factor = torch.tensor([1e-6, 1.0, 1e6, 3.0])[:, None]
    for rows in _history(10, 1.0)[:, :TASKS]:
        plain.update(observed(rows))
        scaled.update(observed(rows * factor))
    np.testing.assert_allclose(
        plain.affinity().stderr, scaled.affinity().stderr, rtol=1e-3, atol=1e-6
    )


def test_they_go_on_after_a_resume(observed):
    history = _history(8, 1.0)[:, :TASKS]
    ema, gramians = GradientEMA(TASKS), GramianEMA(TASKS)
    for rows in history[:5]:
        ema.update(observed(rows))
        gramians.update(rows @ rows.T)
    fresh, again = GradientEMA(TASKS), GramianEMA(TASKS)
    fresh.load_state_dict(ema.state_dict())
    again.load_state_dict(gramians.state_dict())
    for rows in history[5:]:
        for each in (ema, fresh):
            each.update(observed(rows))
        for each in (gramians, again):
            each.update(rows @ rows.T)
    np.testing.assert_array_equal(ema.affinity().stderr, fresh.affinity().stderr)
    np.testing.assert_array_equal(gramians.affinity().stderr, again.affinity().stderr)
    for each, name in ((ema, "errors"), (gramians, "spread")):
        state = each.state_dict()
        del state[name]
        with pytest.raises(UsageError, match="should hold"):
            each.load_state_dict(state)


def test_a_cosine_is_computed_once(observed, monkeypatch):
    import gnn_mtl.affinity._ema as module

    calls = []
    original = module.gradient_cosine
    monkeypatch.setattr(module, "gradient_cosine", lambda a: calls.append(1) or original(a))
    ema = GradientEMA(TASKS)
    for rows in _history(3, 1.0)[:, :TASKS]:
        ema.update(observed(rows))
        ema.affinity()
        ema.affinity()
    assert len(calls) == 3

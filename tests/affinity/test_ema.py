"""``GradientEMA`` against a float64 loop, and its rows that must not move."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from gnn_mtl._core.errors import NonFiniteWarning, ShapeError, UsageError
from gnn_mtl.affinity import GradientEMA
from gnn_mtl.grouping import pair_jaccard, welsh_powell
from gnn_mtl.tasks import conflict_graph

NAN = float("nan")


def _stream(steps, num_tasks=5, num_parameters=7, seed=0):
    return torch.randn(
        steps, num_tasks, num_parameters, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_equals_the_weighted_mean_of_its_history(beta, observed):
    stream = _stream(6)
    ema = GradientEMA(5, beta=beta)
    for rows in stream:
        assert ema.update(observed(rows)) == (0, 1, 2, 3, 4)
    weights = beta ** np.arange(5, -1, -1.0)
    expected = np.einsum("s,stp->tp", weights / weights.sum(), stream.double().numpy())
    np.testing.assert_allclose(ema.mean(), expected, atol=1e-6)
    affinity = ema.affinity()
    np.testing.assert_allclose(affinity.values, cosine_similarity(expected), atol=1e-5)
    assert affinity.counts.tolist() == [[6] * 5] * 5
    assert ema.ages == [0] * 5


def test_beta_0_is_the_last_gradient(observed):
    stream = _stream(3)
    ema = GradientEMA(5, beta=0.0)
    for rows in stream:
        ema.update(observed(rows))
    assert torch.equal(ema.mean(), stream[-1])


def test_the_first_observation_counts_in_full(observed):
    rows = _stream(1)[0]
    ema = GradientEMA(5, beta=0.99)
    ema.update(observed(rows))
    torch.testing.assert_close(ema.mean(), rows)


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.NonFiniteWarning")
@pytest.mark.parametrize("reason", ["zero", "nan", "inf", "invalid", "absent"])
def test_a_row_without_use_leaves_the_average_bitwise_and_ages(reason, observed):
    first, second = _stream(2)
    ema, alone = GradientEMA(5), GradientEMA(5)
    for each in (ema, alone):
        each.update(observed(first))
    valid = torch.ones(5, dtype=torch.bool)
    tasks = [0, 1, 2, 3, 4]
    if reason == "invalid":
        valid[3] = False
    elif reason == "absent":
        tasks.remove(3)
    else:
        second[3, 1:2] = {"zero": 0.0, "nan": NAN, "inf": float("inf")}[reason]
        if reason == "zero":
            second[3] = 0.0
    for _ in range(4):
        ema.update(observed(second[tasks], tasks, valid[tasks]))
        alone.update(observed(second[[0, 1, 2, 4]], (0, 1, 2, 4)))
    assert torch.equal(ema.mean()[3], alone.mean()[3])
    torch.testing.assert_close(ema.mean()[3], first[3])
    assert torch.equal(ema.mean(), alone.mean())
    assert ema.ages == [0, 0, 0, 4, 0]
    assert ema.counts == [5, 5, 5, 1, 5]
    assert ema.skipped[3] == (0 if reason == "absent" else 4)
    assert ema.non_finite[3] == (4 if reason in {"nan", "inf"} else 0)
    assert ema.affinity().counts[3].tolist() == [1] * 5


def test_non_finite_tasks_are_named_once(observed):
    rows = _stream(1)[0]
    rows[1] = NAN
    ema = GradientEMA(5, label_names=("a", "b", "c", "d", "e"))
    with pytest.warns(NonFiniteWarning, match=r"tasks 1 \(b\);"):
        ema.update(observed(rows))
    rows[4, 0] = float("inf")
    with pytest.warns(NonFiniteWarning, match=r"tasks 4 \(e\);"):
        ema.update(observed(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ema.update(observed(rows)) == (0, 2, 3)
    rows[:] = NAN
    with pytest.warns(NonFiniteWarning, match="0, 1, 2, 3, 4, 5, 6, 7 and 4 more"):
        GradientEMA(12).update(observed(torch.full((12, 2), NAN)))


def test_unseen_tasks_are_unknown_not_zero(observed):
    ema = GradientEMA(3)
    assert np.isnan(ema.affinity().values).all()
    ema.update(observed(_stream(1, 2)[0], (2, 0)))
    values = ema.affinity().values
    assert np.isnan(values[1]).all()
    assert np.isnan(values[:, 1]).all()
    assert values[0, 0] == values[2, 2] == 1.0
    assert ema.affinity().counts.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_rows_may_come_in_any_order(observed):
    rows = _stream(1)[0]
    straight, turned = GradientEMA(5), GradientEMA(5)
    straight.update(observed(rows))
    turned.update(observed(rows.flip(0), (4, 3, 2, 1, 0)))
    assert torch.equal(straight.mean(), turned.mean())


def test_cosines_do_not_see_a_constant_positive_scale_of_a_task(observed):
    plain, scaled = GradientEMA(5), GradientEMA(5)
    scale = torch.tensor([1e-3, 1.0, 7.0, 1e4, 0.5])[:, None]
    for rows in _stream(5):
        plain.update(observed(rows))
        scaled.update(observed(rows * scale))
    np.testing.assert_allclose(plain.affinity().values, scaled.affinity().values, atol=1e-5)


def test_half_precision_gradients_are_averaged_in_float32(observed):
    ema = GradientEMA(2)
    ema.update(observed(torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16)))
    assert ema.mean().dtype == torch.float32
    large = GradientEMA(2)
    with pytest.warns(NonFiniteWarning):  # beyond float32
        large.update(observed(torch.tensor([[1e300], [1.0]], dtype=torch.float64)))
    assert large.counts == [0, 1]


def test_resumes_bit_identical_in_a_fresh_object(observed):
    stream = _stream(8)
    ema = GradientEMA(5)
    for rows in stream[:4]:
        ema.update(observed(rows, valid=torch.tensor([True, True, True, False, True])))
    state = ema.state_dict()
    fresh = GradientEMA(5)
    fresh.load_state_dict(state)
    for rows in stream[4:]:
        ema.update(observed(rows))
        fresh.update(observed(rows))
    assert torch.equal(ema.mean(), fresh.mean())
    np.testing.assert_array_equal(ema.affinity().values, fresh.affinity().values)
    for name in ("counts", "ages", "skipped", "non_finite"):
        assert getattr(ema, name) == getattr(fresh, name)
    assert state["counts"] == [4, 4, 4, 0, 4]  # the state is a copy


def test_state_before_the_first_update_and_states_of_others():
    ema = GradientEMA(2)
    ema.load_state_dict(GradientEMA(2).state_dict())
    state = GradientEMA(2).state_dict()
    for change in ({"num_tasks": 3}, {"beta": 0.5}):
        with pytest.raises(UsageError, match="Expected the state"):
            ema.load_state_dict({**state, **change})
    for change in ({"counts": [1]}, {"average": torch.zeros(3, 1)}, {"average": torch.zeros(2)}):
        with pytest.raises(UsageError, match="one entry a task"):
            ema.load_state_dict({**state, **change})
    del state["ages"]
    with pytest.raises(UsageError, match="ages"):
        ema.load_state_dict(state)


def test_repr_builds_it_again():
    ema = GradientEMA(2, beta=0.5, label_names=("a", "b"))
    again = eval(repr(ema))  # noqa: S307
    assert repr(again) == repr(ema)


def test_wrong_input(observed):
    for beta in (1.0, -0.1, NAN):
        with pytest.raises(UsageError, match="beta"):
            GradientEMA(2, beta=beta)
    with pytest.raises(UsageError, match="at least one task"):
        GradientEMA(0)
    with pytest.raises(ShapeError, match="label_names"):
        GradientEMA(2, label_names=("a",))
    ema = GradientEMA(2)
    with pytest.raises(UsageError, match="call update"):
        ema.mean()
    ema.update(observed(torch.ones(2, 3)))
    with pytest.raises(ShapeError, match="3 entries"):
        ema.update(observed(torch.ones(2, 4)))
    with pytest.raises(ShapeError, match="one row a task"):
        ema.update(observed(torch.ones(2, 3), (0,)))
    with pytest.raises(ShapeError, match="P >= 1"):
        GradientEMA(2).update(observed(torch.ones(2, 0)))
    for tasks in ((0, 0), (0, 2), (-1, 0)):
        with pytest.raises(UsageError, match="distinct ids"):
            ema.update(observed(torch.ones(2, 3), tasks))


def _recovered(samples, *, noise, trials, observed, beta=0.9999):
    """Share of trials with the exact edges, and with the exact partition, after ``samples``.

    SON-GOKU T5: 40 tasks in two groups, cosine .6 inside and -.6 across, |mean| = 1 and
    E|noise|^2 = ``noise``; ``beta`` near 1 makes the average a plain mean. The table does not state
    the number of parameters; at 100 its numbers come out.
    """
    num_tasks, num_parameters = 40, 100
    signs = torch.ones(num_tasks)
    signs[num_tasks // 2 :] = -1
    gramian = 0.6 * torch.outer(signs, signs) + 0.4 * torch.eye(num_tasks)
    means = torch.zeros(num_tasks, num_parameters)
    means[:, :num_tasks] = torch.linalg.cholesky(gramian)
    truth = torch.outer(signs, signs).numpy() < 0
    groups = [tuple(range(20)), tuple(range(20, 40))]
    edges_right = groups_right = 0
    for trial in range(trials):
        generator = torch.Generator().manual_seed(trial)
        ema = GradientEMA(num_tasks, beta=beta)
        for _ in range(samples):
            drawn = torch.randn(num_tasks, num_parameters, generator=generator)
            ema.update(observed(means + drawn * (noise / num_parameters) ** 0.5))
        edges = conflict_graph(ema.affinity(), 0.25)
        edges_right += np.array_equal(edges, truth)
        groups_right += pair_jaccard(welsh_powell(edges), groups) == 1.0
    return edges_right / trials, groups_right / trials


def test_recovery_needs_the_samples_the_simulation_says(observed):
    _, few_groups = _recovered(4, noise=4.0, trials=20, observed=observed)
    few_edges, _ = _recovered(8, noise=4.0, trials=20, observed=observed)
    many_edges, _ = _recovered(16, noise=4.0, trials=20, observed=observed)
    assert few_edges <= 0.2  # .01 over 200 trials
    assert many_edges >= 0.8  # .99
    assert few_groups == 1.0  # the partition comes four times earlier


def test_too_little_history_gives_an_empty_graph_not_a_noisy_one(observed):
    """Noise shrinks a cosine to c / (1 + noise / n_eff): -.6 becomes -.326 at noise 16, n = 19."""
    rng = torch.Generator().manual_seed(0)
    means = torch.zeros(2, 2000)
    means[0, 0] = 1.0
    means[1, :2] = torch.tensor([-0.6, 0.8])

    def found(steps, beta):
        ema = GradientEMA(2, beta=beta)
        for _ in range(steps):
            drawn = torch.randn(2, 2000, generator=rng) * (16 / 2000) ** 0.5
            ema.update(observed(means + drawn))
        return ema.affinity().values[0, 1]

    assert np.mean([found(19, 0.9999) for _ in range(40)]) == pytest.approx(-0.326, abs=0.02)
    assert np.mean([found(150, 0.9) for _ in range(10)]) == pytest.approx(-0.326, abs=0.03)
    assert np.mean([found(1, 0.9) for _ in range(40)]) == pytest.approx(-0.6 / 17, abs=0.02)

"""Cross-learning: the projection against a solver, its limits, and trunks held together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from gnn_mtl._core.errors import NonFiniteWarning, ShapeError, UsageError
from gnn_mtl.nn import SAGE, LabelModel, Linear, exact_logits
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    CrossLearning,
    Optimizers,
    cross_learn,
    evaluate_groups,
    group_logits,
    project_to_center,
    train_step,
    training_loader,
)

T = 5
GROUPS = Grouping.of([[0, 3], [1, 2, 4]], T)


def points(number, width, seed):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(number, width, generator=g, dtype=torch.float64),
        torch.randn(width, generator=g, dtype=torch.float64),
    )


@given(
    number=st.integers(1, 5), width=st.integers(1, 6), seed=st.integers(0, 999),
    radius=st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_projection_is_the_nearest_feasible_point(number, width, seed, radius):
    """Against a quasi-Newton search over the centre; given it, each point has a closed form."""
    vectors, center = points(number, width, seed)
    found, moved = project_to_center(vectors, center, radius)
    apart = (found - moved).norm(dim=1)
    assert (apart <= radius * (1 + 1e-6) + 1e-9).all()

    def cost(c):
        distance = np.linalg.norm(vectors.numpy() - c, axis=1)
        return ((c - center.numpy()) ** 2).sum() + (np.maximum(distance - radius, 0) ** 2).sum()

    def gradient(c):
        delta = c - vectors.numpy()
        distance = np.linalg.norm(delta, axis=1, keepdims=True)
        pull = np.maximum(distance - radius, 0) / np.maximum(distance, 1e-300)
        return 2 * (c - center.numpy()) + 2 * (pull * delta).sum(0)

    best = minimize(cost, center.numpy(), jac=gradient, options={"gtol": 1e-10})
    ours = float(((found - vectors) ** 2).sum() + ((moved - center) ** 2).sum())
    assert ours <= best.fun * (1 + 1e-7) + 1e-9
    np.testing.assert_allclose(moved, best.x, atol=1e-4)
    again, still = project_to_center(found, moved, radius * (1 + 1e-9) + 1e-12)
    torch.testing.assert_close(again, found, atol=1e-7, rtol=0)
    torch.testing.assert_close(still, moved, atol=1e-7, rtol=0)


def test_limits():
    vectors, center = points(4, 7, 0)
    same, at = project_to_center(vectors, center, 0.0)
    mean = torch.cat([vectors, center[None]]).mean(0)
    torch.testing.assert_close(at, mean)
    torch.testing.assert_close(same, mean.expand(4, 7))
    for radius in (100.0, float("inf")):
        free, stays = project_to_center(vectors, center, radius)
        assert torch.equal(free, vectors)
        assert torch.equal(stays, center)


def test_conditions_of_the_paper():
    """lambda_m = w_m: g+ = (g + sum lam theta) / (1 + sum lam), theta+ on the sphere if lam > 0."""
    vectors, center = points(6, 4, 3)
    found, moved = project_to_center(vectors, center, 0.8)
    lam = torch.clamp(1 - 0.8 / (vectors - moved).norm(dim=1), min=0)
    torch.testing.assert_close(
        moved, (center + (lam[:, None] * vectors).sum(0)) / (1 + lam.sum()), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(found, (1 - lam[:, None]) * vectors + lam[:, None] * moved)
    assert int((lam > 0).sum()) > 0


def test_single_precision():
    vectors, center = points(3, 2000, 1)
    found, moved = project_to_center(vectors.float(), center.float(), 0.05)
    assert found.dtype == moved.dtype == torch.float32
    torch.testing.assert_close(
        (found - moved).norm(dim=1), torch.full((3,), 0.05), rtol=1e-3, atol=0
    )


@pytest.fixture
def models(new_model):
    return [new_model() for _ in GROUPS.groups]


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.5])
def test_trunks_stay_within_the_radius(tiny, models, budget, radius):
    start = torch.cat([p.detach().flatten() for p in models[0].shared_parameters()]).norm()
    random_state = torch.get_rng_state()
    done = cross_learn(models, tiny, GROUPS, budget(), CrossLearning(radius=radius), seed=1)
    assert torch.equal(torch.get_rng_state(), random_state)
    trunks = [torch.cat([p.detach().flatten() for p in m.shared_parameters()]) for m in models]
    apart = float((trunks[0] - trunks[1]).norm())
    assert apart <= 2 * radius * float(start) * (1 + 1e-4) + 1e-6
    if radius == 0.02:
        np.testing.assert_allclose(done.distances, 1.0, rtol=1e-3)  # the constraint is active
    assert evaluate_groups(models, GROUPS, tiny, "valid").macro == done.valid
    assert done.cost.steps == 2 * 12
    assert done.cost.label_gradients == 12 * T


def test_no_radius_is_one_training_per_group(tiny, models, new_model, budget):
    """Without dropout, each model is exactly what its group's own steps make of it."""
    models = [new_model(dropout=0) for _ in GROUPS.groups]
    config = budget(epochs=1, lr_schedule="constant", warmup_steps=0)
    cross_learn(models, tiny, GROUPS, config, CrossLearning(radius=float("inf")), seed=4)
    from gnn_mtl._core.seeding import derive_seed

    for model, group in zip(models, GROUPS.groups, strict=True):
        alone = new_model(dropout=0)
        alone.train()
        loader = training_loader(tiny, alone, config, seed=derive_seed(4, "batches"))
        optimizers = Optimizers(alone, config)
        for batch in loader.epoch_batches(0):
            train_step(alone, batch, group, optimizers)
        assert all(
            torch.equal(a, b)
            for a, b in zip(alone.state_dict().values(), model.state_dict().values(), strict=True)
        )


def test_one_broken_head_does_not_end_it(tiny, models, budget):
    """The mean that chooses takes it as 0; the scores leave it out."""
    with torch.no_grad():
        models[0].heads.weight[3, 0] = torch.nan
    with pytest.warns(NonFiniteWarning) as warned:
        done = cross_learn(models, tiny, GROUPS, budget())
    assert len([w for w in warned if "score of 1 task(s)" in str(w.message)]) == 1
    assert done.cost.skipped_scores == 3
    assert done.cost.skipped_losses == 12
    with pytest.warns(NonFiniteWarning, match="task_3"):
        found = evaluate_groups(models, GROUPS, tiny, "valid")
    assert found.macro == done.valid
    assert np.isnan(found.per_label["ap"]).tolist() == [False, False, False, True, False]


def test_bfloat16_reaches_the_steps(tiny, models, new_model, budget):
    cross_learn(models, tiny, GROUPS, budget(autocast="bf16"), seed=1)
    single = [new_model() for _ in models]
    cross_learn(single, tiny, GROUPS, budget(), seed=1)
    assert not torch.equal(models[0].heads.weight, single[0].heads.weight)


@pytest.mark.parametrize("radius", [0.5, float("inf")])
def test_a_step_has_one_projection_at_most(tiny, models, budget, radius, monkeypatch):
    import gnn_mtl.training._cross_learning as module

    calls, original = [], module.project_to_center
    monkeypatch.setattr(
        module, "project_to_center", lambda *args: calls.append(1) or original(*args)
    )
    cross_learn(models, tiny, GROUPS, budget(), CrossLearning(radius=radius))
    assert len(calls) == (12 if radius == 0.5 else 0)


def test_logits_come_from_the_tasks_own_model(tiny, models):
    groups = Grouping.of([[0, 3], [1, 2, 3, 4]], T)
    with torch.no_grad():
        models[1].heads.bias += 100.0
    nodes = np.array([3, 0, 41])
    found = group_logits(models, groups, tiny, nodes)
    for task, owner in enumerate([0, 1, 1, 0, 1]):
        own = exact_logits(models[owner], tiny, nodes)
        np.testing.assert_array_equal(found[:, task], own[:, task])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CrossLearning(radius=-1), UsageError, "radius"),
        (lambda: CrossLearning(every=0), UsageError, "every"),
        (lambda: project_to_center(torch.ones(2, 3), torch.ones(2), 1.0), ShapeError, "P"),
        (lambda: project_to_center(torch.ones(2, 3), torch.ones(3), -1.0), UsageError, "negative"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_models(tiny, models, budget):
    with pytest.raises(UsageError, match="one per group"):
        cross_learn(models[:1], tiny, GROUPS, budget())
    with pytest.raises(UsageError, match="one per group"):
        evaluate_groups(models[:1], GROUPS, tiny, "valid")
    wide = LabelModel(SAGE(hidden_channels=9).build(6), Linear().build(9, T))
    with pytest.raises(ShapeError, match="one shape"):
        cross_learn([models[0], wide], tiny, GROUPS, budget())

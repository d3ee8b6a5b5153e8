"""ForkMerge: the search by brute force, harmful auxiliaries left out exactly, rows of heads."""

import itertools

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import NonFiniteWarning, UsageError
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.training import (
    ForkMerge,
    Skipped,
    evaluate_split,
    fit,
    fork_merge,
    merge_branches,
    search_merge,
)
from gnn_mtl.training._rounds import valid_score

T = 5
GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
GROUPS = ((0, 3), (1, 2, 4))


@pytest.mark.parametrize("best", [0.0, 0.25, 0.5, 1.0])
def test_two_branches_are_a_search_over_lambda(best):
    seen = []

    def score(shares):
        seen.append(shares)
        assert np.isclose(shares.sum(), 1)
        return -((shares[1] - best) ** 2)

    shares, value, alone = search_merge(score, 2, GRID)
    np.testing.assert_allclose(shares, [1 - best, best])
    assert value == 0.0
    np.testing.assert_allclose(alone, [-(best**2), -((1 - best) ** 2)])
    assert len(seen) == 2 + 3  # shares 0 and 1 are the branches themselves


def test_more_branches_are_merged_greedily():
    """By hand: branch 2 is best; branch 0 helps with 1/2; then branch 1 with nothing."""
    table = {(0, 0, 1): 3.0, (1, 0, 0): 2.0, (0, 1, 0): 1.0, (0.5, 0, 0.5): 4.0}
    found = search_merge(lambda s: table.get(tuple(s), 0.0), 3, GRID)
    assert found[0].tolist() == [0.5, 0.0, 0.5]
    assert found[1] == 4.0
    assert found[2].tolist() == [2.0, 1.0, 3.0]


def test_the_greedy_merge_is_never_below_the_best_branch():
    rng = np.random.default_rng(0)
    for _ in range(30):
        target = rng.dirichlet(np.ones(4))

        def score(shares, target=target):
            return -float(((shares - target) ** 2).sum())

        shares, value, alone = search_merge(score, 4, GRID)
        assert np.isclose(value, score(shares))
        assert value >= alone.max()
        everything = [
            score(np.array(s) / sum(s)) for s in itertools.product(range(5), repeat=4) if sum(s)
        ]
        assert value <= max(everything) + 0.05


def test_nan_and_ties_keep_the_first_branch():
    assert search_merge(lambda s: 1.0, 3, GRID)[0].tolist() == [1, 0, 0]
    found = search_merge(lambda s: np.nan if s[0] == 1 else s[1], 2, GRID)
    assert found[0].tolist() == [0, 1]


def test_rows_are_merged_among_those_who_train_them():
    states = [
        {"trunk": torch.full((2,), float(b)), "head": torch.full((3, 1), 10.0 * (b + 1))}
        for b in range(3)
    ]
    found = merge_branches(states, [0.5, 0.5, 0.0], [(0,), (0, 1), (2,)], {"head"})
    assert found["trunk"].tolist() == [0.5, 0.5]
    assert found["head"].flatten().tolist() == [15.0, 20.0, 30.0]  # nobody else trains 2
    states[0]["head"][0] += 1  # the others hold copies
    assert found["head"][0] == 15.0


def test_overlapping_rows_are_merged_task_by_task():
    """Against the mean written out for each task, bit for bit."""
    g = torch.Generator().manual_seed(0)
    states = [
        {"trunk": torch.randn(3, generator=g), "w": torch.randn(6, 2, generator=g),
         "b": torch.randn(6, generator=g)}
        for _ in range(3)
    ]  # fmt: skip
    tasks_of, shares = [(0, 1, 2), (1, 2, 3), (3, 4)], [0.3, 0.7, 0.0]
    found = merge_branches(states, shares, tasks_of, {"w", "b"})
    for name in ("w", "b"):
        for task in range(6):
            held = [b for b in range(3) if task in tasks_of[b]] or [0, 1, 2]
            weights = np.array([shares[b] for b in held])
            weights = weights / weights.sum() if weights.any() else np.full(len(held), 1.0)
            pairs = [
                (states[b][name][task].double(), w) for b, w in zip(held, weights, strict=True) if w
            ]
            expected = sum(value * float(w) for value, w in pairs).float()
            assert torch.equal(found[name][task], expected)


def test_a_branch_that_breaks_heads_is_not_better_for_it(new_model, make_graph, budget):
    """Its mean over the only label left would beat every mean over all of them."""
    graph, model = make_graph(), new_model()
    fit(model, graph, JointScheduler(T), budget())
    scores = evaluate_split(model, graph, "valid")
    best = int(np.nanargmax(scores.per_label["ap"]))
    others = [task for task in range(T) if task != best]
    with torch.no_grad():
        model.heads.weight[others, 0] = torch.nan
    skipped = Skipped()
    with pytest.warns(NonFiniteWarning):
        left = valid_score(model, graph, budget(), skipped=skipped)
    assert left == pytest.approx(scores.per_label["ap"][best] / T)
    assert valid_score(model, graph, budget(), others, skipped=skipped) == 0.0
    assert valid_score(model, graph, budget(), [best], skipped=skipped) == pytest.approx(T * left)


def test_what_is_not_finite_is_counted(tiny, new_model, budget):
    model = new_model()
    with torch.no_grad():
        model.heads.weight[3, 0] = torch.nan
    options = ForkMerge(epochs_per_round=3, grid=(0, 1))
    with pytest.warns(NonFiniteWarning) as warned:
        done = fork_merge(model, tiny, GROUPS, budget(), options)
    assert len(warned) == 2  # a loss, a score
    assert done.cost.skipped_losses == 12
    assert done.cost.skipped_scores == 2


def test_bfloat16_reaches_the_steps(tiny, new_model, budget):
    half, single = new_model(), new_model()
    fork_merge(half, tiny, GROUPS, budget(autocast="bf16"))
    fork_merge(single, tiny, GROUPS, budget())
    assert not torch.equal(half.heads.weight, single.heads.weight)


def test_a_harmful_branch_changes_no_bit(tiny, new_model, budget):
    """The paper's case: if the auxiliary never helps, the target's own trajectory is the result."""
    target = (0, 1)
    alone, forked = new_model(), new_model()
    config = budget(epochs=4)
    options = ForkMerge(epochs_per_round=2, grid=(0.0, 1.0))
    expected = fork_merge(alone, tiny, [target], config, options, scored=target, seed=2)
    # The second branch never trains the target's heads, and a grid of 0 and 1 takes all or nothing.
    found = fork_merge(forked, tiny, [target, (2, 3, 4)], config, options, scored=target, seed=2)
    assert [r.weights.tolist() for r in found.rounds] == [[1.0, 0.0]] * 2
    assert [r.score for r in found.rounds] == [r.score for r in expected.rounds]
    for one, other in zip(
        alone.encoder.state_dict().values(), forked.encoder.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(alone.heads.weight[:2], forked.heads.weight[:2])
    assert not torch.equal(alone.heads.weight[2:], forked.heads.weight[2:])


@pytest.mark.parametrize("batch_norm", ["average", "measure"])
def test_groups_as_branches(tiny, new_model, budget, batch_norm):
    model = new_model()
    random_state = torch.get_rng_state()
    options = ForkMerge(epochs_per_round=2, batch_norm=batch_norm, grid=(0, 0.5, 1))
    done = fork_merge(model, tiny, GROUPS, budget(epochs=5), options, seed=1)
    assert [r.step for r in done.rounds] == [8, 16, 20]  # 4 steps an epoch; the last is short
    for r in done.rounds:
        assert np.isclose(r.weights.sum(), 1)
        assert r.score >= r.branch_scores.max()
    best = done.rounds[done.best_round]
    assert best.score == max(r.score for r in done.rounds)
    assert evaluate_split(model, tiny, "valid").macro["ap"] == best.score
    assert done.cost.steps == 2 * 20
    assert done.cost.label_gradients == 20 * 5
    assert torch.equal(torch.get_rng_state(), random_state)
    again = new_model()
    fork_merge(again, tiny, GROUPS, budget(epochs=5), options, seed=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_branches_start_together_and_see_the_same_batches(tiny, new_model, budget, monkeypatch):
    import gnn_mtl.training._fork_merge as module

    seen, original = [], module.train_step

    def watch(model, batch, tasks, optimizers, **options):
        seen.append((tasks, batch.n_id.clone(), [p.detach().clone() for p in model.parameters()]))
        return original(model, batch, tasks, optimizers, **options)

    monkeypatch.setattr(module, "train_step", watch)
    fork_merge(new_model(), tiny, GROUPS, budget(epochs=2), ForkMerge(epochs_per_round=1))
    assert [tasks for tasks, _, _ in seen] == ([GROUPS[0]] * 4 + [GROUPS[1]] * 4) * 2
    for start in (0, 8):
        for offset in range(4):
            assert torch.equal(seen[start + offset][1], seen[start + 4 + offset][1])
        for one, other in zip(seen[start][2], seen[start + 4][2], strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(seen[0][1], seen[8][1])


@pytest.mark.parametrize(
    "options", [{"epochs_per_round": 0}, {"grid": ()}, {"grid": (2.0,)}, {"batch_norm": "none"}]
)
def test_bad_options(options):
    with pytest.raises(UsageError, match=f"`{next(iter(options))}`"):
        ForkMerge(**options)


@pytest.mark.parametrize(
    ("branches", "scored", "message"),
    [
        ([], None, "at least one branch"),
        ([(0,), ()], None, "from 0 to 4"),
        ([(0, 5)], None, "from 0 to 4"),
        ([(0,)], (-1,), "from 0 to 4"),
    ],
)
def test_bad_branches(tiny, new_model, budget, branches, scored, message):
    with pytest.raises(UsageError, match=message):
        fork_merge(new_model(), tiny, branches, budget(), scored=scored)

"""``bench refresh``: what is measured, what counts for its ratios, and how nodes are drawn."""

import itertools

import numpy as np
import pytest
import torch

from gnn_mtl.benchmarks import _refresh, _refresh_draws, _refresh_modes, _refresh_training
from gnn_mtl.benchmarks._refresh import best, ratios
from gnn_mtl.benchmarks._refresh_draws import Blocks, draw_by_size, residual_sizes

SMALL = _refresh_training.Size(
    nodes=400, edges=1200, batch_size=32, hidden=8, epochs=3, reference_epochs=2, counts=(1, 2),
    ages=(1, 2), tasks=(8, 12), repeats=1,
)  # fmt: skip
SCHEMA = {
    "mode", "tasks", "nodes", "cost_in_steps", "edge_f1", "edge_f1_as_many", "cosine_mae",
    "pearson", "edges", "same_color_jaccard", "in_group_conflict", "checkpoint", "reference", "tau",
}  # fmt: skip


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_refresh, "QUICK", SMALL)
        patch.setattr(_refresh_modes, "DIRECTIONS", 3)
        return _refresh.run(quick=True)


@pytest.fixture(scope="module")
def trained():
    return _refresh_training.train(SMALL, 8, main=True)


def row(mode, checkpoint, f1, cost, nodes=8, **more):
    return {
        "mode": mode, "checkpoint": checkpoint, "edge_f1": f1, "cost_in_steps": cost,
        "nodes": nodes, **more,
    }  # fmt: skip


def both(mode, first, second, cost, **more):
    return [row(mode, "epoch 1", first, cost, **more), row(mode, "best", second, cost, **more)]


# ratios


def test_the_worse_checkpoint_counts():
    rows = [
        row("a", "init", 0.99, 0.5), *both("a", 0.7, 0.6, 0.5),
        *both("b", 0.9, 0.8, 3.0),
        *both("c", None, 1.0, 0.1),
        row("d", "best", 1.0, 0.1),
        row("e online", "epoch 1", 0.65, 0.9, 4), row("e online", "best", 0.95, 0.9, 40),
        row("full on a window", "epoch 1", 0.85, 9.0, 7),
        row("full on a window", "best", 0.97, 9.0, 8),
    ]  # fmt: skip
    assert best(rows, 1.0) == 0.65
    assert best(rows, 5.0) == 0.8
    assert best(rows, 9.0) == 0.85
    assert best(rows, 0.01) is None


def test_rows_that_bound_count_for_nothing():
    bounds = [
        one
        for mode in (
            "sampled", "sampled, exact norms", "sampled, 16 steps older", "sampled epoch 2",
            "all neighbours", "streamed at fixed weights, 8 directions",
            "control variate, 16 steps older", "co-occurrence of labels",
        )
        for one in both(mode, 1.0, 1.0, 1000.0 if mode == "sampled" else 0.5)
    ]  # fmt: skip
    assert ratios(bounds) == {
        "edge_f1_at_one_step_112": None,
        "edge_f1_best_112": None,
        "best_exact_over_loop_112": None,
    }
    counted = [
        *both("streamed online, beta 0", 0.1, 0.2, 0.9), *both("full", 0.6, 0.5, 949.0),
        *both("full", 0.9, 0.9, 1000.0, nodes=16),
        row("sampled", "best", 1.0, 1000.0, over_loop=2.0),
    ]  # fmt: skip
    assert ratios(bounds + counted) == {
        "edge_f1_at_one_step_112": 0.1,
        "edge_f1_best_112": 0.5,
        "best_exact_over_loop_112": 2.0,
    }


# rows


def test_every_mode_at_every_checkpoint(found):
    rows = [one for one in found["rows"] if one["tasks"] == 8]
    modes = {(one["mode"], one["checkpoint"]) for one in rows}
    everywhere = (
        "last_layer", "full", "count_sketch", "representation", "sampled", "sampled, exact norms",
        "last_layer stratified", "full stratified", "last_layer by residuals", "full by residuals",
        "full split-half", "streamed at fixed weights, 8 directions",
    )  # fmt: skip
    for mode in everywhere:
        assert {(mode, at) for at in ("init", "epoch 1", "best")} <= modes
    for mode in (
        "sampled, 1 steps older", "sampled, 2 steps older", "full on a window",
        "control variate, 2 steps older", "control variate, 2 steps older, fitted",
        "full on a window, debiased", "full, debiased", "control variate, 2 steps older, debiased",
        "co-occurrence of labels", "streamed online, beta 0.9", "last_layer_sketch online, beta 0",
    ):  # fmt: skip
        assert {at for name, at in modes if name == mode} == {"epoch 1", "best"}
    for mode in ("all neighbours", "sampled epoch 2", "jvp_sketch"):
        assert {at for name, at in modes if name == mode} == {"best"}
    assert {one["checkpoint"] for one in found["rows"] if one["tasks"] == 12} == {"best"}
    assert len(found["rows"]) == len({
        (one["mode"], one["tasks"], one["checkpoint"], one["nodes"]) for one in found["rows"]
    })  # fmt: skip


def test_rows_have_one_schema(found):
    for one in found["rows"]:
        assert one.keys() - {"over_loop"} == SCHEMA
        assert one["cost_in_steps"] is None or one["cost_in_steps"] >= 0
        for key in ("edge_f1", "edge_f1_as_many"):
            assert one[key] is None or 0 <= one[key] <= 1
        if one["mode"] == "sampled":
            assert (one["edge_f1"], one["edge_f1_as_many"], one["cosine_mae"]) == (1.0, 1.0, 0.0)


def test_a_control_variate_is_charged_two_probes(found):
    price = {
        (one["mode"], one["nodes"]): one["cost_in_steps"]
        for one in found["rows"]
        if one["tasks"] == 8 and one["checkpoint"] == "best"
    }
    for nodes in (32, 64):
        corrected = price["control variate, 2 steps older", nodes]
        assert corrected == pytest.approx(2 * price["full", nodes])


def test_exact_on_other_neighbours_is_priced_as_exact(found):
    """It reads the split once, so it is no mode cheaper than exact."""
    rows = [one for one in found["rows"] if one["tasks"] == 8 and one["checkpoint"] == "best"]
    whole = next(one["cost_in_steps"] for one in rows if one["mode"] == "sampled")
    most = max((one for one in rows if one["mode"] == "full"), key=lambda one: one["nodes"])
    assert most["nodes"] == 240
    assert most["cost_in_steps"] == pytest.approx(whole)
    assert most["cosine_mae"] > 0


# the training


def test_older_weights_are_those_of_that_many_steps_before(trained):
    """Retrained for fewer steps, the model has the weights the checkpoint kept as older."""
    at = trained.checkpoints["epoch 1"]
    assert at.step == 8
    assert set(at.older) == {1, 2}
    states = [at.state, at.older[1], at.older[2]]
    counts = [int(state["encoder.norms.0.num_batches_tracked"]) for state in states]
    assert counts == [8, 7, 6]


def test_a_window_holds_the_batches_of_the_last_steps(trained):
    at = trained.checkpoints["best"]
    window = trained.window(at)
    assert len(window) == trained.period == 2
    loader = trained.loader(1)
    epoch = list(loader.epoch_batches(at.step // 8 - 1))
    for batch, expected in zip(window, epoch[-2:], strict=True):
        assert torch.equal(batch.seeds, expected.seeds)
        assert torch.equal(batch.n_id, expected.n_id)


# importance sampling


def test_sizes_are_norms_of_scaled_residuals(trained):
    trained.model.load_state_dict(trained.checkpoints["best"].state)
    trained.model.train()
    nodes, sizes = residual_sizes(trained.model, trained.loader(14))
    assert trained.model.training
    assert sorted(nodes) == sorted(trained.graph.split_idx["train"])
    assert (sizes > 0).all()
    assert (sizes**2).mean() == pytest.approx(8)  # each task's scaled residuals have mean square 1


def test_the_draw_is_unbiased():
    """Weighted by inverse probabilities, totals are right on average, whatever the sizes."""
    rng = np.random.default_rng(0)
    sizes = rng.exponential(size=50) + 0.05
    values = rng.normal(size=50) + sizes
    nodes = np.arange(100, 150)
    counted, drawn = np.zeros(50), np.zeros(50)
    with pytest.MonkeyPatch.context() as patch:
        for draw in range(4000):
            patch.setattr(_refresh_draws, "generator", lambda *_, d=draw: np.random.default_rng(d))
            sample = draw_by_size(nodes, sizes, np.array([50]), 10)
            assert abs(len(sample.nodes) - 10) <= 1
            counted[sample.nodes - 100] += 1 / sample.inclusion
            drawn[sample.nodes - 100] += 1
    assert (counted / 4000) @ values == pytest.approx(values.sum(), rel=0.02)
    large, small = sizes > np.quantile(sizes, 0.8), sizes < np.quantile(sizes, 0.2)
    assert sample.inclusion.max() <= 1
    assert sizes[large].min() > sizes[small].max()
    assert drawn[large].min() > drawn[small].max()


def test_products_freed_of_noise_are_right_on_average():
    """Over all ways to draw 3 of 6 batches, with and without known rows added."""
    rng = torch.Generator().manual_seed(0)
    batches = torch.randn(6, 4, 5, generator=rng, dtype=torch.float64)
    known = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    for shift in (None, known):
        found, raw = [], []
        for drawn in itertools.combinations(range(6), 3):
            blocks = Blocks(6)
            for number in drawn:
                blocks.add(batches[number])
            found.append(blocks.gramian(shift))
            mean = blocks.rows / 3 + (0 if shift is None else shift)
            raw.append(mean @ mean.T)
        whole = batches.mean(dim=0) + (0 if shift is None else shift)
        torch.testing.assert_close(torch.stack(found).mean(dim=0), whole @ whole.T)
        assert (torch.stack(raw).mean(dim=0) - whole @ whole.T).abs().max() > 0.02


def test_a_whole_split_has_no_noise_to_be_freed_of():
    rows = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    blocks = Blocks(3)
    for one in rows:
        blocks.add(one)
    np.testing.assert_allclose(blocks.debiased().values, blocks.cosines().values, atol=1e-6)


def test_a_task_drowned_in_noise_is_unknown():
    blocks = Blocks(100)
    for one in ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], [[1.0, 0.1], [0.0, 0.1]]):
        blocks.add(torch.tensor(one))
    known = blocks.debiased().known
    assert known.tolist() == [[True, False], [False, False]]


def test_more_nodes_than_there_are_gives_all():
    nodes = np.arange(5)
    sample = draw_by_size(nodes, np.ones(5), np.array([5]), 9)
    assert sorted(sample.nodes) == [0, 1, 2, 3, 4]
    assert (sample.inclusion == 1).all()

"""Grad-TAG from a model and batches to tables and affinities, against the network itself."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import binary_cross_entropy_with_logits

from gnn_mtl._core.errors import GnnMtlWarning, LabelWarning, ShapeError, UsageError
from gnn_mtl.affinity import (
    LinearisationAudit,
    audit_linearisation,
    draw_subsets,
    estimate_affinity,
    forward_scores,
    gradtag_affinity,
    gradtag_table,
    rank_agreement,
    subset_affinity,
    valid_batches,
)
from gnn_mtl.affinity._gradtag_lambda import trusted_lambda
from gnn_mtl.gradients import displaced, output_features
from gnn_mtl.graph import NeighborLoader
from gnn_mtl.nn import LabelModel, Linear
from gnn_mtl.tasks import SubsetTable

MASKS = draw_subsets(5, 2, 10) | (np.arange(5) == 4)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def train(make_batches):
    return make_batches()


@pytest.fixture(scope="module")
def valid(make_batches):
    return make_batches(seed=6)


@pytest.fixture(scope="module")
def table(model, train, valid):
    return gradtag_table(model, train, valid, MASKS, dim=12, tolerance=10.0, seed=3)


def test_what_a_table_says(table, model):
    assert (table.source, table.metric, table.split, table.seed) == ("one_step", "loss", "valid", 3)
    np.testing.assert_array_equal(table.masks, MASKS)
    assert (table.known == MASKS).all()
    assert json.loads(json.dumps(table.details)) == table.details
    assert table.details["cost"]["jvps"] == 12 * 6  # batches
    assert table.details["coverage"]["missing"] == 0.0
    assert table.details["lam_choice"]["by"] == "linearisation"
    (audit,) = table.details["audit"]
    assert audit["largest_step"] > audit["step"] > 0


def test_the_model_stays_as_it_was(model, train, valid):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    model.train()
    gradtag_table(model, train, valid, MASKS, dim=4, tolerance=10.0, scoring="forward")
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_baseline_is_the_loss_of_the_base_model(table, model, valid):
    model.eval()
    total, number = torch.zeros(5), torch.zeros(5)
    for batch in valid:
        y = torch.where(batch.observed, batch.y, 0.0)
        with torch.no_grad():
            loss = binary_cross_entropy_with_logits(model(batch), y, reduction="none")
        total += torch.where(batch.observed, loss, 0.0).sum(0)
        number += batch.observed.sum(0)
    np.testing.assert_allclose(-table.baseline, total / number, rtol=1e-5)


def test_sums_and_pairs_and_the_network_agree_for_small_steps(model, train, valid):
    """A large penalty makes small steps, where all three predictions are one."""
    options = {"dim": 12, "lam": 30.0}
    sums = gradtag_table(model, train, valid, MASKS, **options)
    pairs = gradtag_table(model, train, valid, MASKS, mode="pairs", **options)
    real = gradtag_table(model, train, valid, MASKS, scoring="forward", **options)
    gains = [(t.scores - t.baseline)[MASKS] for t in (sums, pairs, real)]
    assert np.abs(gains[0]).mean() > 1e-5
    np.testing.assert_allclose(gains[1], gains[0], rtol=0.03, atol=1e-6)
    np.testing.assert_allclose(gains[2], gains[0], rtol=0.05, atol=2e-6)
    assert pairs.source == "linearised"
    assert real.details["scored"] == "forward"


def test_scores_of_the_network_are_those_of_the_displaced_model(model, valid):
    u = 0.1 * torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = forward_scores(model, lambda: valid, u, MASKS[:3], seed=2)
    assert (np.isnan(found) == ~MASKS[:3]).all()
    y = torch.cat([torch.where(b.observed, b.y, 0.0) for b in valid])
    observed = torch.cat([b.observed for b in valid])
    model.eval()
    for k in range(3):
        with displaced(model, u[:, k], seed=2), torch.no_grad():
            logits = torch.cat([model(batch) for batch in valid])
        loss = binary_cross_entropy_with_logits(logits, y, reduction="none")
        mean = (loss * observed).sum(0) / observed.sum(0)
        np.testing.assert_allclose(-found[k, MASKS[k]], mean[MASKS[k]], rtol=1e-6)


def test_wrong_scores_of_the_network(model, valid):
    u = torch.zeros(4, 3)
    with pytest.raises(UsageError, match=r"`metric`.*'accuracy'"):
        forward_scores(model, lambda: valid, u, MASKS[:3], metric="accuracy")
    with pytest.raises(ShapeError, match="m = 2"):
        forward_scores(model, lambda: valid, u, MASKS[:2])
    with pytest.raises(UsageError, match="at least one batch"):
        forward_scores(model, list, u, MASKS[:3])


def test_other_metrics_are_scored_by_the_network(model, train, valid):
    from sklearn.metrics import roc_auc_score

    found = gradtag_table(
        model, train, valid, MASKS, dim=4, scoring="forward", metric="auroc", tolerance=10.0
    )
    y = torch.cat([torch.where(b.observed, b.y, 0.0) for b in valid])
    observed = torch.cat([b.observed for b in valid])
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(batch) for batch in valid])
    for task in range(5):
        rows = observed[:, task]
        expected = roc_auc_score(y[rows, task], logits[rows, task])
        assert found.baseline[task] == pytest.approx(expected)
    assert found.metric == "auroc"


def test_the_audit_measures_the_logits(model, valid):
    features = output_features(model, valid[0], 6, seed=1)
    u = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.2
    audit = audit_linearisation(model, valid[0], features, u, seed=1)
    model.eval()
    norm = torch.cat([p.flatten() for p in model.shared_parameters()]).norm()
    for k in range(2):
        before = [p.detach().clone() for p in model.shared_parameters()]
        with displaced(model, u[:, k], seed=1), torch.no_grad():
            real = model(valid[0])
            moved = [p - b for p, b in zip(model.shared_parameters(), before, strict=True)]
        base = features.logits
        size = torch.maximum(real.abs(), base.abs())
        linear = base + features.phi @ u[:, k]
        np.testing.assert_allclose(audit.error[k], (((linear - real) / size) ** 2).mean(0))
        np.testing.assert_allclose(audit.control[k], (((base - real) / size) ** 2).mean(0))
        step = torch.cat([m.flatten() for m in moved]).norm() / norm
        assert audit.step[k] == pytest.approx(step.item(), rel=1e-5)
    tiny = audit_linearisation(model, valid[0], features, 1e-3 * u, seed=1)
    assert (tiny.error < 0.05 * tiny.control + 1e-12).all()


class Smooth(torch.nn.Module):
    """One hidden layer without kinks, so that a minimum is found to the last digit."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)

    def forward(self, batch):
        return torch.tanh(self.linear(batch.x[: batch.batch_size]))


def test_a_model_trained_to_the_end_stays_where_it_is_on_all_tasks(make_graph):
    """The gradient of all tasks is 0 there, so their subset's step is."""
    graph = make_graph(120, 4, seed=1)
    batches = list(
        NeighborLoader(graph, num_neighbors=[], batch_size=200, num_workers=0).epoch_batches(0)
    )
    torch.manual_seed(0)
    model = LabelModel(Smooth(), Linear().build(6, 4)).double()
    batches = [replace(b, x=b.x.double()) for b in batches]
    optimizer = torch.optim.LBFGS(
        list(model.parameters()), lr=1, max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    (batch,) = batches

    def closure():
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(batch), batch.y.double(), reduction="none")
        mean = (loss * batch.observed).sum(0) / batch.observed.sum(0)
        total = mean.mean() + 1e-5 * sum((p**2).sum() for p in model.parameters())
        total.backward()
        return total

    optimizer.step(closure)
    masks = np.eye(4, dtype=bool)
    found = gradtag_table(model, batches, batches, masks, dim=20, lam=0.01, tolerance=1e3)
    (audit,) = found.details["audit"]
    assert audit["step_of_all_tasks"] < 0.05 * audit["step"]
    assert (found.scores[masks] > found.baseline).all()  # each task alone gains on its own data


def test_task_ids_do_not_matter(make_model, make_batches, model, table):
    order = [3, 0, 4, 2, 1]
    moved = make_model()
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for mine, old in zip(moved.head_parameters(), model.head_parameters(), strict=True):
            mine.copy_(old[order])
    found = gradtag_table(
        moved, make_batches(order=order), make_batches(order=order, seed=6), MASKS[:, order],
        dim=12, tolerance=10.0, seed=3,
    )  # fmt: skip
    np.testing.assert_allclose(found.scores, table.scores[:, order], rtol=1e-6)


def test_the_order_of_subsets_does_not_matter(model, train, valid, table):
    back = gradtag_table(model, train, valid, MASKS[::-1], dim=12, tolerance=10.0, seed=3, lam=0.1)
    np.testing.assert_allclose(back.scores[::-1], table.scores, rtol=1e-6)


def test_the_order_and_size_of_batches_do_not_matter(model, make_batches, train, valid, table):
    found = gradtag_table(
        model, train[::-1], valid[::-1], MASKS, dim=12, tolerance=10.0, seed=3, lam=0.1
    )
    np.testing.assert_allclose(found.scores, table.scores, rtol=1e-6)


def test_several_base_models_give_means_and_errors(make_model, train, valid):
    models = [make_model(seed=seed) for seed in (0, 1)]
    options = {"dim": 12, "lam": 1.0, "tolerance": 10.0}
    both = gradtag_table(models, train, valid, MASKS, **options)
    first = gradtag_table(models[0], train, valid, MASKS, **options)
    other = 2 * both.scores - first.scores
    np.testing.assert_allclose(both.stderr, np.abs(first.scores - other) / 2)
    assert both.details["models"] == 2
    assert len(both.details["audit"]) == 2
    assert np.nanmax(np.abs(other - first.scores)) > 1e-4


def test_positives_may_weigh_more(model, train, valid):
    weight = torch.full((5,), 4.0)
    options = {"dim": 12, "lam": 0.3, "tolerance": 10.0}
    plain = gradtag_table(model, train, valid, MASKS, **options)
    heavy = gradtag_table(model, train, valid, MASKS, pos_weight=weight, **options)
    pairs = gradtag_table(model, train, valid, MASKS, pos_weight=weight, mode="pairs", **options)
    np.testing.assert_array_equal(heavy.baseline, plain.baseline)  # scores are never weighted
    ours, theirs = (t.scores[MASKS] - plain.scores[MASKS] for t in (heavy, pairs))
    assert np.abs(ours).mean() > 1e-4
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9


def test_kept_negatives_stand_for_the_others(model, train, valid):
    options = {"dim": 8, "lam": 0.3, "mode": "pairs", "tolerance": 10.0}
    whole = gradtag_table(model, train, valid, MASKS, **options)
    np.testing.assert_allclose(  # 64 negatives at least are kept: here all
        gradtag_table(model, train, valid, MASKS, negatives=1.0, **options).scores, whole.scores
    )


def test_the_penalty_that_ranks_trained_subsets_best(model, train, valid):
    """The truth is what a penalty of 10 predicts, so that one is found again."""
    options = {"dim": 12, "audits": 0}
    few = MASKS[:8]
    truth = gradtag_table(model, train, valid, few, lam=10.0, **options)
    noisy = replace(truth, scores=truth.scores * 3.0 + np.arange(5.0))
    found = gradtag_table(model, train, valid, MASKS, trained=noisy, **options)
    assert found.details["lam"] == 10.0
    choice = found.details["lam_choice"]
    assert choice["by"] == "trained subsets"
    assert choice["spearman"]["10"] == pytest.approx(1.0)
    flat = replace(truth, scores=np.where(few, 1.0, np.nan))
    with pytest.raises(UsageError, match="different scores"):
        gradtag_table(model, train, valid, MASKS, trained=flat, **options)


def test_the_penalty_rises_until_the_linearisation_holds(model, train, valid):
    found = gradtag_table(model, train, valid, MASKS, dim=12, tolerance=1e-4)
    errors = found.details["lam_choice"]["errors"]
    assert found.details["lam"] == float(list(errors)[-1]) > 0.1
    assert list(errors.values())[-1] <= 1e-4 < list(errors.values())[-2]
    free = gradtag_table(model, train, valid, MASKS, dim=12, audits=0)
    assert free.details["lam"] == 0.1
    assert free.details["audit"] == []


def test_tasks_without_a_label_do_not_raise_the_penalty():
    """Task 2 is in no subset, and its logits are off at every penalty."""
    control = np.ones((2, 3))
    error = np.array([[0.01, 0.02, 50.0]] * 2)
    base = SimpleNamespace(
        labelled=np.array([True, True, False]),
        fit=lambda masks, lam: torch.zeros(4, len(masks)),
        audit=lambda u: LinearisationAudit(error, control, np.ones(2)),
    )
    masks = np.array([[True, True, False], [True, False, False]])
    lam, choice = trusted_lambda([base], masks, 0.1)
    assert (lam, choice["errors"]) == (0.1, {"0.1": 0.02})
    base.labelled = np.ones(3, dtype=bool)
    assert trusted_lambda([base], masks, 0.1)[0] == 1e4


def test_scores_that_are_not_to_be_trusted_are_unknown_or_trained(model, train, valid):
    options = {"dim": 12, "lam": 1e-4, "tolerance": 0.02}
    with pytest.warns(GnnMtlWarning, match=r"are unknown \(NaN\)"):
        found = gradtag_table(model, train, valid, MASKS, label_names=tuple("abcde"), **options)
    failed = MASKS & ~found.known
    assert failed.any()
    rows = np.flatnonzero(failed.any(axis=1))
    assert found.details["distrusted"]["subsets"] == rows.tolist()
    assert found.details["distrusted"]["cells"] == failed.sum()
    asked = []

    def retrain(masks):
        asked.append(masks)
        return SubsetTable(masks, np.where(masks, -7.0, np.nan), "trained")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mended = gradtag_table(model, train, valid, MASKS, retrain=retrain, **options)
    np.testing.assert_array_equal(asked[0], MASKS[rows])
    assert (mended.scores[rows][MASKS[rows]] == -7.0).all()
    assert mended.source == "one_step+trained"
    assert (mended.known == MASKS).all()
    wrong = lambda masks: SubsetTable(masks, np.where(masks, 0.5, np.nan), "trained", "ap")  # noqa: E731
    with pytest.raises(UsageError, match="by loss"):
        gradtag_table(model, train, valid, MASKS, retrain=wrong, **options)
    with pytest.raises(UsageError, match="in their order"):
        gradtag_table(
            model, train, valid, MASKS, retrain=lambda masks: retrain(masks[::-1]), **options
        )
    with pytest.raises(UsageError, match=r"valid nodes\. Found .* train nodes"):
        gradtag_table(
            model, train, valid, MASKS,
            retrain=lambda masks: replace(retrain(masks), split="train"), **options,
        )  # fmt: skip


def test_a_subset_longer_than_one_that_failed_is_not_trusted():
    masks = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 0, 1]], dtype=bool)
    error = np.array([[0.0, 0.0, 0.9], [0.4, 0.4, 0.9], [0.0, 0.0, 0.9]])
    audit = LinearisationAudit(error, error, np.ones(3))
    lengths = [1.0, 2.0, 3.0, 1.5]  # audited: rows 0, 2 and 3; row 2 failed by its own members
    found = audit.failed(lengths, [0, 2, 3], masks, 0.2)
    np.testing.assert_array_equal(found, [[0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 0, 1]])


def test_the_affinity_is_that_of_the_table(model, train, valid):
    options = {"dim": 12, "lam": 1.0, "seed": 3}
    found = gradtag_affinity(model, train, valid=valid, subset_size=3, num_subsets=10, **options)
    masks = draw_subsets(5, 3, 10, seed=3)
    table = gradtag_table(model, train, valid, masks, **options)
    np.testing.assert_array_equal(found.values, subset_affinity(table).values)
    assert found.method == "gradtag"
    assert not found.symmetric
    with pytest.raises(UsageError, match="Pass `valid`"):
        gradtag_affinity(model, train)


def test_by_name_from_a_loader(make_graph, make_model):
    graph = make_graph(60, 5, seed=5)
    model = make_model().float()
    loader = NeighborLoader(graph, num_neighbors=[-1, -1], batch_size=30, num_workers=0)
    loader.epoch = 4
    options = {"dim": 6, "lam": 1.0, "num_subsets": 10, "subset_size": 3}
    found = estimate_affinity(model, loader, method="gradtag", **options)
    assert loader.epoch == 4
    assert found.label_names == graph.label_names
    table = gradtag_table(
        model, loader, valid_batches(loader), draw_subsets(5, 3, 10), dim=6, lam=1.0
    )
    np.testing.assert_allclose(found.values, subset_affinity(table).values, atol=1e-5)
    with pytest.raises(UsageError, match="no option"):
        estimate_affinity(model, loader, method="gradtag", tau=0.1)
    few = valid_batches(replace_size(loader, 4), 1)
    assert len(few.input_nodes) == 4
    assert set(few.input_nodes) <= set(graph.split_idx["valid"])
    for replace_neighbors in (True, False):
        drawn = NeighborLoader(graph, num_neighbors=[2], batch_size=9, replace=replace_neighbors)
        assert valid_batches(drawn).sampler.replace == replace_neighbors
    assert valid_batches(NeighborLoader(graph, num_neighbors=[], batch_size=9)).sampler is None


def replace_size(loader, size):
    return NeighborLoader(loader.graph, num_neighbors=[2, 2], batch_size=size, num_workers=0)


@pytest.mark.parametrize("mode", ["statistics", "pairs"])
def test_tasks_without_a_training_label_are_left_out(mode, model, make_batches, valid):
    hidden = make_batches(hidden=[2])
    options = {"dim": 6, "lam": 1.0, "mode": mode, "label_names": tuple("abcde")}
    with pytest.warns(LabelWarning, match="1 tasks have no label in the training batches: c"):
        found = gradtag_table(model, hidden, valid, MASKS, **options)
    assert not found.masks[:, 2].any()
    rest = [0, 1, 3, 4]
    np.testing.assert_array_equal(found.masks[:, rest], MASKS[:, rest])
    everyone = gradtag_table(model, make_batches(), valid, MASKS, **options)
    same = ~MASKS[:, 2]
    np.testing.assert_allclose(found.scores[same], everyone.scores[same], rtol=1e-6)
    with pytest.raises(UsageError, match="hold a label"):
        gradtag_table(model, make_batches(hidden=range(5)), valid, MASKS, dim=2)


def test_batches_read_twice_cannot_be_an_iterator(make_model, train, valid):
    models = [make_model(seed=seed) for seed in (0, 1)]
    with pytest.raises(UsageError, match="read several times"):
        gradtag_table(models, iter(train), valid, MASKS, dim=2)
    once = gradtag_table(models[0], iter(train), iter(valid), MASKS, dim=2, lam=1.0)
    assert once.known.any()


def test_wrong_arguments(model, train, valid):
    for options, what in [
        ({"scoring": "guess"}, "`scoring`"),
        ({"metric": "ap"}, "scoring='forward'"),
        ({"metric": "accuracy", "scoring": "forward"}, "`metric`"),
        ({"audits": -1}, "`audits`"),
        ({"tolerance": 0.0}, "`tolerance`"),
        ({"mode": "all"}, "`mode`"),
        ({"lam": -1.0}, "`lam`"),
        ({"weighting": "nodes"}, "`weighting`"),
    ]:
        with pytest.raises(UsageError, match=what):
            gradtag_table(model, train, valid, MASKS, dim=2, **options)
    with pytest.raises(UsageError, match="one base model"):
        gradtag_table([], train, valid, MASKS)
    for empty in (([], valid), (train, [])):
        with pytest.raises(UsageError, match="Found none"):
            gradtag_table(model, *empty, MASKS, dim=2)


def test_rank_agreement_takes_every_tasks_mean_off():
    rng = np.random.default_rng(0)
    masks = draw_subsets(6, 3, 12)
    scores = np.where(masks, rng.normal(size=masks.shape), np.nan)
    one = SubsetTable(masks, scores, "trained")
    noisy = np.where(masks, scores + rng.normal(size=masks.shape), np.nan)
    levels = replace(one, scores=noisy + 100 * np.arange(6.0))
    centred = [s - np.nanmean(s, axis=0) for s in (scores, noisy)]
    expected = spearmanr(*(c[masks] for c in centred)).statistic
    assert rank_agreement(levels, one) == pytest.approx(expected)
    constant = replace(one, scores=np.where(masks, np.arange(6.0) / 3, np.nan))
    assert np.isnan(rank_agreement(constant, one))  # all level, no companions told apart
    with pytest.raises(UsageError, match="same subsets"):
        rank_agreement(one, one.select_subsets([0, 1]))

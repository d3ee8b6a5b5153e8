"""The shallow baseline is one scikit-learn logistic regression per label."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from gnn_mtl._core.errors import RecordError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.records import read_run
from gnn_mtl.runs import load_trained, run_one, train_shallow, with_features
from gnn_mtl.runs._shallow import METHOD, PENALTIES, fit_logistic

N, F, T = 400, 6, 5


@pytest.fixture(scope="module")
def noisy():
    """Labels a linear model half explains, a third of the cells unobserved, one label constant."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((N, F)).astype(np.float32)
    y = (x @ rng.standard_normal((F, T)) + rng.standard_normal((N, T)) > 0.5).astype(float)
    y[rng.random((N, T)) < 1 / 3] = np.nan
    y[:, 3] = np.where(np.isnan(y[:, 3]), np.nan, 0.0)
    split = dict(
        zip(("train", "valid", "test"), np.split(rng.permutation(N), [240, 320]), strict=True)
    )
    edges = rng.integers(0, N, size=(2, 900))
    with pytest.warns(UserWarning, match="no positive"):
        return TaskGraph.from_arrays(edges, y, x=x, split=split, name="noisy")


def oracle(graph, penalty, task):
    """scikit-learn's fit on the observed training cells of a label."""
    nodes = graph.split_idx["train"]
    y, observed = graph.targets(nodes, "train")
    seen = observed[:, task]
    model = LogisticRegression(C=penalty, tol=1e-10, max_iter=5000)
    return model.fit(graph.features(nodes)[seen].astype(float), y[seen, task])


@pytest.mark.parametrize("penalty", PENALTIES)
def test_weights_are_those_of_scikit_learn(penalty, noisy):
    weights = fit_logistic(noisy, penalty).numpy()
    assert weights.shape == (F + 1, T)
    for task in (0, 1, 2, 4):
        expected = oracle(noisy, penalty, task)
        np.testing.assert_allclose(weights[:-1, task], expected.coef_[0], atol=5e-3)
        np.testing.assert_allclose(weights[-1, task], expected.intercept_[0], atol=5e-3)


def test_a_warm_start_changes_the_way_not_the_end(noisy):
    cold = fit_logistic(noisy, 10.0)
    warm = fit_logistic(noisy, 10.0, start=fit_logistic(noisy, 0.1))
    several = [0, 1, 2, 4]
    np.testing.assert_allclose(cold[:, several], warm[:, several], atol=5e-3)


def test_a_label_of_one_class_is_told_to_be_so(noisy):
    """scikit-learn refuses it; here its intercept says never, and the others do not suffer."""
    with pytest.raises(ValueError, match="2 classes"):
        oracle(noisy, 1.0, 3)
    weights = fit_logistic(noisy, 1.0)
    assert torch.isfinite(weights).all()
    logits = noisy.features(np.arange(N)) @ weights[:-1, 3].numpy() + weights[-1, 3].item()
    assert (logits < -2).all()


def test_unobserved_cells_do_not_matter(noisy):
    nodes = np.arange(N)
    y, observed = (sum(noisy.targets(nodes, s)[i] for s in noisy.split_idx) for i in (0, 1))
    hidden = ~observed.astype(bool)
    alone = noisy.select_tasks([2])
    flipped = np.where(hidden, np.nan, y)
    again = TaskGraph.from_arrays(
        noisy.csc.to_edge_index(), flipped[:, [2]], x=noisy.x, split=noisy.split_idx
    )
    np.testing.assert_array_equal(fit_logistic(alone, 1.0), fit_logistic(again, 1.0))
    expected = oracle(noisy, 1.0, 2)
    np.testing.assert_allclose(fit_logistic(alone, 1.0)[:-1, 0], expected.coef_[0], atol=5e-3)


@pytest.fixture
def finished(quick, graph, tmp_path):
    """A finished shallow run on the opposed graph, and the graph it saw."""
    config = quick()
    record = train_shallow(config, tmp_path / "shallow", graph=graph)
    return record, with_features(graph, config)


def test_a_complete_run_folder(finished, quick):
    record, seen = finished
    assert read_run(record.path, finished=True).method == METHOD
    assert record.label_names == seen.label_names
    assert record.summary.tasks == tuple(range(6))
    assert record.summary.num_parameters == 6 * (seen.num_features + 1)
    assert record.summary.cost["steps"] == record.summary.cost["label_gradients"] == 0
    assert record.summary.cost["seconds"] > 0
    assert np.isfinite(list(record.summary.test.values())).all()
    with pytest.raises(RecordError, match=r"best\.safetensors"):
        load_trained(record.path)


def test_scores_are_those_of_scikit_learn_at_the_penalty_best_on_validation(finished):
    record, seen = finished
    scores = {}
    for penalty in PENALTIES:
        models = [oracle(seen, penalty, task) for task in range(6)]
        for split in ("valid", "test"):
            nodes = seen.split_idx[split]
            y, _ = seen.targets(nodes, split)
            scores[penalty, split] = [
                average_precision_score(y[:, t], models[t].decision_function(seen.features(nodes)))
                for t in range(6)
            ]
    best = max(PENALTIES, key=lambda penalty: np.mean(scores[penalty, "valid"]))
    assert record.summary.valid["ap"] == pytest.approx(np.mean(scores[best, "valid"]), abs=2e-3)
    assert record.summary.test["ap"] == pytest.approx(np.mean(scores[best, "test"]), abs=2e-3)
    np.testing.assert_allclose(record.summary.per_label["ap"], scores[best, "test"], atol=1e-2)
    tried = record.summary.extra["valid_ap_by_penalty"]
    assert max(tried, key=tried.get) == str(best)
    for penalty in PENALTIES:
        assert tried[str(penalty)] == pytest.approx(np.mean(scores[penalty, "valid"]), abs=2e-3)


def test_test_labels_choose_nothing(finished, quick, graph, tmp_path):
    record, _ = finished
    nodes = np.arange(graph.num_nodes)
    y = sum(graph.targets(nodes, split)[0] for split in graph.split_idx)
    rows = graph.split_idx["test"]
    y[rows] = 1 - y[rows]
    other = TaskGraph.from_arrays(
        graph.csc.to_edge_index(), y, x=graph.x, split=graph.split_idx, name="planted"
    )
    flipped = train_shallow(quick(), tmp_path / "flipped", graph=other)
    assert flipped.summary.valid == record.summary.valid
    assert flipped.summary.test["auroc"] == pytest.approx(1 - record.summary.test["auroc"])


def test_again_and_again(finished, quick, graph, tmp_path):
    record, _ = finished
    again = train_shallow(quick(), tmp_path / "again", graph=graph)
    assert again.summary.test == record.summary.test
    for resume in (False, True):
        with pytest.raises(RecordError, match="finished"):
            train_shallow(quick(), record.path, graph=graph, resume=resume)
    (record.path / "DONE").unlink()
    with pytest.raises(RecordError, match="--resume"):
        train_shallow(quick(), record.path, graph=graph)
    assert train_shallow(quick(), record.path, graph=graph, resume=True).done


def test_what_does_not_decide_it_may_change(finished, quick):
    """Encoder and budget are not used, so a finished baseline stands for all of them."""
    record, _ = finished
    config = quick(name=METHOD, train={"epochs": 99})
    assert run_one(config, record.path).summary.test == record.summary.test
    assert "encoder" not in json.loads((record.path / "config.json").read_text())

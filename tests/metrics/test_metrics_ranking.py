"""AUROC and AP against scikit-learn and OGB's Evaluator: ties, missing cells, one-class labels."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from gnn_mtl._core.errors import DataError, LabelError, ShapeError
from gnn_mtl.metrics import _cells as cells
from gnn_mtl.metrics import auroc, average_precision, macro, ranking_scores


@pytest.fixture(scope="module")
def ogb():
    """OGB's two evaluators, loaded from their files: the package would import all of PyG."""
    folder = Path(importlib.util.find_spec("ogb").submodule_search_locations[0])
    loaded = []
    for room, name in (("nodeproppred", "ogbn-proteins"), ("graphproppred", "ogbg-molpcba")):
        spec = importlib.util.spec_from_file_location(f"ogb_{room}", folder / room / "evaluate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded.append(module.Evaluator(name))
    return loaded


def table(seed, n=300, tasks=112, *, levels=0, missing=0.0, rate=0.1):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, tasks)).astype(np.float32)
    if levels:
        logits = np.round(logits * levels) / levels
    y = (rng.random((n, tasks)) < rate).astype(np.float64)
    y[rng.random((n, tasks)) < missing] = np.nan
    y[:, 3] = np.where(np.isnan(y[:, 3]), np.nan, 0.0)
    y[:, 4] = np.where(np.isnan(y[:, 4]), np.nan, 1.0)
    y[:, 5] = np.nan
    return logits, y


def oracle(score, logits, y):
    values = np.full(y.shape[1], np.nan)
    for task in range(y.shape[1]):
        known = ~np.isnan(y[:, task])
        if len(np.unique(y[known, task])) == 2:
            values[task] = score(y[known, task], logits[known, task])
    return values


@pytest.mark.parametrize(("levels", "missing"), [(0, 0.0), (2, 0.0), (0, 0.4), (2, 0.4), (1, 0.9)])
def test_equal_to_scikit_learn(levels, missing):
    logits, y = table(levels, levels=levels, missing=missing)
    area, precision = ranking_scores(logits, y)
    np.testing.assert_allclose(area, oracle(roc_auc_score, logits, y), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        precision, oracle(average_precision_score, logits, y), rtol=0, atol=1e-12
    )
    assert np.isnan(area[[3, 4, 5]]).all()


def test_equal_to_ogb(ogb):
    node, graph = ogb
    logits, y = table(7, levels=3, missing=0.2)
    found = node.eval({"y_true": y, "y_pred": logits})["rocauc"]
    assert macro(auroc(logits, y)) == pytest.approx(found, abs=1e-12, rel=0)
    logits, y = table(8, tasks=128, levels=3, missing=0.2)
    found = graph.eval({"y_true": y, "y_pred": logits})["ap"]
    assert macro(average_precision(logits, y)) == pytest.approx(found, abs=1e-12, rel=0)


def test_no_scorable_label_raises_as_in_ogb(ogb):
    y, logits = np.zeros((4, 112)), np.zeros((4, 112))
    with pytest.raises(RuntimeError, match="No positively labeled data"):
        ogb[0].eval({"y_true": y, "y_pred": logits})
    with pytest.raises(LabelError, match="Found none among 112"):
        macro(auroc(logits, y))


def test_observed_mask_means_the_same_as_nan():
    logits, y = table(1, missing=0.3)
    seen = ~np.isnan(y)
    garbage = np.where(seen, logits, np.nan)
    for mine, theirs in zip(
        ranking_scores(garbage, np.nan_to_num(y), seen), ranking_scores(logits, y), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_blocks_do_not_change_the_numbers(monkeypatch):
    logits, y = table(2, missing=0.3)
    whole = ranking_scores(logits, y)
    monkeypatch.setattr(cells, "BLOCK_BYTES", 1)
    np.testing.assert_array_equal(ranking_scores(logits, y), whole)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40
    ).filter(lambda rows: len({label for _, label in rows}) == 2),
    st.floats(0.1, 10),
)  # fmt: skip
def test_properties(rows, scale):
    logits = np.array([score for score, _ in rows], dtype=float)
    y = np.array([label for _, label in rows])
    wins = [
        float(a > b) + 0.5 * (a == b) for a in logits[y] for b in logits[~y]
    ]  # AUROC by its definition: pairs ordered rightly
    assert auroc(logits, y)[0] == pytest.approx(np.mean(wins), abs=1e-12)
    assert auroc(-logits, y)[0] == pytest.approx(1 - np.mean(wins), abs=1e-12)
    np.testing.assert_array_equal(
        ranking_scores(np.exp(logits * scale), y), ranking_scores(logits, y)
    )
    assert y.mean() / len(y) < average_precision(logits, y)[0] <= 1


def test_large_counts_do_not_overflow():
    n = 200_000
    y = np.arange(n) % 2
    area, precision = ranking_scores(np.zeros(n, dtype=np.float32), y)
    assert area[0] == 0.5
    assert precision[0] == 0.5


@pytest.mark.parametrize(
    ("logits", "y", "observed", "error", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), None, ShapeError, r"Found \(3, 1\)"),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2)), ShapeError, "Found float64"),
        (np.zeros((3, 2, 1)), np.zeros((3, 2)), None, ShapeError, "nodes, tasks"),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), None, DataError, r"columns \[1\]"),
        (np.array([[0.0, np.inf]]), np.zeros((1, 2)), None, DataError, "finite"),
        (np.zeros((1, 2)), np.array([[2, 0]]), None, LabelError, "0 or 1"),
        (np.zeros((1, 1)), np.array([[np.nan]]), np.array([[True]]), LabelError, "0 or 1"),
    ],
)
def test_bad_input(logits, y, observed, error, message):
    with pytest.raises(error, match=message):
        auroc(logits, y, observed)

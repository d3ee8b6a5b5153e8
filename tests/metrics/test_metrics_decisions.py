"""F1 by threshold, by top-k and by the oracle's true k, against scikit-learn and plain loops."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from gnn_mtl._core.errors import DataError, LabelError, ShapeError, UsageError
from gnn_mtl.metrics import (
    ORACLE_METRICS,
    average_precision,
    evaluate,
    f1,
    f1_thresholds,
    f1_top_k,
    f1_true_k,
    macro,
    mean_label_count,
)  # fmt: skip
from gnn_mtl.metrics import _cells as cells


def table(seed, n=120, tasks=9, *, levels=0, missing=0.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, tasks)) - 0.5
    if levels:
        logits = np.round(logits * levels) / levels
    y = (rng.random((n, tasks)) < 0.25).astype(np.float32)
    return logits, y, rng.random((n, tasks)) >= missing


def decided_by_loop(logits, seen, k):
    decided = np.zeros(logits.shape, dtype=bool)
    for row in range(len(logits)):
        order = sorted(np.flatnonzero(seen[row]), key=lambda task: (-logits[row, task], task))
        decided[row, order[: k[row]]] = True
    return decided


def oracle(decided, y, seen):
    each = [f1_score(y[s, t], decided[s, t], zero_division=0) for t, s in enumerate(seen.T)]
    return each, f1_score(y[seen], decided[seen], zero_division=0)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("levels", [0, 2])
def test_all_three_rules_equal_scikit_learn(levels, missing):
    logits, y, seen = table(levels, levels=levels, missing=missing)
    garbage = np.where(seen, logits, np.nan)
    cuts = np.linspace(-1, 1, y.shape[1])
    true_k = ((y == 1) & seen).sum(axis=1)
    for (each, micro), decided in [
        (f1(garbage, y, seen), (logits > 0) & seen),
        (f1(garbage, y, seen, thresholds=cuts), (logits > cuts) & seen),
        (f1_top_k(garbage, y, seen, k=2), decided_by_loop(logits, seen, [2] * len(y))),
        (f1_top_k(garbage, y, seen, k=true_k), decided_by_loop(logits, seen, true_k)),
        (f1_true_k(garbage, y, seen), decided_by_loop(logits, seen, true_k)),
        (f1_top_k(garbage, y, seen, k=0), np.zeros_like(seen)),
        (f1_top_k(garbage, y, seen, k=99), seen),
    ]:
        expected, expected_micro = oracle(decided, y, seen)
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-12)
        assert micro == pytest.approx(expected_micro, abs=1e-12, rel=0)


def test_one_class_labels_are_nan_per_label_and_counted_in_micro():
    y = np.array([[0, 1, 1], [0, 1, 0]])
    logits = np.array([[1.0, 1, 1], [1, 1, -1]])
    each, micro = f1(logits, y)
    np.testing.assert_array_equal(each, [np.nan, np.nan, 1.0])
    assert micro == pytest.approx(2 * 3 / (5 + 3))


def test_logit_zero_is_not_a_positive_decision():
    assert f1([[0.0], [-1.0]], [[1], [0]])[0][0] == 0.0


def test_thresholds_are_the_best_ones():
    logits, y, seen = table(5, n=60, levels=3, missing=0.2)
    cuts = f1_thresholds(logits, y, seen)
    found = f1(logits, y, seen, thresholds=cuts)[0]
    for task in range(y.shape[1]):
        s = seen[:, task]
        every = [
            f1_score(y[s, task], logits[s, task] >= value) for value in np.unique(logits[s, task])
        ]
        assert found[task] == pytest.approx(max(every), abs=1e-12)
    assert f1_thresholds([[1.0], [2.0]], [[0], [0]]).tolist() == [0.0]


def test_thresholds_split_neighbouring_floats():
    low = 1.0
    logits = np.array([low, np.nextafter(low, 2)])
    assert f1(logits, [0, 1], thresholds=f1_thresholds(logits, [0, 1]))[0][0] == 1.0


def test_evaluate_gathers_everything(monkeypatch):
    logits, y, seen = table(3, missing=0.2)
    y[:, 0] = 0
    scores = evaluate(logits, y, seen, top_k=2)
    assert scores.top_k == 2
    assert scores.scored.tolist() == [False] + [True] * 8
    assert scores.positives.tolist() == ((y == 1) & seen).sum(axis=0).tolist()
    assert scores.observed.tolist() == seen.sum(axis=0).tolist()
    for name in ("ap", "auroc", "f1", "f1_top_k", "f1_true_k"):
        assert np.isnan(scores.per_label[name]).tolist() == (~scores.scored).tolist()
        assert scores.macro[name] == pytest.approx(np.nanmean(scores.per_label[name]), abs=1e-12)
    assert scores.macro["ap"] == macro(average_precision(logits, y, seen))
    assert scores.macro["f1_micro"] == f1(logits, y, seen)[1]
    assert set(scores.macro) >= ORACLE_METRICS
    assert evaluate(logits, y, seen).top_k == mean_label_count(y, seen)
    monkeypatch.setattr(cells, "BLOCK_BYTES", 1)
    assert evaluate(logits, y, seen, top_k=2).macro == scores.macro


def test_evaluate_without_a_scorable_label():
    with pytest.raises(LabelError, match="at least one label"):
        evaluate(np.zeros((3, 2)), np.zeros((3, 2)))


def test_mean_label_count():
    assert mean_label_count([[1, 1, 1], [1, 0, 0]]) == 2
    assert mean_label_count([[1, 1, 1], [1, 0, 0]], np.eye(2, 3, dtype=bool)) == 1
    assert mean_label_count(np.zeros((3, 2))) == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: f1(x, x, thresholds=[0.0]), ShapeError, r"Found shape \(1,\)"),
        (lambda x: f1(x, x, thresholds=np.nan), ShapeError, "with NaN"),
        (lambda x: f1_top_k(x, x, k=-1), UsageError, "integers >= 0"),
        (lambda x: f1_top_k(x, x, k=1.5), UsageError, "integers >= 0"),
        (lambda x: f1_top_k(x, x, k=[1, 2, 3]), ShapeError, r"Found \(3,\)"),
        (lambda x: f1(x + np.nan, x), DataError, "finite"),
        (lambda x: f1_true_k(x, x + 3), LabelError, "0 or 1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(np.zeros((2, 2)))

"""``Scores.mean``: the mean that models are chosen by, in which a missing score is 0."""

from dataclasses import replace

import numpy as np
import pytest

from gnn_mtl._core.errors import LabelError
from gnn_mtl.metrics import evaluate

T, ONE_CLASS = 5, 4


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    y = (rng.random((60, T)) < 0.4).astype(np.float64)
    y[:, ONE_CLASS] = 0
    return rng.standard_normal((60, T)), y, rng.random((60, T)) < 0.9


@pytest.fixture
def scores(cells):
    return evaluate(*cells)


@pytest.fixture
def broken(cells, scores):
    """Labels 1 and 2 could be scored and are not."""
    logits, y, observed = cells
    seen = observed.copy()
    seen[:, [1, 2]] = False
    found = evaluate(logits, y, seen)
    return replace(found, positives=scores.positives, observed=scores.observed)


@pytest.mark.parametrize("metric", ["ap", "auroc", "f1"])
def test_without_a_broken_label_it_is_the_macro_mean_to_the_bit(scores, metric):
    assert scores.mean(metric) == scores.macro[metric]
    assert scores.mean(metric, [1, 3, ONE_CLASS]) == scores.per_label[metric][[1, 3]].mean()


@pytest.mark.parametrize("metric", ["ap", "auroc", "f1"])
def test_a_broken_label_counts_0(broken, metric):
    each = np.nan_to_num(broken.per_label[metric])
    assert broken.mean(metric) == pytest.approx(each.sum() / 4)  # the label of one class is in none
    assert broken.mean(metric, [0, 1, ONE_CLASS]) == pytest.approx(each[0] / 2)
    assert broken.mean(metric, [1, 2]) == 0.0


def test_labels_that_nobody_can_score(scores):
    with pytest.raises(LabelError):
        scores.mean("ap", [ONE_CLASS])

"""``group_tasks``: from cosines to groups, and what such groups guarantee (SON-GOKU T1)."""

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import CoverageWarning, UsageError
from gnn_mtl.affinity import gradient_cosine
from gnn_mtl.grouping import group_tasks
from gnn_mtl.tasks import Affinity

GOLDEN = Affinity(
    np.array([[1.0, 0.707107, -1.0], [0.707107, 1.0, -0.707107], [-1.0, -0.707107, 1.0]]), "golden"
)


@pytest.mark.parametrize("coloring", ["welsh_powell", "dsatur", "exact"])
def test_golden_groups(coloring):
    assert group_tasks(GOLDEN, tau=0.25, coloring=coloring).groups == ((0, 1), (2,))
    assert group_tasks(GOLDEN, tau=1.0, coloring=coloring).groups == ((0, 1, 2),)
    assert group_tasks(GOLDEN, tau=-1.0, coloring=coloring).groups == ((0,), (1,), (2,))


def test_random_directions_are_one_group_where_the_released_rule_has_singles():
    rows = torch.randn(40, 4000, generator=torch.Generator().manual_seed(0))
    affinity = gradient_cosine(rows)
    assert len(group_tasks(affinity, tau=0.25)) == 1
    assert int((affinity.values < 0.25).sum()) == 40 * 39  # cos < +tau: every pair an edge


def test_sum_of_a_group_is_as_long_as_promised():
    generator = torch.Generator().manual_seed(1)
    checked = 0
    for tau in (0.05, 0.1, 0.25, 0.4) * 100:
        shape = torch.randint(2, 12, (2,), generator=generator).tolist()
        rows = torch.randn(*shape, generator=generator, dtype=torch.float64)
        rows *= torch.randn(shape[0], 1, generator=generator, dtype=torch.float64).exp()
        for group in group_tasks(gradient_cosine(rows), tau=tau).groups:
            members = rows[list(group)]
            squares = float((members**2).sum())
            bound = (1 - tau * (len(group) - 1)) * squares
            assert float((members.sum(dim=0) ** 2).sum()) >= bound - 1e-9 * squares
            checked += len(group) > 1
    assert checked > 300


@pytest.mark.parametrize("num_tasks", [2, 3, 6])
def test_that_bound_is_tight_for_the_regular_simplex(num_tasks):
    rows = torch.eye(num_tasks, dtype=torch.float64) - 1 / num_tasks
    cosine = gradient_cosine(rows)
    tau = -float(cosine.values.min())
    assert tau == pytest.approx(1 / (num_tasks - 1))
    assert len(group_tasks(cosine, tau=min(tau + 1e-9, 1.0))) == 1
    assert len(group_tasks(cosine, tau=tau - 1e-9)) == num_tasks
    assert float((rows.sum(dim=0) ** 2).sum()) == pytest.approx(0.0, abs=1e-20)


def test_coverage_overlaps_and_warns_where_it_cannot_be_reached():
    values = np.eye(4)
    values[0, 1] = values[1, 0] = -1.0
    grouping = group_tasks(Affinity(values, "m"), min_coverage=1)
    assert grouping.is_disjoint
    with pytest.warns(CoverageWarning, match="at least 2 groups"):
        covered = group_tasks(Affinity(values, "m"), min_coverage=2)
    assert covered.groups == ((0, 2, 3), (1, 2, 3))


def test_random_method():
    grouping = group_tasks(GOLDEN, method="random", sizes=(2, 1), seed=3)
    assert sorted(grouping.sizes) == [1, 2]
    assert grouping == group_tasks(GOLDEN, method="random", sizes=(2, 1), seed=3)
    assert group_tasks(GOLDEN, method="random", num_groups=3).sizes == (1, 1, 1)
    for options in ({}, {"sizes": (3,), "num_groups": 1}):
        with pytest.raises(UsageError, match="either"):
            group_tasks(GOLDEN, method="random", **options)


def test_unknown_cells_are_no_conflict():
    unknown = Affinity(np.full((3, 3), np.nan), "m")
    assert group_tasks(unknown, tau=-1.0).groups == ((0, 1, 2),)


def test_unknown_method_and_options():
    with pytest.raises(UsageError, match=r"method.*Did you mean 'coloring'"):
        group_tasks(GOLDEN, method="colouring")
    with pytest.raises(TypeError, match="base_method"):
        group_tasks(GOLDEN, base_method="pcgrad")
    with pytest.raises(UsageError, match="tau"):
        group_tasks(GOLDEN, tau=1.5)

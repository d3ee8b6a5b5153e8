"""What every clustering must do with every affinity."""

from functools import partial

import numpy as np
import pytest

from gnn_mtl._core.errors import UsageError
from gnn_mtl.grouping import METHODS, cocluster_groups, group_tasks, spectral_groups
from gnn_mtl.tasks import Affinity, Grouping

NAMES = (
    "sdp", "spectral", "extended_spectral", "cocluster", "k_medoids", "exact", "branch_and_bound",
    "greedy",
)  # fmt: skip
OVERLAPPING = ("extended_spectral", "cocluster")


def affinities():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 9))
    holes = values.copy()
    holes[rng.random((9, 9)) < 0.4] = np.nan
    row = (values + values.T) / 2
    row[3, :] = row[:, 3] = np.nan
    blocks = np.kron(np.eye(3), np.ones((3, 3)))
    return {
        "negative": -np.abs(values + values.T),
        "asymmetric": values,
        "holes": holes,
        "a task unknown": row,
        "constant": np.full((9, 9), 0.5),
        "zero": np.zeros((9, 9)),
        "disconnected": blocks,
        "duplicates": np.repeat(np.repeat(values[:3, :3] + values[:3, :3].T, 3, 0), 3, 1),
        "tiny": 1e-12 * (values + values.T),
        "huge": 1e12 * (values + values.T),
        "two tasks": np.array([[1.0, -0.5], [-0.5, 1.0]]),
        "one task": np.array([[1.0]]),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", affinities())
def test_every_affinity_is_grouped(name, which):
    values = affinities()[which]
    same = np.allclose(values, values.T, equal_nan=True)
    affinity = Affinity(values, which, unit="gain", symmetric=same)
    number = len(values)
    for wanted in (None, 1, min(2, number), number):
        found = group_tasks(affinity, name, num_groups=wanted)
        assert found.num_tasks == number
        assert found.method.startswith(f"{name}(")
        if name not in OVERLAPPING:
            assert found.is_disjoint
            assert wanted in (None, len(found))
        assert found == group_tasks(affinity, name, num_groups=wanted)
        assert ("imputed=0" in found.method) == (not np.isnan(values).any())
        assert "imputed=" in found.method
    with pytest.raises(UsageError, match=rf"should lie in \[1, {number}\]"):
        group_tasks(affinity, name, num_groups=number + 1)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_known_is_refused(name):
    with pytest.raises(UsageError, match="only NaN"):
        group_tasks(Affinity(np.full((3, 3), np.nan), "m"), name, num_groups=2)


@pytest.mark.parametrize("name", NAMES)
def test_clear_groups_are_found_whatever_the_names_of_tasks(name):
    owner = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    noise = np.random.default_rng(1).normal(size=(12, 12))
    values = (owner[:, None] == owner) + 0.05 * (noise + noise.T)
    truth = Grouping.from_assignments(owner.tolist())
    found = group_tasks(Affinity(values, "m", unit="gain"), name, num_groups=3)
    assert found == truth
    order = np.random.default_rng(2).permutation(12)
    shuffled = Affinity(values[np.ix_(order, order)], "m", unit="gain")
    moved = group_tasks(shuffled, name, num_groups=3)
    assert moved == Grouping.from_assignments(owner[order].tolist())


def test_unknown_options_are_type_errors():
    affinity = Affinity(np.eye(3), "m")
    for name in NAMES:
        with pytest.raises(TypeError):
            group_tasks(affinity, name, tau=0.1)
    assert set(NAMES) < set(METHODS)


def test_random_groups_like_those_found(tmp_path):
    affinity = Affinity(np.random.default_rng(0).normal(size=(7, 7)), "m", symmetric=False)
    found = Grouping.of([(0, 1, 2), (3, 4), (5, 6)], 7)
    found.save(tmp_path / "found.json")
    like = partial(group_tasks, affinity, "random", like=tmp_path / "found.json")
    assert sorted(like(seed=1).sizes) == sorted(found.sizes)
    assert like(seed=1) != like(seed=2)
    with pytest.raises(UsageError, match="either `sizes`, `num_groups` or `like`"):
        like(num_groups=3)
    Grouping.of([(0, 1)], 2).save(tmp_path / "found.json")
    with pytest.raises(UsageError, match=r"should group 7 tasks\. Found 2"):
        like()


def test_options_change_something():
    affinity = Affinity(affinities()["asymmetric"], "m", unit="gain", symmetric=False)
    hot = spectral_groups(affinity, num_groups=3, temperature=100.0)
    assert spectral_groups(affinity, num_groups=3, temperature=0.1) != hot
    assert cocluster_groups(affinity, num_groups=3, helpers=False).is_disjoint
    assert not cocluster_groups(affinity, num_groups=3).is_disjoint

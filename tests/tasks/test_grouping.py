"""``Grouping``: a value that covers every task, and its file."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import FileFormatError, UsageError
from gnn_mtl.tasks import Grouping


def test_order_and_repeats_do_not_matter():
    grouping = Grouping.of([[3, 1, 1], np.array([0, 2])], 4, "a")
    assert grouping.groups == ((0, 2), (1, 3))
    assert grouping == Grouping.of([{0, 2}, (1, 3)], 4, "b")
    assert len({grouping, Grouping.of([[2, 0], [3, 1]], 4)}) == 1
    assert grouping != Grouping.of([[0, 1], [2, 3]], 4)
    assert grouping != "grouping"
    assert len(grouping) == 2
    assert grouping.sizes == (2, 2)


def test_overlap_is_allowed_and_known():
    assert Grouping.of([[0, 1], [2]], 3).is_disjoint
    assert not Grouping.of([[0, 1], [1, 2]], 3).is_disjoint


def test_the_first_group_that_holds_each_task():
    grouping = Grouping.of([[3, 4], [0, 3], [1, 2, 0], [2]], 5)
    first = [next(n for n, group in enumerate(grouping.groups) if t in group) for t in range(5)]
    assert grouping.first_of().tolist() == first == [0, 0, 0, 1, 3]
    assert grouping.first_of().dtype == np.int64


def test_repr_is_the_value():
    grouping = Grouping.of([[2, 0], [1]], 3, "m")
    assert eval(repr(grouping)) == grouping  # noqa: S307


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_assignments_and_memberships_say_the_same(assignments):
    grouping = Grouping.from_assignments(assignments)
    members = grouping.memberships()
    assert members.sum(axis=0).tolist() == [1] * len(assignments)
    for task, other in np.ndindex(len(assignments), len(assignments)):
        together = bool((members[:, task] & members[:, other]).any())
        assert together == (assignments[task] == assignments[other])


@pytest.mark.parametrize(
    ("groups", "num_tasks", "match"),
    [
        ([[0]], 2, "cover all 2 tasks"),
        ([[0, 1], []], 2, "empty group"),
        ([[0, 2]], 2, r"lie in \[0, 2\)"),
        ([[0, -1]], 1, r"lie in \[0, 1\)"),
        ([], 0, "at least one task"),
        ([], 1, "cover all 1 tasks"),
    ],
)
def test_invalid_groups(groups, num_tasks, match):
    with pytest.raises(UsageError, match=match):
        Grouping.of(groups, num_tasks)


def test_save_and_load(tmp_path):
    path = tmp_path / "groups.json"
    grouping = Grouping.of([[0, 2], [1]], 3, "coloring(tau=0.25)")
    grouping.save(path, label_names=["x", "ÿ", "z"])
    loaded = Grouping.load(path)
    assert loaded == grouping
    assert loaded.method == grouping.method
    assert json.loads(path.read_text(encoding="utf-8"))["label_names"] == [["x", "z"], ["ÿ"]]
    assert [file.name for file in tmp_path.iterdir()] == ["groups.json"]


GOOD = {"format": "gnn-mtl/grouping", "version": 1, "num_tasks": 2, "groups": [[0], [1]]}


def test_the_good_file_is_good(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps(GOOD))
    assert Grouping.load(path).sizes == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"version": None},
        {"num_tasks": 3},
        {"num_tasks": None},
        {"groups": [[0], [2]]},
        {"groups": [0, 1]},
        {"groups": {"a": 1}},
        {"groups": [["x"], [1]]},
        {"groups": None},
    ],
)
def test_a_tampered_file_is_a_typed_error(change, tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(FileFormatError, match=r"Grouping\.save"):
        Grouping.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"\x80\x04K\x01."])
def test_a_file_that_is_no_grouping(content, tmp_path):
    path = tmp_path / "groups.json"
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        Grouping.load(path)


def test_a_truncated_file_is_a_typed_error_at_every_length(tmp_path):
    path = tmp_path / "groups.json"
    Grouping.of([[0, 2], [1]], 3).save(path)
    whole = path.read_text().rstrip()
    for length in range(len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(FileFormatError):
            Grouping.load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        Grouping.load(tmp_path / "none.json")
    with pytest.raises(FileFormatError):
        Grouping.load(tmp_path)


def test_task_ids_are_whole_numbers(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({**GOOD, "groups": [[0.7], [1.2]]}))
    with pytest.raises(FileFormatError):
        Grouping.load(path)

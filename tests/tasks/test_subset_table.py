"""``SubsetTable``: its checks, its parts, and files that come back whole or not at all."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import FileFormatError, ShapeError, UsageError
from gnn_mtl.tasks import Affinity, SubsetTable

MASKS = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1]], dtype=bool)
SCORES = np.where(MASKS, np.arange(16.0).reshape(4, 4), np.nan)
SCORES[1, 2] = np.nan  # a member that was not measured


@pytest.fixture
def table():
    return SubsetTable(
        MASKS, SCORES, "trained", "ap", "valid", 7, np.where(MASKS, 0.5, np.nan),
        np.array([1.0, np.nan, 3.0, 4.0]), ("a", "b", "ü", "d"), {"epochs": 3},
    )  # fmt: skip


def test_what_it_holds(table):
    assert (table.num_subsets, table.num_tasks) == (4, 4)
    assert table.known.tolist() == (~np.isnan(SCORES)).tolist()
    for name in ("masks", "scores", "stderr", "baseline"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(table, name)[0] = 0


def test_arrays_are_copies():
    masks, scores = MASKS.copy(), SCORES.copy()
    table = SubsetTable(masks, scores, "trained")
    masks[:], scores[:] = False, 9.0
    np.testing.assert_array_equal(table.masks, MASKS)
    np.testing.assert_array_equal(table.scores, SCORES)


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_pair_counts_count_pairs(num_tasks, number, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((number, num_tasks)) < 0.5
    masks[:, 0] |= ~masks.any(axis=1)
    table = SubsetTable(masks, np.full(masks.shape, np.nan), "trained")
    brute = [
        [sum(r[i] and r[j] for r in masks) for j in range(num_tasks)] for i in range(num_tasks)
    ]
    assert table.pair_counts().tolist() == brute
    assert table.pair_counts().dtype == np.int64


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"masks": MASKS[0]}, "should be a matrix"),
        ({"masks": np.zeros((0, 4), bool), "scores": np.zeros((0, 4))}, "should be a matrix"),
        ({"masks": np.array([[True], [False]]), "scores": np.full((2, 1), np.nan)}, "row 1"),
        ({"scores": SCORES[:2]}, "`scores` should have shape"),
        ({"scores": np.where(MASKS, np.inf, np.nan)}, "Found infinities"),
        ({"scores": np.zeros((4, 4))}, "task 2, which subset 0 does not hold"),
        ({"stderr": np.zeros(4)}, "`stderr` should have shape"),
        ({"baseline": np.zeros(3)}, "`baseline` should have shape"),
        ({"label_names": ("a",)}, "`label_names` should hold 4"),
    ],
)
def test_wrong_shapes_are_named(table, change, what):
    with pytest.raises(ShapeError, match=what):
        replace(table, **change)


def test_scores_on_the_test_split_are_refused():
    with pytest.raises(UsageError, match="Found the test split"):
        SubsetTable(MASKS, SCORES, "trained", split="test")


def test_selected_tasks_keep_the_subsets_wholly_among_them(table):
    part = table.select_tasks([2, 1])
    np.testing.assert_array_equal(part.masks, [[True, True]])
    np.testing.assert_array_equal(part.scores, [[np.nan, SCORES[1, 1]]])
    np.testing.assert_array_equal(part.baseline, [3.0, np.nan])
    assert part.label_names == ("ü", "b")
    with pytest.raises(UsageError, match="None of 4"):
        table.select_tasks([0, 2])
    for wrong in ([], [0, 0], [4], [-1]):
        with pytest.raises(UsageError, match="distinct ids"):
            table.select_tasks(wrong)


def test_selected_subsets(table):
    part = table.select_subsets([2, 0])
    np.testing.assert_array_equal(part.scores, SCORES[[2, 0]])
    np.testing.assert_array_equal(part.stderr, table.stderr[[2, 0]])
    for wrong in ([], [4], [-1]):
        with pytest.raises(UsageError, match="ids of subsets"):
            table.select_subsets(wrong)


def test_two_tables_put_together(table):
    both = table.concat(replace(table, stderr=None, seed=9))
    assert both.num_subsets == 8
    assert both.seed == 7
    np.testing.assert_array_equal(both.scores[4:], SCORES)
    np.testing.assert_array_equal(both.stderr[:4], table.stderr)
    assert np.isnan(both.stderr[4:]).all()
    np.testing.assert_array_equal(both.pair_counts(), 2 * table.pair_counts())
    for change in (
        {"metric": "loss"}, {"source": "linearised"}, {"split": "train"},
        {"label_names": None}, {"baseline": None}, {"baseline": np.zeros(4)},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(change))):
            table.concat(replace(table, **change))
    with pytest.raises(ShapeError, match="4 and 2"):
        table.concat(SubsetTable(MASKS[:1, :2], SCORES[:1, :2], "trained"))


def test_save_and_load_keep_everything(table, tmp_path):
    path = tmp_path / "table.npz"
    table.save(path)
    loaded = SubsetTable.load(path)
    for name in ("masks", "scores", "stderr", "baseline"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
    for name in ("source", "metric", "split", "seed", "label_names", "details"):
        assert getattr(loaded, name) == getattr(table, name)
    assert [file.name for file in tmp_path.iterdir()] == ["table.npz"]


def test_what_is_absent_stays_absent(tmp_path):
    SubsetTable(MASKS, SCORES, "trained").save(tmp_path / "t.npz")
    loaded = SubsetTable.load(tmp_path / "t.npz")
    assert loaded.stderr is loaded.baseline is loaded.label_names is None


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        SubsetTable.load(tmp_path / "none.npz")


def test_a_truncated_file_is_a_typed_error_at_every_length(table, tmp_path):
    path = tmp_path / "table.npz"
    table.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"SubsetTable\.save"):
            SubsetTable.load(path)


def test_a_flipped_byte_is_a_typed_error_or_changes_nothing(table, tmp_path):
    path = tmp_path / "table.npz"
    table.save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            loaded = SubsetTable.load(path)
        except FileFormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.scores, table.scores)
            assert loaded.details == table.details
    assert refused > len(whole) / 15


def rewritten(path, **header):
    """The file with other values in its header, its arrays as they are."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    known = json.loads(str(arrays["header"]))
    buffer = io.BytesIO()
    np.savez(buffer, **{**arrays, "header": np.array(json.dumps({**known, **header}))})
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"version": 2}, "Found: gnn-mtl/subset-table, version 2. Measure"),
        ({"format": "gnn-mtl/affinity"}, "Found: gnn-mtl/affinity, version 1. Measure"),
        ({"split": "test"}, "Found the test split. Measure"),
    ],
)
def test_other_versions_formats_and_splits_are_refused(table, tmp_path, header, found):
    path = tmp_path / "table.npz"
    table.save(path)
    rewritten(path, **header)
    with pytest.raises(FileFormatError, match="table of subsets") as refused:
        SubsetTable.load(path)
    assert found in str(refused.value)


def test_pickles_and_other_files_are_refused(tmp_path):
    path = tmp_path / "table.npz"
    with path.open("wb") as file:
        np.savez(file, header=np.array({"a": 1}, dtype=object), masks=MASKS)
    with pytest.raises(FileFormatError):
        SubsetTable.load(path)
    Affinity(np.eye(2), "m").save(path)
    with pytest.raises(FileFormatError):
        SubsetTable.load(path)
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(FileFormatError, match="no archive of plain arrays"):
        SubsetTable.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(FileFormatError):
        SubsetTable.load(path)

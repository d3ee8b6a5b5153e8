"""``Affinity``: its checks, its unknown cells, and files that come back whole or not at all."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from gnn_mtl._core.errors import FileFormatError, ShapeError
from gnn_mtl.tasks import Affinity

VALUES = np.array([[1.0, 0.5, np.nan], [0.5, 1.0, -0.25], [np.nan, -0.25, 1.0]])


@pytest.fixture
def affinity():
    return Affinity(
        VALUES,
        "gradient_cosine",
        counts=np.full((3, 3), 7),
        stderr=np.full((3, 3), 0.125),
        label_names=("a", "b", "ü"),
        details={"step": 32, "parameters": ["conv.weight"]},
    )


def test_values_are_a_frozen_copy():
    values = VALUES.copy()
    affinity = Affinity(values, "m")
    values[0, 1] = 9.0
    assert affinity.values[0, 1] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        affinity.values[0, 1] = 0.0
    assert affinity.num_tasks == 3
    assert affinity.known.tolist() == (~np.isnan(VALUES)).tolist()


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros(3), np.zeros((0, 0))])
def test_only_square_matrices(values):
    with pytest.raises(ShapeError, match="square matrix"):
        Affinity(values, "m")


def test_infinity_is_not_a_value():
    with pytest.raises(ShapeError, match="Found infinities"):
        Affinity(np.array([[1.0, np.inf], [np.inf, 1.0]]), "m")


def test_said_to_be_symmetric_means_symmetric():
    directed = np.array([[1.0, 0.2], [0.4, 1.0]])
    with pytest.raises(ShapeError, match="differs from its transpose"):
        Affinity(directed, "m")
    both = Affinity(directed, "m", symmetric=False).symmetrized()
    assert both.symmetric
    assert both.values.tolist() == pytest.approx(np.array([[1.0, 0.3], [0.3, 1.0]]))


def test_symmetrized_takes_the_known_direction_and_never_invents_one():
    directed = np.array([[1.0, 0.2, np.nan], [np.nan, 1.0, np.nan], [0.6, np.nan, 1.0]])
    both = Affinity(directed, "m", symmetric=False).symmetrized().values
    assert both[0, 1] == both[1, 0] == 0.2
    assert both[0, 2] == both[2, 0] == 0.6
    assert np.isnan(both[1, 2])
    assert np.isnan(both[2, 1])


@pytest.mark.parametrize(
    "extra", [{"counts": np.ones(3)}, {"stderr": np.ones((2, 2))}, {"label_names": ("a", "b")}]
)
def test_extras_must_match_the_tasks(extra):
    with pytest.raises(ShapeError, match=next(iter(extra))):
        Affinity(VALUES, "m", **extra)


def test_save_and_load_keep_everything(affinity, tmp_path):
    path = tmp_path / "affinity.npz"
    affinity.save(path)
    loaded = Affinity.load(path)
    for name in ("values", "counts", "stderr"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(affinity, name))
    for name in ("method", "unit", "symmetric", "label_names", "details"):
        assert getattr(loaded, name) == getattr(affinity, name)
    assert [file.name for file in tmp_path.iterdir()] == ["affinity.npz"]


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Affinity.load(tmp_path / "none.npz")


def test_a_truncated_file_is_a_typed_error_at_every_length(affinity, tmp_path):
    path = tmp_path / "affinity.npz"
    affinity.save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError, match=r"Affinity\.save"):
            Affinity.load(path)


def test_a_flipped_byte_is_a_typed_error_or_changes_nothing(affinity, tmp_path):
    path = tmp_path / "affinity.npz"
    affinity.save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            loaded = Affinity.load(path)
        except FileFormatError:
            refused += 1
        else:
            np.testing.assert_array_equal(loaded.values, affinity.values)
            assert loaded.method == affinity.method
    assert refused > len(whole) / 9


def _archive(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


HEADER = {
    "format": "gnn-mtl/affinity", "version": 1, "method": "m", "unit": "cosine",
    "symmetric": True, "details": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "values"),
    [
        ({**HEADER, "format": "other"}, np.eye(2)),
        ({**HEADER, "version": 2}, np.eye(2)),
        ({**HEADER, "version": "1"}, np.eye(2)),
        ({key: HEADER[key] for key in HEADER if key != "method"}, np.eye(2)),
        ([1, 2], np.eye(2)),
        (HEADER, np.zeros((2, 3))),
        (HEADER, np.array([[1.0, 0.2], [0.4, 1.0]])),
        (HEADER, np.array([["a", "b"], ["c", "d"]])),
    ],
)
def test_an_archive_of_another_kind_is_a_typed_error(header, values, tmp_path):
    path = tmp_path / "affinity.npz"
    _archive(path, header=np.array(json.dumps(header)), values=values)
    with pytest.raises(FileFormatError):
        Affinity.load(path)


def test_the_archive_written_by_hand_is_right_but_for_what_each_case_changes(tmp_path):
    path = tmp_path / "affinity.npz"
    _archive(path, header=np.array(json.dumps(HEADER)), values=np.eye(2))
    assert Affinity.load(path).num_tasks == 2


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    path = tmp_path / "affinity.npz"
    with zipfile.ZipFile(path, "w") as archive:
        body = io.BytesIO()
        np.lib.format.write_array(body, np.array(json.dumps(HEADER)))
        archive.writestr("header.npy", body.getvalue())
        body = io.BytesIO()
        np.lib.format.write_array(body, np.array([Trap()], dtype=object), allow_pickle=True)
        archive.writestr("values.npy", body.getvalue())
    with pytest.raises(FileFormatError):
        Affinity.load(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileFormatError):
        Affinity.load(path)

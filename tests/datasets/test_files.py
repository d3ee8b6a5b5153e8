"""Stored graphs: what goes in comes out, and damage is found."""

import contextlib
import errno
import json
import os
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from gnn_mtl._core.errors import (
    DataError,
    FeatureError,
    FileFormatError,
    LabelWarning,
    SealedLabelsError,
    StorageError,
    UsageError,
)
from gnn_mtl.datasets import (
    TaskGraph,
    load_folder,
    load_npz,
    planted,
    save_folder,
    save_npz,
    verify,
)
from gnn_mtl.datasets._splits import SPLITS

RNG = np.random.default_rng(0)
EDGES = RNG.integers(0, 28, size=(2, 90))
Y = (RNG.random((30, 9)) < 0.4).astype(float)


def graph(**changes):
    y = Y.copy()
    if changes.pop("partial", False):
        y[RNG.random(y.shape) < 0.2] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelWarning)
        return TaskGraph.from_arrays(EDGES, y, name="tiny", **changes)


def cases():
    x = np.random.default_rng(1).standard_normal((30, 4)).astype(np.float32)
    yield "plain", {}
    yield "dense", {"x": x, "extras": {"word": np.array(["a", "é"]), "note": {"k": [1, None]}}}
    yield "half", {"x": x.astype(np.float16)}
    yield "sparse", {"x": sp.csr_matrix(np.where(x > 0, x, 0)), "label_names": list("abcdefghi")}
    yield "partial", {"partial": True}
    yield "unlabelled", {"observed": np.arange(30) % 5 > 0}
    yield "cells", {"split": "task"}
    yield "edges", {"edge_attr": np.arange(180.0).reshape(90, 2)}
    yield "directed", {"directed": True}
    yield "kept", {"directed": True, "keep_direction": True, "edge_attr": np.arange(90.0)}
    yield "both ways", {"directed": True, "edge_attr": np.arange(90.0)}


CASES = dict(cases())


def same(first, second):
    assert first.fingerprint() == second.fingerprint()
    assert (first.name, first.directed, first.label_names) == (
        second.name, second.directed, second.label_names,
    )  # fmt: skip
    nodes = np.arange(first.num_nodes)
    for name in SPLITS:
        for mine, theirs in zip(
            first.targets(nodes, name), second.targets(nodes, name), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(first.split_idx[name], second.split_idx[name])
    np.testing.assert_array_equal(first.csc.indptr, second.csc.indptr)
    np.testing.assert_array_equal(first.csc.indices, second.csc.indices)
    if first.edge_attr is not None:
        np.testing.assert_array_equal(
            first.edge_attr[first.csc.edge_ids], second.edge_attr[second.csc.edge_ids]
        )
    if first.x is not None:
        np.testing.assert_array_equal(first.features(nodes), second.features(nodes))
    assert first.extras.keys() == second.extras.keys()
    for key, value in first.extras.items():
        np.testing.assert_array_equal(value, second.extras[key])


@pytest.mark.filterwarnings("ignore:.*no positive in training")
@pytest.mark.parametrize("case", CASES)
def test_round_trips(case, tmp_path):
    whole = graph(**CASES[case])
    keep = {"keep_direction": case == "kept"}
    save_npz(whole, tmp_path / "g.npz")
    same(whole, load_npz(tmp_path / "g.npz", **keep))
    save_folder(whole, tmp_path / "g")
    same(whole, load_folder(tmp_path / "g", **keep))
    same(whole, load_folder(tmp_path / "g", mmap=False, **keep))
    assert verify(tmp_path / "g.npz") == []
    assert verify(tmp_path / "g") == []
    again = load_folder(tmp_path / "g", **keep)
    save_npz(again, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "g.npz").read_bytes()


@pytest.mark.filterwarnings("ignore:.*no positive in training")
def test_a_directed_file_is_made_symmetric_unless_told(tmp_path):
    whole = graph(directed=True, keep_direction=True)
    save_npz(whole, tmp_path / "g.npz")
    save_folder(whole, tmp_path / "g")
    wanted = graph(directed=True).csc
    for loaded in (load_npz(tmp_path / "g.npz"), load_folder(tmp_path / "g")):
        np.testing.assert_array_equal(loaded.csc.indices, wanted.indices)
        assert loaded.directed


def test_folders_are_memory_maps(tmp_path):
    whole = planted(200, num_tasks=5, num_groups=1)
    save_folder(whole, tmp_path / "g")
    opened = load_folder(tmp_path / "g")
    for array in (opened.csc.indptr, opened.csc.indices, opened.x, opened._labels.positive.bits):
        assert isinstance(array, np.memmap)
    assert not isinstance(load_folder(tmp_path / "g", mmap=False).x, np.memmap)


def test_the_layout_is_the_documented_one(tmp_path):
    whole = graph(x=sp.csr_matrix(np.eye(30)))
    save_npz(whole, tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz", allow_pickle=False) as stored:
        header = json.loads(str(stored["header"]))
        assert (header["format"], header["version"]) == ("gnn-mtl/graph", 1)
        assert set(header["sha256"]) == set(stored.files) - {"header"}
        pairs = {tuple(sorted(edge)) for edge in EDGES.T.tolist()}
        assert {tuple(sorted(edge)) for edge in stored["edge_index"].T.tolist()} == pairs
        assert stored["edge_index"].shape == (2, len(pairs))
        lists = sp.csr_matrix(
            (np.ones(len(stored["y_indices"])), stored["y_indices"], stored["y_indptr"]),
            shape=tuple(stored["y_shape"]),
        )
        np.testing.assert_array_equal(lists.toarray(), Y)
        assert sorted(np.concatenate([stored[f"split_{name}"] for name in SPLITS])) == [*range(30)]


@pytest.mark.parametrize("save", [save_npz, save_folder])
def test_sealed_graphs_and_odd_extras_are_not_written(save, tmp_path):
    with pytest.raises(SealedLabelsError):
        save(graph().sealed(), tmp_path / "g")
    with pytest.raises(UsageError, match=r"extras.*set"):
        save(graph(extras={"odd": {1, 2}}), tmp_path / "g")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(UsageError, match="remove it"):
        save_folder(graph(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    (tmp_path / "empty").mkdir()
    save_folder(graph(), tmp_path / "empty")
    assert verify(tmp_path / "empty") == []


@pytest.mark.parametrize(("save", "name"), [(save_npz, "savez_compressed"), (save_folder, "save")])
def test_a_full_disk_leaves_nothing(save, name, tmp_path, monkeypatch):
    real = getattr(np, name)

    def full(file, *args, **kwargs):
        if save is save_npz:
            file.write(b"half")
        else:
            real(file, *args, **kwargs)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, name, full)
    with pytest.raises(StorageError, match=r"No space left.*nothing half-written"):
        save(graph(), tmp_path / "sub" / "g")
    assert list((tmp_path / "sub").iterdir()) == []


@pytest.fixture
def stored(tmp_path):
    save_npz(graph(x=np.ones((30, 3), dtype=np.float32)), tmp_path / "g.npz")
    return tmp_path / "g.npz"


def rewrite(path, change, *, header=None):
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    head = json.loads(str(arrays["header"]))
    head.update(header or {})
    arrays["header"] = np.array(json.dumps(head))
    change(arrays)
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_truncated_files(stored, share):
    whole = stored.read_bytes()
    stored.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(FileFormatError, match=r"g\.npz"):
        load_npz(stored)
    assert len(verify(stored)) == 1


def test_any_flipped_byte_is_found_or_harmless(stored):
    whole = stored.read_bytes()
    good = load_npz(stored).fingerprint()
    for place in np.random.default_rng(0).integers(0, len(whole), 150):
        stored.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with contextlib.suppress(FileFormatError):
            assert load_npz(stored).fingerprint() == good


@pytest.mark.parametrize("name", ["edge_index", "y_indices", "x", "labelled", "split_test"])
def test_changed_arrays(stored, name):
    def change(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = not arrays[name].flat[0]

    rewrite(stored, change)
    with pytest.raises(FileFormatError, match=f"Changed.*{name}"):
        load_npz(stored)


def test_added_removed_and_pickled_arrays(stored):
    rewrite(stored, lambda arrays: arrays.update(stranger=np.zeros(2)))
    with pytest.raises(FileFormatError, match="stranger"):
        load_npz(stored)
    rewrite(stored, lambda arrays: (arrays.pop("stranger"), arrays.pop("x")))
    with pytest.raises(FileFormatError, match="x"):
        load_npz(stored)
    rewrite(stored, lambda arrays: arrays.update(x=np.array([{}], dtype=object)))
    with pytest.raises(FileFormatError, match="pickled"):
        load_npz(stored)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"version": 99}, "version 1 or older.*99"),
        ({"version": "1"}, "version"),
        ({"format": "other"}, "data import"),
        ({"sha256": None}, "sha256"),
    ],
)
def test_other_headers(stored, header, words):
    rewrite(stored, lambda arrays: None, header=header)
    with pytest.raises(FileFormatError, match=words):
        load_npz(stored)


def test_files_without_header(tmp_path, stored):
    np.savez(tmp_path / "plain.npz", edge_index=EDGES)
    with pytest.raises(FileFormatError, match=r"`header`.*edge_index.*data import"):
        load_npz(tmp_path / "plain.npz")
    rewrite(stored, lambda arrays: arrays.update(header=np.array("{")))
    with pytest.raises(FileFormatError, match="JSON"):
        load_npz(stored)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(FileFormatError, match=r"whole .npz"):
        load_npz(tmp_path / "text.npz")
    np.save(tmp_path / "array.npy", EDGES)
    with pytest.raises(FileFormatError, match=r"whole .npz"):
        load_npz(tmp_path / "array.npy")
    with pytest.raises(FileNotFoundError):
        load_npz(tmp_path / "none.npz")


def forge(path, **arrays):
    """Change arrays of a file and its checksums with them: only invariants can tell."""
    from gnn_mtl.datasets._fingerprint import array_sha256

    with np.load(path) as archive:
        header = json.loads(str(archive["header"]))
    header["sha256"] |= {name: array_sha256(array) for name, array in arrays.items()}
    rewrite(path, lambda found: found.update(arrays), header={"sha256": header["sha256"]})


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("edge_index", np.array([[0], [30]], dtype=np.int32), r"\[0, 30\)"),
        ("y_indices", np.full(int(Y.sum()), 9, dtype=np.int16), r"y_ind.*\[0, 9\)"),
        ("y_indptr", np.zeros(31, dtype=np.int64), "lists"),
        ("labelled", np.ones(29, dtype=np.bool_), "labelled"),
        ("split_train", np.array([99]), r"\[0, 30\)"),
        ("split_train", np.zeros(0, dtype=np.int32), "non-empty"),
        ("label_names", np.array(["a"]), "9 names"),
        ("x", np.full((30, 3), np.nan, dtype=np.float32), "finite"),
        ("x", np.ones((29, 3), dtype=np.float32), "30"),
    ],
)
def test_forged_arrays_break_an_invariant(stored, name, array, words):
    forge(stored, **{name: array})
    with pytest.raises(DataError, match=words):
        load_npz(stored)
    assert len(verify(stored)) == 1


def test_verify_compares_the_fingerprint(stored):
    forge(stored, x=np.full((30, 3), 2, dtype=np.float32))
    load_npz(stored)
    assert "fingerprint" in verify(stored)[0]


def test_verify_reads_the_sums_beside_a_file(stored):
    (stored.parent / "SHA256SUMS").write_text(f"{'0' * 64}  g.npz\n")
    assert "SHA256SUMS" in verify(stored)[0]


@pytest.fixture
def folder(tmp_path):
    save_folder(graph(x=np.ones((30, 3), dtype=np.float32)), tmp_path / "g")
    return tmp_path / "g"


def test_damaged_folders(folder):
    x = np.load(folder / "x.npy")
    np.save(folder / "x.npy", 2 * x)
    load_folder(folder)
    assert any("x.npy" in finding for finding in verify(folder))
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-40])
    with pytest.raises(FileFormatError, match=r"x.npy"):
        load_folder(folder)
    (folder / "x.npy").unlink()
    with pytest.raises(FileFormatError, match=r"x.npy"):
        load_folder(folder)
    assert len(verify(folder)) == 1


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("indices", lambda a: a[::-1].copy(), "ascend"),
        ("indices", lambda a: np.where(a == a[0], 30, a).astype(np.int32), r"\[0, 30\)"),
        ("indptr", lambda a: np.concatenate([a[:3], a[-1:], a[4:]]), "decrease"),
        ("indices", lambda a: np.sort(np.where(a == a[0], 28, a)).astype(np.int32), "."),
        ("x", lambda a: a * np.nan, "finite"),
    ],
)
def test_verify_finds_broken_invariants_in_folders(folder, name, change, words):
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))
    findings = verify(folder)
    assert len(findings) >= 2
    assert any(f"{name}.npy" in finding for finding in findings)
    import re

    assert any(re.search(words, finding) for finding in findings[1:])


def test_folders_of_another_kind(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileFormatError, match=r"meta\.json"):
        load_folder(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        load_folder(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="nothing"):
        verify(tmp_path / "none")
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"version": 7}))
    with pytest.raises(FileFormatError, match="Update"):
        load_folder(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(FileFormatError, match="JSON"):
        load_folder(folder)
    del meta["sha256"]["indptr"]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(FileFormatError, match="indptr"):
        load_folder(folder)


def test_feature_checks_can_wait(tmp_path, folder):
    np.save(folder / "x.npy", np.full((30, 3), np.nan, dtype=np.float32))
    opened = load_folder(folder)
    with pytest.raises(FeatureError):
        opened.with_features(opened.x)

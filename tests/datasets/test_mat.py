"""MATLAB files of BlogCatalog, PPI and POS, whole and damaged; scipy's reader is the oracle."""

import contextlib
import importlib.util
import math
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import (
    DataError,
    DatasetNotFoundError,
    FileFormatError,
    GraphError,
    LabelError,
    LabelWarning,
    SplitError,
    UsageError,
)
from gnn_mtl.datasets import (
    _published,
    fetch_published,
    import_mat,
    import_npz,
    import_published,
    load_dataset,
    save_npz,
)
from gnn_mtl.datasets._mat5 import read_matrices
from gnn_mtl.datasets._published_sets import PUBLISHED, Source

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_multilabel.py"
SPEC = importlib.util.spec_from_file_location("make_multilabel", SCRIPT)
make_multilabel = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_multilabel)

pytestmark = pytest.mark.filterwarnings("ignore:.*no positive in training")


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")


@pytest.fixture
def mat(tmp_path):
    """Return a function that writes variables to a file, by default a good network and labels."""

    def write(name="some.mat", *, do_compression=False, **variables):
        rng = np.random.default_rng(0)
        network = make_multilabel.draw_network(rng, 20)
        group = sp.csc_matrix(make_multilabel.draw_labels(rng, 20, 3).astype(float))
        content = {"network": network, "group": group} | variables
        path = tmp_path / name
        content = {key: value for key, value in content.items() if value is not None}
        scipy.io.savemat(path, content, do_compression=do_compression)
        return path

    return write


def adjacency(graph):
    """Return the stored edges, target by source, with their weights."""
    ids = graph.csc.edge_ids
    values = np.ones(graph.csc.num_edges) if ids is None else graph.edge_attr[ids, 0]
    shape = (graph.num_nodes, graph.num_nodes)
    return sp.csr_matrix((values, graph.csc.indices, graph.csc.indptr), shape=shape)


def labels(graph):
    """Return all labels and which are known."""
    parts = [graph.targets(np.arange(graph.num_nodes), part) for part in graph.split_idx]
    return sum(y for y, _ in parts), sum(known for _, known in parts)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("directed", [False, True])
def test_all_of_a_file_arrives(tmp_path, compress, dense, weighted, directed):
    path = tmp_path / "some.mat"
    network, group = make_multilabel.make_mat(
        path, dense=dense, compress=compress, weighted=weighted, directed=directed
    )
    wanted = network.toarray()
    np.fill_diagonal(wanted, 0)
    graph = import_mat(path, keep_direction=True)
    assert (graph.name, graph.directed) == ("some", directed)
    assert (graph.edge_attr is not None) == weighted
    np.testing.assert_array_equal(adjacency(graph).toarray(), wanted.T)
    np.testing.assert_array_equal(labels(graph)[0], group)
    both = import_mat(path)
    np.testing.assert_array_equal(adjacency(both).toarray() > 0, (wanted + wanted.T) > 0)
    assert both.csc.degrees[-1] == 0  # the isolated node is there
    if weighted and not directed:
        assert len(graph.edge_attr) == graph.csc.num_edges // 2  # each edge's weight once


def test_weights_that_differ_by_direction_are_both_kept(mat):
    network = sp.csc_matrix(np.array([[0, 2, 0], [5, 0, 1], [0, 1, 0.0]]))
    group = np.eye(3)
    graph = import_mat(mat(network=network, group=group))
    assert not graph.directed
    np.testing.assert_array_equal(adjacency(graph).toarray(), network.toarray().T)


def test_rows_without_labels(mat):
    group = np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0], [0, 1.0]])
    path = mat(network=sp.csc_matrix(np.ones((6, 6))), group=group)
    assert import_mat(path).labelled().tolist() == [True, False, True, True, True, True]
    assert import_mat(path, zero_rows="negative").labelled().all()


@pytest.mark.parametrize("number", ["int8", "uint8", "int32", "float32", "bool", "uint64"])
@pytest.mark.parametrize("kind", [np.asarray, sp.csc_matrix])
def test_numbers_of_every_kind(mat, number, kind):
    rng = np.random.default_rng(1)
    dense = (rng.random((20, 20)) < 0.2).astype(number)
    if kind is sp.csc_matrix and number != "bool":
        dense = dense.astype(float)  # scipy writes no other sparse matrices
    path = mat(network=kind(dense))
    found = read_matrices(path, ["network"])["network"]
    found = found.toarray() if sp.issparse(found) else found
    oracle = scipy.io.loadmat(path)["network"]
    np.testing.assert_array_equal(found, oracle.toarray() if sp.issparse(oracle) else oracle)


def element(kind, values):
    """Return a data element in the byte order of the values, padded."""
    content = values.tobytes()
    tag = np.array([kind, len(content)], ">u4").tobytes()
    return tag + content + bytes(-len(content) % 8)


def test_files_of_other_byte_order(tmp_path):
    """As MATLAB writes on big-endian machines; scipy writes none, but reads them."""
    dense = {"network": np.eye(6, k=1) * 3, "group": np.eye(6, 2) + np.eye(6, 2, k=-3)}
    content = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    for name, values in dense.items():
        content += element(14, np.frombuffer(
            element(6, np.array([6, 0], ">u4")) + element(5, np.array(values.shape, ">i4"))
            + element(1, np.frombuffer(name.encode(), "u1")) + element(9, values.T.astype(">f8")),
            "u1",
        ))  # fmt: skip
    path = tmp_path / "big.mat"
    path.write_bytes(content)
    found, oracle = read_matrices(path, list(dense)), scipy.io.loadmat(path)
    for name, values in dense.items():
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(oracle[name], values)


def test_other_variables_are_skipped(mat):
    more = {"names": np.array(["a", "b"], dtype=object), "s": {"x": 1}, "text": "abc"}
    for packed in (False, True):
        plain = import_mat(mat("plain.mat"), name="same")
        found = import_mat(mat("more.mat", do_compression=packed, **more), name="same")
        assert found.fingerprint() == plain.fingerprint()


DAMAGE = {
    "no group": ({"group": None}, FileFormatError, "no group"),
    "nothing": ({"group": None, "network": None, "x": 1}, FileFormatError, "no network and no"),
    "cells": ({"group": np.array([[{}]] * 20)}, FileFormatError, "group of class"),
    "struct": ({"network": {"a": 1}}, FileFormatError, "network of class"),
    "text": ({"network": "abc"}, FileFormatError, "network of class"),
    "complex": ({"network": np.eye(20) * 1j}, FileFormatError, "no matrix of real"),
    "complex sparse": ({"network": sp.eye(20) * 1j}, FileFormatError, "no matrix of real"),
    "not square": ({"network": sp.eye(20, 19)}, GraphError, "square"),
    "rows": ({"group": np.ones((19, 3))}, LabelError, "20 nodes"),
    "no label": ({"group": np.ones((20, 0))}, LabelError, "20 nodes"),
    "cube": ({"group": np.ones((20, 3, 2))}, FileFormatError, "too many values"),
    "NaN edge": ({"network": np.full((20, 20), np.nan)}, FileFormatError, "NaN"),
    "NaN label": ({"group": np.full((20, 3), np.nan)}, FileFormatError, "NaN"),
    "infinity": ({"network": sp.eye(20) * np.inf}, FileFormatError, "NaN or inf"),
    "counts": ({"group": np.full((20, 3), 2.0)}, LabelError, "0 and 1"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_other_content(mat, case):
    variables, error, message = DAMAGE[case]
    with pytest.raises(error, match=message):
        import_mat(mat(**variables))


def test_damaged_files(mat, tmp_path):
    path = mat()
    content = path.read_bytes()
    damaged = {
        "empty": b"", "text": b"hello", "header only": content[:100],
        "half": content[: len(content) // 2], "version 4": bytes(200),
        "non-UTF-8": b"\xff" * 500, "more": content + b"\1\2\3",
    }  # fmt: skip
    for case, bad in damaged.items():
        path.write_bytes(bad)
        with pytest.raises(FileFormatError, match="whole MATLAB file"):
            import_mat(path)
        assert case
    huge = bytearray(content)
    huge[132:136] = b"\xff\xff\xff\x7f"
    path.write_bytes(huge)
    with pytest.raises(FileFormatError, match="2147483647 bytes where"):
        import_mat(path)
    for begin in (content[:124] + b"\0\2IM" + b"\0" * 400, bytes(512) + b"\x89HDF\r\n\x1a\n"):
        path.write_bytes(begin)
        with pytest.raises(FileFormatError, match=r"7\.3.*'-v7'"):
            import_mat(path)
    with pytest.raises(FileNotFoundError):
        import_mat(tmp_path / "absent.mat")


@pytest.mark.parametrize("bit", [1, 16, 128])
def test_packed_numbers_are_checked(mat, bit):
    path = mat(do_compression=True)
    content, wanted = path.read_bytes(), import_mat(path).fingerprint()
    for place in range(128, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            assert import_mat(path).fingerprint() == wanted


def test_a_bomb_is_not_unpacked(mat):
    path = mat()
    packed = zlib.compress(bytes([14, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]) + _matrix_begin())
    element = bytes([15, 0, 0, 0]) + len(packed).to_bytes(4, "little") + packed
    path.write_bytes(path.read_bytes()[:128] + element)
    with pytest.raises(FileFormatError, match="4294967295 bytes unpacked"):
        import_mat(path)


def _matrix_begin():
    flags = bytes([6, 0, 0, 0, 8, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0])
    sides = bytes([5, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0])
    return flags + sides + bytes([1, 0, 0, 0, 7, 0, 0, 0]) + b"network\0"


def test_a_variable_given_twice(mat):
    path = mat()
    content = path.read_bytes()
    path.write_bytes(content + content[128:])
    with pytest.raises(FileFormatError, match="twice"):
        import_mat(path)


SMALL = {}


def small_file(compress):
    """Return the bytes of a good file, made once."""
    if compress not in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.mat"
            make_multilabel.make_mat(path, num_nodes=8, num_labels=2, compress=compress)
            SMALL[compress] = path.read_bytes()
    return SMALL[compress]


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_flipped_bytes_give_a_graph_or_a_data_error(compress, flips):
    content = bytearray(small_file(compress))
    for where, value in flips:
        content[min(int(where * len(content)), len(content) - 1)] = value
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", LabelWarning)
        path = Path(folder) / "a.mat"
        path.write_bytes(content)
        try:
            graph = import_mat(path)
        except DataError:
            assert flips
        else:
            assert graph.csc.num_nodes == graph.num_nodes
            assert math.isfinite(labels(graph)[0].sum())


@pytest.mark.parametrize("name", ["blogcatalog", "ppi_homo"])
@pytest.mark.parametrize("compress", [False, True])
def test_real_graphs_come_back(name, compress, shared_data, tmp_path):
    wanted = import_npz(shared_data / name / f"{name}.npz", split="random")
    group, _ = labels(wanted)
    loops = sp.diags((np.arange(wanted.num_nodes) % 3 == 0).astype(float))  # PPI has some
    network = sp.csc_matrix(adjacency(wanted) + loops)
    path = tmp_path / f"{name}.mat"
    content = {"network": network, "group": sp.csc_matrix(group)}
    scipy.io.savemat(path, content, do_compression=compress)
    graph = import_mat(path)
    assert graph.edge_attr is None
    assert not graph.directed
    np.testing.assert_array_equal(graph.csc.indptr, wanted.csc.indptr)
    np.testing.assert_array_equal(graph.csc.indices, wanted.csc.indices)
    np.testing.assert_array_equal(labels(graph)[0], group)
    for part, ids in wanted.split_idx.items():
        np.testing.assert_array_equal(graph.split_idx[part], ids)


def test_the_published_split_beside_a_file_is_taken(mat, tmp_path):
    path = mat("blogcatalog.mat")
    assert len(np.concatenate(list(import_mat(path).split_idx.values()))) == 20
    for number in range(2):
        parts = np.roll(np.arange(20), number)[:9].reshape(3, 3)
        make_multilabel.write_split(tmp_path / f"blogcatalog_0.6/split_{number}.pt", parts)
    assert import_mat(path).split_idx["valid"].tolist() == [3, 4, 5]
    assert import_mat(path, split="split1").split_idx["train"].tolist() == [19, 0, 1]
    assert len(np.concatenate(list(import_mat(path, split="random").split_idx.values()))) == 20
    assert import_mat(path, split="task").split_kind == "task"
    with pytest.raises(SplitError, match=r"split0, split1.*'split7'"):
        import_mat(path, split="split7")


# Names


def test_names_and_paths(tmp_path):
    make_multilabel.make_all(tmp_path / "all")
    for name, file in (("blogcatalog", "blogcatalog.mat"), ("ppi", "Homo_sapiens.mat")):
        graph = load_dataset(name, tmp_path / "all")
        assert graph.name == name
        path = tmp_path / "all" / file
        assert graph.fingerprint() == import_published(path, name=name).fingerprint()
        assert load_dataset(path).name == path.stem
    chosen = load_dataset("blogcatalog:split=task,seed=3", tmp_path / "all")
    assert chosen.split_kind == "task"
    assert load_dataset("pos", tmp_path / "all").edge_attr is not None
    with pytest.raises(UsageError, match="names being split, seed"):
        load_dataset("blogcatalog:path=/etc", tmp_path / "all")
    with pytest.raises(DatasetNotFoundError, match="none of them"):
        import_published(tmp_path)


def test_paths_take_arguments_and_may_hold_colons(tmp_path):
    folder = tmp_path / "a b" / "ü:c"
    make_multilabel.make_mat(folder / "some.mat")
    assert load_dataset(folder / "some.mat").split_kind == "node"
    assert load_dataset(f"{folder}/some.mat:split=task", tmp_path).split_kind == "task"
    with pytest.raises(UsageError, match=r"some\.mat are written.*'splt=task'.*mean split"):
        load_dataset(f"{folder}/some.mat:splt=task")
    with pytest.raises(DatasetNotFoundError):
        load_dataset(f"{folder}/other.mat:split=task")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_not_here_is_asked_for(name, tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset(name, tmp_path / "none")
    text = str(caught.value)
    assert str(tmp_path / "none" / PUBLISHED[name].places[0]) in text
    assert "https://" in text or "torch_geometric" in text
    assert not (tmp_path / "none").exists()


def test_a_set_is_fetched_whole_or_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "0")
    source = make_multilabel.make_pcg(tmp_path / "site").parent
    asked = []

    def fetch(url, target, *, max_bytes, sha256):
        asked.append(url)
        path = source / url.partition("/data/")[2]
        assert url.startswith("https://")
        assert len(sha256) == 64
        if "split_1" in url and asked.count(url) == 1:
            raise DatasetNotFoundError("Expected to fetch it. Found: no network.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())

    monkeypatch.setattr(_published, "fetch_file", fetch)
    with pytest.raises(DatasetNotFoundError, match=r"no network.*\n  curl -fL"):
        load_dataset("pcg", tmp_path / "root")
    assert _published.find_published("pcg", tmp_path / "root") is None
    graph = load_dataset("pcg", tmp_path / "root")
    assert graph.num_tasks == 5
    assert fetch_published("pcg", tmp_path / "root") == (
        tmp_path / "root" / "pcg_removed_isolated_nodes"
    )
    left = {path.name for path in (tmp_path / "root").iterdir() if path.suffix != ".lock"}
    assert left == {"pcg_removed_isolated_nodes", "pcg_removed_isolated_nodes_0.6"}


def test_an_archive_gives_its_named_files_only(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "0")
    raw = make_multilabel.make_ppi(tmp_path / "site") / "raw"
    missing = []

    def fetch(url, target, *, max_bytes, sha256):
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w") as archive:
            for file in sorted(raw.iterdir()):
                if file.name not in missing:
                    archive.write(file, f"ppi/{file.name}")
            archive.writestr("../evil.txt", "x")

    monkeypatch.setattr(_published, "fetch_file", fetch)
    missing.append("test_feats.npy")
    with pytest.raises(FileFormatError, match=r"no test_feats\.npy"):
        fetch_published("ppi-inductive", tmp_path / "root")
    missing.clear()
    place = fetch_published("ppi-inductive", tmp_path / "root")
    assert sorted(file.name for file in (place / "raw").iterdir()) == sorted(
        file.name for file in raw.iterdir()
    )
    assert not list(tmp_path.rglob("evil.txt"))
    assert not list(tmp_path.rglob("ppi.zip"))
    assert load_dataset("ppi-inductive", tmp_path / "root").num_tasks == 3


def test_every_address_is_https_and_every_checksum_whole():
    sources = [source for known in PUBLISHED.values() for source in known.sources]
    assert sources
    assert all(isinstance(source, Source) for source in sources)
    for source in sources:
        assert source.url.startswith("https://")
        assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
    with pytest.raises(UsageError, match="Published sets are"):
        fetch_published("karate")


def test_plain_arrays_open_by_path(tmp_path):
    rng = np.random.default_rng(0)
    y = make_multilabel.draw_labels(rng, 20, 3)
    plain = {"edge_index": np.array([[0, 1], [1, 2]]), "num_nodes": 20, "y": y}
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set" / "set.npz", **plain)
    for place in (tmp_path / "set", tmp_path / "set" / "set.npz"):
        graph = load_dataset(place)
        assert graph.fingerprint() == import_npz(tmp_path / "set" / "set.npz").fingerprint()
    save_npz(graph, tmp_path / "own.npz")
    assert load_dataset(tmp_path / "own.npz").fingerprint() == graph.fingerprint()
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(FileFormatError, match=r"whole \.npz file"):
        load_dataset(tmp_path / "bad.npz")

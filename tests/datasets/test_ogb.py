"""OGB's sets against OGB's own loaders, and every way in which their files can be broken."""

import contextlib
import gzip
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import (
    DataError,
    DatasetNotFoundError,
    FeatureError,
    FileFormatError,
    GraphError,
    LabelError,
    LabelWarning,
    SplitError,
    StorageError,
    UsageError,
)
from gnn_mtl.datasets import (
    TaskGraph,
    _ogb,
    _ogb_npz,
    _ogb_torch,
    fetch_ogb,
    import_ogb,
    list_datasets,
    load_dataset,
    load_ogb,
    verify,
)
from gnn_mtl.datasets._ogb_csv import read_table
from gnn_mtl.datasets._ogb_raw import read_raw
from gnn_mtl.datasets._ogb_sets import SETS, find_info
from gnn_mtl.metrics import evaluate

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_ogb.py"
SPEC = importlib.util.spec_from_file_location("make_ogb", SCRIPT)
make_ogb = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_ogb)

NAMES = list(SETS)
pytestmark = [
    # Forty nodes cannot show a positive of each of 349 classes.
    pytest.mark.filterwarnings("ignore:.*no positive in training"),
    # OGB 1.3.6 and pandas 3: read-only arrays become tensors.
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable"),
]


@pytest.fixture(scope="session")
def minis(tmp_path_factory):
    """All five sets, tiny; nothing may write here."""
    root = tmp_path_factory.mktemp("minis")
    make_ogb.make_all(root)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")
    return tmp_path / "cache"


@pytest.fixture
def copy(minis, tmp_path):
    """Return a function that copies a set, so that it may be broken."""

    def make(name):
        folder = tmp_path / "copies" / SETS[name].folder
        shutil.copytree(minis / SETS[name].folder, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def ogb():
    """OGB's loaders, without the thread that its version check would start."""
    missing = "outdated" not in sys.modules
    if missing:
        sys.modules["outdated"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyG uses what torch 2.13 deprecates
        import ogb.io  # noqa: F401
        import ogb.nodeproppred as loaders

    if missing:
        del sys.modules["outdated"]
    return loaders


def allowed():
    """What torch's safe loader must know to read what OGB's loaders wrote a moment ago."""
    from torch_geometric.data.data import DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    core = np._core.multiarray
    dtypes = [type(np.dtype(code)) for code in ("i8", "f8", "f4", "i4")]
    return torch.serialization.safe_globals(
        [DataEdgeAttr, DataTensorAttr, GlobalStorage, core._reconstruct, core.scalar, np.ndarray,
         np.dtype, *dtypes]
    )  # fmt: skip


def by_ogb(ogb, name, root):
    """Return what OGB's plain loader gives: graph, labels, split."""
    shutil.rmtree(root / SETS[name].folder / "processed")
    (root / SETS[name].folder / "processed").mkdir()
    dataset = ogb.NodePropPredDataset(name, root=str(root))
    return *dataset[0], dataset.get_idx_split()


def by_pyg(ogb, **options):
    with allowed():
        dataset = ogb.PygNodePropPredDataset(**options)
        return dataset[0], dataset.get_idx_split()


def to_edge_set(graph):
    return set(map(tuple, graph.csc.to_edge_index().T.tolist()))


# What is read


@pytest.mark.parametrize("name", NAMES)
def test_arrays_are_those_of_ogb(name, ogb, copy, tmp_path):
    folder, info = find_info(copy(name))
    (tmp_path / "scratch").mkdir()
    raw = read_raw(folder, info, tmp_path / "scratch")
    graph, labels, split = by_ogb(ogb, name, folder.parent)
    if info.is_hetero:
        triplet = ("paper", "cites", "paper")
        graph = {
            "edge_index": graph["edge_index_dict"][triplet], "edge_feat": None,
            "node_feat": graph["node_feat_dict"]["paper"], "node_year": graph["node_year"]["paper"],
            "num_nodes": graph["num_nodes_dict"]["paper"],
        }  # fmt: skip
        labels = labels["paper"]
        split = {part: ids["paper"] for part, ids in split.items()}
    assert raw.num_nodes == graph["num_nodes"]
    edges = raw.edge_index
    if info.add_inverse_edge:
        edges = np.repeat(edges, 2, axis=1)
        edges[:, 1::2] = edges[::-1, 1::2]
    np.testing.assert_array_equal(edges, graph["edge_index"])
    np.testing.assert_array_equal(raw.labels, labels)
    for part, ids in split.items():
        np.testing.assert_array_equal(raw.split[part], ids)
    for ours, theirs, copies in (
        (raw.node_feat, graph["node_feat"], 1),
        (raw.edge_feat, graph["edge_feat"], 2 if info.add_inverse_edge else 1),
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert np.repeat(ours, copies, axis=0).tobytes() == theirs.tobytes()
    assert set(raw.extras) == {"ogbn-proteins": {"node_species"}, "ogbn-products": set()}.get(
        name, {"node_year"}
    )
    for key, table in raw.extras.items():
        assert table.dtype == graph[key].dtype
        np.testing.assert_array_equal(table, graph[key])


def test_the_table_of_sets_is_ogbs():
    import pandas as pd

    path = importlib.util.find_spec("ogb").submodule_search_locations[0]
    master = pd.read_csv(f"{path}/nodeproppred/master.csv", index_col=0, keep_default_na=False)
    assert set(master) == set(SETS)
    for name, info in SETS.items():
        row = master[name]
        assert info.num_tasks == int(row["num tasks"])
        assert info.num_classes == int(row["num classes"])
        assert (info.task_type, info.eval_metric) == (row["task type"], row["eval metric"])
        assert (info.split, info.download_name) == (row["split"], row["download_name"])
        assert info.add_inverse_edge == (row["add_inverse_edge"] == "True")
        assert info.is_hetero == (row["is hetero"] == "True")
        assert info.binary == (row["binary"] == "True")
        assert ",".join(info.node_files) or row["additional node files"] == "None"
        assert info.url == row["url"].replace("http://", "https://")


def test_proteins_equal_the_pyg_dataset(ogb, minis, copy):
    data, split = by_pyg(ogb, name="ogbn-proteins", root=str(copy("ogbn-proteins").parent))
    theirs = TaskGraph.from_pyg(data, split=split)
    ours = load_dataset("ogbn-proteins", minis)
    assert list(split) == list(ours.split_idx)
    np.testing.assert_array_equal(ours.csc.indptr, theirs.csc.indptr)
    np.testing.assert_array_equal(ours.csc.indices, theirs.csc.indices)
    np.testing.assert_array_equal(
        ours.edge_attr[ours.csc.edge_ids], theirs.edge_attr[theirs.csc.edge_ids]
    )
    assert 2 * len(ours.edge_attr) == len(theirs.edge_attr)
    for part in split:
        np.testing.assert_array_equal(ours.split_idx[part], theirs.split_idx[part])
        for mine, other in zip(
            ours.targets(ours.split_idx[part], part),
            theirs.targets(theirs.split_idx[part], part), strict=True,
        ):  # fmt: skip
            np.testing.assert_array_equal(mine, other)
    assert not ours.directed
    assert not theirs.directed
    assert ours.label_names[:2] == ("GO:0000000", "GO:0000001")


@pytest.mark.parametrize("name", ["ogbn-products", "ogbn-arxiv", "ogbn-papers100M"])
def test_classes_become_tasks(name, ogb, minis, copy):
    data, split = by_pyg(ogb, name=name, root=str(copy(name).parent))
    y = data.y[:, 0].numpy().astype(float)
    one_hot = (y[:, None] == np.arange(SETS[name].num_classes)).astype(float)
    one_hot[np.isnan(y)] = np.nan
    data.y = torch.from_numpy(one_hot)
    theirs = TaskGraph.from_pyg(data, split=split, name=name)
    ours = load_dataset(name, minis)
    assert ours.fingerprint() == theirs.fingerprint()
    assert ours.directed == theirs.directed == (name != "ogbn-products")
    assert ours.labelled().sum() == (~np.isnan(y)).sum()


def test_mag_keeps_papers_and_citations(minis):
    graph = load_dataset("ogbn-mag", minis)
    assert (graph.num_nodes, graph.num_tasks, graph.num_features) == (45, 349, 3)
    edges = read_table(minis / "ogbn_mag/raw/relations/paper___cites___paper/edge.csv.gz")
    both = {tuple(edge) for edge in edges.tolist()} | {(v, u) for u, v in edges.tolist()}
    assert to_edge_set(graph) == both
    assert graph.extras["node_year"].shape == (45, 1)


def test_directions_can_be_kept(minis):
    graph = load_dataset("ogbn-arxiv", minis, keep_direction=True)
    edges = read_table(minis / "ogbn_arxiv/raw/edge.csv.gz")
    assert to_edge_set(graph) == {tuple(edge) for edge in edges.tolist()}
    assert graph.directed
    assert load_dataset("ogbn-arxiv", minis).csc.is_symmetric()


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_features_of_incident_edges(how, ogb, minis, copy):
    data, _ = by_pyg(ogb, name="ogbn-proteins", root=str(copy("ogbn-proteins").parent))
    index = data.edge_index[0][:, None].expand(-1, 8)
    wanted = torch.zeros(data.num_nodes, 8, dtype=torch.float64).scatter_reduce(
        0, index, data.edge_attr.double(), how, include_self=False
    )
    ours = load_ogb("ogbn-proteins", minis, incident=how)
    np.testing.assert_array_equal(ours.x, wanted.float().numpy())
    assert (np.asarray(ours.x[-1]) == 0).all()
    assert load_dataset(f"ogbn-proteins:incident={how}", minis).x.tobytes() == ours.x.tobytes()


def test_species_as_features(minis):
    graph = load_dataset("ogbn-proteins:species=1", minis)
    species = graph.extras["node_species"][:, 0]
    kinds = np.unique(species)
    assert graph.num_features == 8 + len(kinds)
    np.testing.assert_array_equal(kinds[np.argmax(graph.x[:, 8:], axis=1)], species)
    alone = load_ogb("ogbn-proteins", minis, incident="none", species=True)
    assert alone.num_features == len(kinds)
    assert load_ogb("ogbn-proteins", minis, incident="none").x is None
    with pytest.raises(UsageError, match=r"node_species.*node_year"):
        load_ogb("ogbn-arxiv", minis, species=True)
    with pytest.raises(UsageError, match="sum, mean or none"):
        load_ogb("ogbn-proteins", minis, incident="max")
    with pytest.raises(UsageError, match=r"Arguments of ogbn-proteins.*Did you mean species"):
        load_dataset("ogbn-proteins:specie=1", minis)


def test_the_evaluator_agrees(ogb, minis):
    graph = load_dataset("ogbn-proteins", minis)
    nodes = graph.split_idx["test"]
    y, observed = graph.targets(nodes, "test")
    scores = np.random.default_rng(0).standard_normal(y.shape).astype(np.float32)
    truth = np.where(observed, y, np.nan)
    theirs = ogb.Evaluator("ogbn-proteins").eval({"y_true": truth, "y_pred": scores})
    assert evaluate(scores, y, observed).macro["auroc"] == pytest.approx(
        theirs["rocauc"], abs=1e-12
    )


# Sets of users


@pytest.fixture
def saved(ogb, tmp_path, monkeypatch, capsys):
    """Return a function that saves a user's set with OGB's ``DatasetSaver``."""
    from ogb.io import DatasetSaver

    def save(graph, labels, split, *, is_hetero=False, classes=2, task="binary classification"):
        monkeypatch.chdir(tmp_path)
        saver = DatasetSaver("ogbn-mine", is_hetero, version=1, root="saved")
        saver.save_graph_list([graph])
        saver.save_target_labels(labels)
        saver.save_split(split, "time")
        (tmp_path / "mapping").mkdir()
        (tmp_path / "mapping" / "README.md").write_text("-")
        saver.copy_mapping_dir("mapping")
        saver.save_task_info(task, "rocauc", classes)
        meta = saver.get_meta_dict()
        capsys.readouterr()
        return tmp_path / meta["dir_path"], meta

    return save


def user_set(seed=0, nodes=30):
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, nodes, (2, 50))
    graph = {
        "edge_index": edges, "num_nodes": nodes,
        "node_feat": np.asfortranarray(rng.standard_normal((nodes, 4)).astype(np.float32)),
        "edge_feat": rng.random((50, 3)).astype(np.float32), "node_age": rng.integers(0, 9, nodes),
    }  # fmt: skip
    y = rng.integers(0, 2, (nodes, 5)).astype(np.float32)
    y[rng.random(y.shape) < 0.2] = np.nan
    return graph, y, make_ogb.draw_parts(rng, nodes)


def test_a_users_set(saved, ogb):
    graph, y, split = user_set()
    folder, meta = saved(graph, y, split)
    data, read_split = by_pyg(ogb, name="ogbn-mine", meta_dict=meta)
    theirs = TaskGraph.from_pyg(data, split=read_split)
    for path in (folder, folder.parent, str(folder)):
        ours = load_dataset(path)
        assert ours.fingerprint() == theirs.fingerprint()
    assert ours.directed
    assert ours.name == "mine"
    np.testing.assert_array_equal(ours.extras["node_age"][:, 0], graph["node_age"])
    np.testing.assert_array_equal(ours.x, graph["node_feat"])
    assert verify(next((folder.parents[1] / "cache" / "converted").glob("mine-*"))) == []


def test_a_users_set_without_metadata(saved):
    graph, y, split = user_set()
    folder, _ = saved(graph, y, split)
    wanted = import_ogb(folder).fingerprint()
    (folder.parent / "meta_dict.pt").unlink()
    assert import_ogb(folder).fingerprint() == wanted
    shutil.copytree(folder / "split" / "time", folder / "split" / "other")
    with pytest.raises(FileFormatError, match=r"one split.*other, time.*meta_dict"):
        import_ogb(folder)


@pytest.mark.parametrize("with_meta", [True, False])
def test_a_users_set_with_classes(saved, with_meta):
    graph, _, split = user_set()
    classes = np.arange(30)[:, None] % 4
    folder, _ = saved(graph, classes, split, classes=4, task="multiclass classification")
    if not with_meta:
        (folder.parent / "meta_dict.pt").unlink()
    ours = import_ogb(folder)
    positives = sum(ours.positives(part) for part in ("train", "valid", "test"))
    assert positives.tolist() == [8, 8, 7, 7]


def test_a_users_set_with_node_types(saved):
    rng = np.random.default_rng(0)
    relations = {
        ("gene", "binds", "gene"): rng.integers(0, 30, (2, 40)),
        ("gene", "in", "cell"): np.stack([rng.integers(0, 30, 20), rng.integers(0, 8, 20)]),
    }
    more = {("gene", "apes", "gene"): rng.integers(0, 30, (2, 25))}
    y = rng.integers(0, 2, (30, 3))
    split = {part: {"gene": ids} for part, ids in make_ogb.draw_parts(rng, 30).items()}
    graph = {
        "edge_index_dict": relations | more, "num_nodes_dict": {"gene": 30, "cell": 8},
        "node_feat_dict": {"gene": rng.random((30, 2)).astype(np.float32)},
        "node_age": {"gene": np.arange(30)},
    }  # fmt: skip
    folder, _ = saved(graph, {"gene": y}, split, is_hetero=True)
    ours = import_ogb(folder, keep_direction=True)
    pairs = np.concatenate([more["gene", "apes", "gene"], relations["gene", "binds", "gene"]], 1)
    assert to_edge_set(ours) == set(map(tuple, pairs.T.tolist()))
    np.testing.assert_array_equal(ours.x, graph["node_feat_dict"]["gene"])
    assert ours.extras["node_age"][:, 0].tolist() == list(range(30))
    train = ours.split_idx["train"]
    np.testing.assert_array_equal(ours.targets(train, "train")[0], y[train])


def test_regression_is_refused(saved):
    graph, y, split = user_set()
    folder, _ = saved(graph, np.nan_to_num(y) * 1.5, split, task="regression")
    with pytest.raises(LabelError, match="'regression'"):
        import_ogb(folder)


# Finding, converting once


def test_places(minis, copy, cache, tmp_path):
    wanted = load_dataset("ogbn-arxiv", minis).fingerprint()
    assert list(load_dataset("ogbn-arxiv", minis).split_idx) == ["train", "valid", "test"]
    for place in (minis / "ogbn_arxiv", str(minis / "ogbn_arxiv")):
        assert load_dataset(place).fingerprint() == wanted
    folder = copy("ogbn-arxiv")
    folder.rename(folder.with_name("ogbn_arxiv_pyg"))
    assert load_dataset("ogbn-arxiv", folder.parent).fingerprint() == wanted
    shutil.rmtree(cache)
    shutil.copytree(minis / "ogbn_arxiv", cache / "ogbn_arxiv")
    assert load_dataset("ogbn-arxiv").fingerprint() == wanted
    assert load_dataset("ogbn-arxiv", tmp_path / "elsewhere").fingerprint() == wanted
    shutil.rmtree(cache / "ogbn_arxiv")
    assert load_dataset("ogbn-arxiv").fingerprint() == wanted  # what was converted is enough
    shutil.rmtree(cache)
    with pytest.raises(DatasetNotFoundError, match="ogbn_arxiv"):
        load_dataset("ogbn-arxiv")
    assert set(SETS) <= set(list_datasets())


def test_what_is_not_here_is_explained(tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset("ogbn-proteins", tmp_path / "root")
    text = str(caught.value)
    url = "https://snap.stanford.edu/ogb/data/nodeproppred/proteins.zip"
    for part in (
        str(tmp_path / "root" / "ogbn_proteins"), str(tmp_path / "cache"), "0.22 GB",
        f"curl -fL -C - -o proteins.zip {url}", str(tmp_path / "root" / "proteins.zip"),
    ):  # fmt: skip
        assert part in text
    assert caught.value.exit_code == 3
    assert not (tmp_path / "root").exists()
    with pytest.raises(UsageError, match=r"ogbn-arxiv.*'ogbn-nothing'"):
        load_ogb("ogbn-nothing")


def test_large_sets_are_not_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.delenv("GNN_MTL_NO_DOWNLOAD")
    with pytest.raises(DatasetNotFoundError, match=r"60\.40 GB"):
        load_dataset("ogbn-papers100M", tmp_path)


def zip_of(folder, name, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{name}/{file.relative_to(folder)}")


def test_archives_copied_by_hand_are_unpacked(minis, tmp_path):
    root = tmp_path / "root"
    (root / "ogbn_arxiv" / "raw").mkdir(parents=True)  # what OGB's loader leaves when it fails
    zip_of(minis / "ogbn_arxiv", "arxiv", root / "arxiv.zip")
    wanted = load_dataset("ogbn-arxiv", minis).fingerprint()
    assert load_dataset("ogbn-arxiv", root).fingerprint() == wanted
    assert (root / "arxiv.zip").is_file()
    assert fetch_ogb("ogbn-arxiv", root) == root / "ogbn_arxiv"


def test_fetching(minis, tmp_path, monkeypatch):
    monkeypatch.delenv("GNN_MTL_NO_DOWNLOAD")
    calls = []

    def fake(url, target, *, max_bytes):
        calls.append((url, max_bytes))
        zip_of(minis / "ogbn_arxiv", "arxiv", target)
        return "0" * 64

    monkeypatch.setattr(_ogb, "fetch_file", fake)
    folder = fetch_ogb("ogbn-arxiv", tmp_path / "root")
    assert fetch_ogb("ogbn-arxiv", tmp_path / "root") == folder
    assert len(calls) == 1
    assert calls[0][0].startswith("https://")
    assert json.loads((folder / "download.json").read_text())["sha256"] == "0" * 64
    assert sorted(path.name for path in (tmp_path / "root").glob("[!.]*")) == ["ogbn_arxiv"]
    monkeypatch.setattr(_ogb, "fetch_file", lambda _, target, **__: target.write_text("no zip"))
    with pytest.raises(FileFormatError, match="whole zip"):
        fetch_ogb("ogbn-arxiv", tmp_path / "other")
    assert not list((tmp_path / "other").glob("[!.]*"))


def test_converted_once_and_nothing_written_to_the_source(minis, cache, monkeypatch):
    def state():
        return {path: path.stat().st_mtime_ns for path in minis.rglob("*")}

    before = state()
    first = load_dataset("ogbn-proteins", minis)
    monkeypatch.setattr(_ogb, "read_raw", None)
    again = load_dataset("ogbn-proteins", minis)
    assert isinstance(again.x, np.memmap)
    assert again.fingerprint() == first.fingerprint()
    assert state() == before
    (made,) = (cache / "converted").glob("ogbn_proteins-*")
    assert verify(made) == []
    assert not [path for path in made.parent.iterdir() if path.name.endswith(".part")]


def test_changed_sources_and_damaged_conversions_are_read_again(copy, cache, caplog):
    folder = copy("ogbn-arxiv")
    first = load_dataset(folder).fingerprint()
    (made,) = (cache / "converted").glob("ogbn_arxiv-*")
    (made / "indices.npy").write_bytes(b"\x93NUMPY")
    assert load_dataset(folder).fingerprint() == first
    assert "is damaged and is made again" in caplog.text
    labels = np.arange(60)[::-1] % 40
    make_ogb.write_table(folder / "raw" / "node-label.csv.gz", labels)
    assert load_dataset(folder).fingerprint() != first


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_convert_once(minis, cache, tmp_path, monkeypatch):
    def slowly(*arguments):
        with (tmp_path / "conversions").open("a") as file:
            file.write("x")
        time.sleep(0.2)
        return read_raw(*arguments)

    monkeypatch.setattr(_ogb, "read_raw", slowly)
    fork = multiprocessing.get_context("fork")
    jobs = [fork.Process(target=load_dataset, args=("ogbn-products", minis)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    assert (tmp_path / "conversions").read_text() == "x"
    assert len(list((cache / "converted").glob("ogbn_products-*"))) == 1


def test_failed_conversions_leave_nothing(copy, cache):
    folder = copy("ogbn-proteins")
    (folder / "raw" / "edge-feat.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(FileFormatError):
        load_dataset(folder)
    assert not list((cache / "converted").glob("[!.]*"))
    assert all(path.suffix == ".lock" for path in (cache / "converted").iterdir())


def test_no_room(minis, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(_ogb_npz.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"edge_index|GB free"):
        load_dataset("ogbn-papers100M", minis)


def test_labels_that_cannot_be_learned_are_named(minis):
    for _ in range(2):
        with pytest.warns(LabelWarning, match="labels of ogbn-arxiv have no positive"):
            load_dataset("ogbn-arxiv", minis)


# Broken files


def rows_of(path):
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def rewrite(path, change):
    """Apply a function to the lines of a table."""
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in change(rows_of(path))).encode()))


def edit(name, change):
    def break_it(folder):
        rewrite(folder / name, change)

    return break_it


def cut(name, share=0.5):
    def break_it(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return break_it


def put(name, text):
    def break_it(folder):
        content = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(gzip.compress(content))

    return break_it


def drop(name):
    return lambda folder: (folder / name).unlink()


EDGES, FEATURES = "raw/edge.csv.gz", "raw/edge-feat.csv.gz"
LABELS, TRAIN = "raw/node-label.csv.gz", "split/species/train.csv.gz"
NODES, COUNT = "raw/num-node-list.csv.gz", "raw/num-edge-list.csv.gz"
BROKEN = {
    "no labels": (drop(LABELS), FileFormatError, "node-label"),
    "no counts": (drop(NODES), FileFormatError, "num-node-list"),
    "no species": (drop("raw/species.csv.gz"), FileFormatError, "node_species"),
    "no split": (drop(TRAIN), FileFormatError, "train"),
    "no edges": (drop(EDGES), FileFormatError, r"Expected the file .*edge\.csv\.gz"),
    "no edge features": (drop(FEATURES), FileFormatError, "no edge-feat"),
    "fewer edges": (edit(EDGES, lambda r: r[:-1]), FileFormatError, "126 rows. Found 125"),
    "more edges": (edit(EDGES, lambda r: [*r, "1,2"]), FileFormatError, "126 rows. Found more"),
    "fewer edge features": (edit(FEATURES, lambda r: r[1:]), FileFormatError, "Found 125"),
    "more labels": (edit(LABELS, lambda r: r + r[:1]), FileFormatError, "40 rows. Found more"),
    "more species": (
        edit("raw/species.csv.gz", lambda r: r + r[:1]), FileFormatError, "Found more"
    ),
    "truncated gzip": (cut(EDGES), FileFormatError, r"edge\.csv.*ended before"),
    "truncated checksum": (cut(FEATURES, 0.998), FileFormatError, "edge-feat"),
    "empty file": (cut(LABELS, 0), FileFormatError, "40 rows. Found 0"),
    "no gzip": (
        lambda f: (f / LABELS).write_text("1,0\n"), FileFormatError, "Not a gzipped file"
    ),
    "an extra column": (
        edit(EDGES, lambda r: [*r[:9], f"{r[9]},1", *r[10:]]), FileFormatError, "line 10, saw 3"
    ),
    "an extra column at the end": (
        edit(EDGES, lambda r: [*r[:-1], f"{r[-1]},1"]), FileFormatError, "Expected 2 fields"
    ),
    "an extra column throughout": (
        edit(EDGES, lambda r: [f"{line},1" for line in r]), FileFormatError, "two columns"
    ),
    "a column less": (
        edit(LABELS, lambda r: [r[0].rpartition(",")[0], *r[1:]]), FileFormatError, "Expected 111"
    ),
    "a column less later": (
        edit(LABELS, lambda r: [*r[:5], r[5].rpartition(",")[0], *r[6:]]), FileFormatError,
        "112 values in each row",
    ),
    "a label column less": (
        edit(LABELS, lambda r: [line.rpartition(",")[0] for line in r]), LabelError, "112 label"
    ),
    "text": (edit(FEATURES, lambda r: [r[0] + "x", *r[1:]]), FileFormatError, "numbers only"),
    "quotes": (edit(EDGES, lambda r: ['"1","2"', *r[1:]]), FileFormatError, "numbers only"),
    "not UTF-8": (put(EDGES, b"1,\xff\xfe\n"), FileFormatError, "can't decode"),
    "an endless line": (put(LABELS, "1" * (3 << 20)), FileFormatError, "node-label"),
    "a huge graph": (put(NODES, "99999999999999\n"), FileFormatError, "99999999999999 rows"),
    "a hopeless size": (put(NODES, "9" * 30), FileFormatError, "num-node-list"),
    "a huge number of edges": (put(COUNT, "99999999999999\n"), FileFormatError, "Found 126"),
    "a negative size": (put(NODES, "-4\n"), FileFormatError, "size of one graph. Found -4"),
    "two graphs": (put(NODES, "20\n20\n"), FileFormatError, "size of one graph. Found 20, 20"),
    "labels that are none": (
        edit(LABELS, lambda r: ["2" + r[0][1:], *r[1:]]), LabelError, "Found 2.0 at node 0, task 0"
    ),
    "infinite labels": (
        edit(LABELS, lambda r: [*r[:3], "inf" + r[3][1:], *r[4:]]), LabelError, "inf at node 3"
    ),
    "ids out of range": (
        edit(EDGES, lambda r: [*r[:7], "3,40", *r[8:]]), GraphError, r"\[0, 40\). Found 40 in row 7"
    ),
    "huge ids": (edit(EDGES, lambda r: [f"{2**32},1", *r[1:]]), GraphError, "4294967296 in row 0"),
    "negative ids": (edit(EDGES, lambda r: ["-1,1", *r[1:]]), GraphError, "Found -1"),
    "broken ids": (edit(EDGES, lambda r: ["0.5,1", *r[1:]]), GraphError, "Found 0.5"),
    "missing ids": (edit(EDGES, lambda r: [",1", *r[1:]]), GraphError, "Found nan"),
    "missing features": (
        edit(FEATURES, lambda r: [r[0][r[0].index(","):], *r[1:]]), FeatureError, "nan at edge 0"
    ),
    "features too large": (
        edit(FEATURES, lambda r: ["1e300" + r[0][r[0].index(","):], *r[1:]]), FeatureError, "inf"
    ),
    "an empty split": (put(TRAIN, ""), SplitError, "`train` should be a non-empty list"),
    "a split outside": (edit(TRAIN, lambda r: ["40", *r[1:]]), SplitError, "Found 40"),
    "a split twice": (
        lambda f: shutil.copy(f / TRAIN, f / TRAIN.replace("train", "valid")), SplitError, "overlap"
    ),
    "a split in halves": (edit(TRAIN, lambda r: ["1.5", *r[1:]]), FileFormatError, "whole number"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken_tables(what, copy):
    break_it, error, message = BROKEN[what]
    folder = copy("ogbn-proteins")
    break_it(folder)
    with pytest.raises(error, match=message):
        load_dataset(folder)


def test_counts_may_have_a_point_and_labels_may_be_missing(copy):
    folder = copy("ogbn-proteins")
    wanted = import_ogb(folder).fingerprint()
    rewrite(folder / EDGES, lambda r: [line.replace(",", ".0,") for line in r])
    assert import_ogb(folder).fingerprint() == wanted
    rewrite(folder / LABELS, lambda r: [r[0][1:], *r[1:]])
    graph = import_ogb(folder)
    part = next(name for name, ids in graph.split_idx.items() if 0 in ids)
    assert graph.targets([0], part)[1][0].tolist() == [False] + [True] * 111


def test_names_that_do_not_fit_are_left_out(copy):
    folder = copy("ogbn-proteins")
    rewrite(folder / "mapping" / "labelidx2GO.csv.gz", lambda r: r[:-1])
    assert import_ogb(folder).label_names[0] == "task_0"
    (folder / "mapping" / "labelidx2GO.csv.gz").write_text("no gzip")
    assert import_ogb(folder).label_names[0] == "task_0"


def with_arrays(**changes):
    def break_it(folder):
        path = folder / "raw" / "data.npz"
        with np.load(path) as found:
            arrays = {k: v for k, v in found.items() if k not in changes} | changes
        np.savez(path, **{k: v for k, v in arrays.items() if v is not None})

    return break_it


def lie_about_shape(folder):
    path = folder / "raw" / "data.npz"
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 6)}
    )
    content["node_feat.npy"] = header.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def corrupt_bytes(folder):
    path = folder / "raw" / "data.npz"
    content = bytearray(path.read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)


RNG = np.random.default_rng(0)
BROKEN_NPZ = {
    "cut": (cut("raw/data.npz"), FileFormatError, "zip"),
    "damaged": (corrupt_bytes, FileFormatError, r"data\.npz"),
    "a lie": (lie_about_shape, FileFormatError, r"\(1000000000000, 6\)"),
    "objects": (
        with_arrays(node_feat=np.array([{}] * 70)), FileFormatError, "type object, not numbers"
    ),
    "no edges": (with_arrays(edge_index=None), FileFormatError, "should hold edge_index"),
    "other edges": (
        with_arrays(edge_index=np.zeros((2, 5), np.int64)), FileFormatError, r"\(2, 116\)"
    ),
    "fractions": (with_arrays(edge_index=np.zeros((2, 116))), FileFormatError, "integers"),
    "ids": (
        with_arrays(edge_index=np.full((2, 116), 70)), GraphError, r"\[0, 70\). Found 70 in row 0"
    ),
    "rows": (with_arrays(node_feat=RNG.random((3, 2))), FileFormatError, "70 rows"),
    "a huge size": (with_arrays(num_nodes_list=np.array([10**12])), FileFormatError, "rows"),
    "two graphs": (with_arrays(num_nodes_list=np.array([1, 2])), FileFormatError, "Found 1, 2"),
    "no label file": (drop("raw/node-label.npz"), FileFormatError, "node-label"),
    "classes": (
        lambda f: np.savez(f / "raw/node-label.npz", node_label=np.full((70, 1), 172.0)),
        LabelError, r"\[0, 172\).*Found 172.0 at node 0",
    ),
    "half classes": (
        lambda f: np.savez(f / "raw/node-label.npz", node_label=np.full((70, 1), 0.5)),
        LabelError, "Found 0.5 at node 0",
    ),
    "flat labels": (
        lambda f: np.savez(f / "raw/node-label.npz", node_label=np.zeros(70)), LabelError, "70, T"
    ),
    "no labelled node": (
        lambda f: np.savez(f / "raw/node-label.npz", node_label=np.full((70, 1), np.nan)),
        SplitError, "all unlabelled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_NPZ)
def test_broken_arrays(what, copy):
    break_it, error, message = BROKEN_NPZ[what]
    folder = copy("ogbn-papers100M")
    break_it(folder)
    with pytest.raises(error, match=message):
        load_dataset(folder)


def test_columns_first_arrays(copy):
    folder = copy("ogbn-papers100M")
    wanted = import_ogb(folder)
    with np.load(folder / "raw" / "data.npz") as found:
        columns = np.asfortranarray(found["node_feat"])
        edges = np.asfortranarray(found["edge_index"])
    with_arrays(node_feat=columns, edge_index=edges)(folder)
    assert import_ogb(folder).fingerprint() == wanted.fingerprint()


BROKEN_MAG = {
    "no relation": (
        edit("raw/triplet-type-list.csv.gz", lambda r: r[1:]), GraphError, "'paper'.*itself"
    ),
    "a relation that leads away": (
        edit("raw/triplet-type-list.csv.gz", lambda _: ["paper,../../x,paper"]), GraphError, "paper"
    ),
    "no type marked": (
        edit("raw/nodetype-has-label.csv.gz", lambda r: [r[0], "False,False"]), FileFormatError,
        "mark one node type",
    ),
    "no count": (
        edit("raw/num-node-dict.csv.gz", lambda _: ["author", "20"]), FileFormatError, "num-node"
    ),
    "no counts at all": (
        put("raw/num-node-dict.csv.gz", ""), FileFormatError, "size of one graph. Found nothing"
    ),
    "ids of another type": (
        edit("raw/relations/paper___cites___paper/edge.csv.gz", lambda r: ["45,0", *r[1:]]),
        GraphError, "Found 45",
    ),
    "binary text": (
        put("raw/num-node-dict.csv.gz", b"\xff\xfe\x00"), FileFormatError, "num-node-dict"
    ),
    "large text": (
        put("raw/num-node-dict.csv.gz", b"a\n" * (9 << 20)), FileFormatError, "should be small"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_MAG)
def test_broken_node_types(what, copy):
    break_it, error, message = BROKEN_MAG[what]
    folder = copy("ogbn-mag")
    break_it(folder)
    with pytest.raises(error, match=message):
        load_dataset(folder)


def test_folders_that_are_none(tmp_path):
    (tmp_path / "empty" / "raw").mkdir(parents=True)
    with pytest.raises(FileFormatError, match=r"OGB's raw files.*edge\.csv\.gz"):
        import_ogb(tmp_path / "empty")
    with pytest.raises(FileFormatError, match="raw files"):
        import_ogb(tmp_path / "nowhere")


# Files of torch.save


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path, protocol, zipped):
    value = {
        "train": np.arange(300), "valid": np.arange(7, dtype=np.int32)[::2],
        "test": {"paper": torch.arange(12).reshape(3, 4).T, "half": torch.tensor([0.5, -1.0])},
        "flags": torch.tensor([True, False]), "big": np.arange(3, dtype=">i8"),
        "empty": np.zeros((0, 2)), "columns": np.asfortranarray(np.eye(3)), "scalar": np.float32(1),
        "text": "ä", "number": 3, "huge": 2**70, "none": None, "yes": True, "real": 0.1,
    }  # fmt: skip
    path = tmp_path / "file.pt"
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = _ogb_torch.read_torch_file(path)
    assert list(found) == list(value)
    for key in ("train", "valid", "flags", "big", "empty", "columns"):
        np.testing.assert_array_equal(found[key], np.asarray(value[key]), strict=True)
    np.testing.assert_array_equal(found["test"]["paper"], value["test"]["paper"].numpy())
    np.testing.assert_array_equal(found["test"]["half"], value["test"]["half"].numpy())
    for key in ("scalar", "text", "number", "huge", "none", "yes", "real"):
        assert found[key] == value[key]


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        {"train": Evil(os.system, "touch touched")},
        Evil(os.system, "touch touched"),
        {"train": Evil(exec, "open('touched', 'w')")},
        {"train": np.array([{}, None], dtype=object)},
        {"train": np.array(["text"])},
        {"train": [1, 2, 3]},
        {"a": {"b": {"c": {"d": {"e": 1}}}}},
        {"train": {1, 2}},
        {"train": Path("x")},
    ],
)
def test_other_pickles_are_refused_and_not_run(tmp_path, monkeypatch, value, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save(value, "file.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(FileFormatError, match=r"train\.csv\.gz"):
        _ogb_torch.read_torch_file(tmp_path / "file.pt")
    assert not (tmp_path / "touched").exists()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_torch_files_raise_only_typed_errors(tmp_path_factory, data):
    value = {"train": np.arange(4), "valid": torch.arange(3), "n": 1}
    zipped = data.draw(st.booleans())
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path_factory.mktemp("fuzz") / "file.pt"
    path.write_bytes(content)
    with contextlib.suppress(FileFormatError):
        _ogb_torch.read_torch_file(path)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=60), bare=st.booleans())
def test_random_tables_raise_only_typed_errors(tmp_path_factory, content, bare):
    path = tmp_path_factory.mktemp("fuzz") / "table.csv.gz"
    path.write_bytes(content if bare else gzip.compress(content))
    try:
        table = read_table(path)
    except DataError:
        return
    assert table.dtype in (np.int64, np.float32)


def test_compressed_torch_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
    with pytest.raises(FileFormatError, match="compressed members"):
        _ogb_torch.read_torch_file(tmp_path / "file.pt")
    with pytest.raises(FileFormatError, match=r"nothing\.pt"):
        _ogb_torch.read_torch_file(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"num tasks": 5}, "num classes"),
        (
            {"num tasks": "x", "num classes": 2, "task type": "t", "split": "time"},
            "invalid literal",
        ),
        ({"num tasks": 5, "num classes": 2, "task type": "t", "split": "../.."}, "plain name"),
    ],
)
def test_broken_metadata(copy, meta, message):
    folder = copy("ogbn-arxiv")
    torch.save(meta, folder / "meta_dict.pt")
    with pytest.raises(FileFormatError, match=message):
        import_ogb(folder)


@pytest.mark.parametrize("value", [{"train": np.arange(3)}, {"train": 3, "valid": 4, "test": 5}, 7])
def test_broken_split_files(copy, value):
    folder = copy("ogbn-arxiv")
    torch.save(value, folder / "split" / "time" / "split_dict.pt")
    with pytest.raises(SplitError, match="vector of node ids under"):
        import_ogb(folder)


# Size


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_ogbn_proteins_in_bounded_memory(tmp_path, capsys):
    """Parse a raw folder shaped like ogbn-proteins; GNN_MTL_OGB_SCALE=1 for the full size."""
    scale = float(os.environ.get("GNN_MTL_OGB_SCALE", "0.1"))
    nodes, edges = make_ogb.make_large_proteins(tmp_path / "ogbn_proteins", scale)
    code = (
        "import json, resource, sys, time; from gnn_mtl.datasets import load_dataset;"
        "start = time.perf_counter(); graph = load_dataset('ogbn-proteins', sys.argv[1]);"
        "rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20;"
        "print(json.dumps({'seconds': time.perf_counter() - start, 'peak_rss_gb': rss,"
        "'nodes': graph.num_nodes, 'rows': len(graph.edge_attr), 'tasks': graph.num_tasks}))"
    )
    for round_number in range(2):
        began = time.perf_counter()
        found = json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True
            ).stdout
        )
        with capsys.disabled():
            print(f"\nscale {scale}, round {round_number}: {found}")  # noqa: T201
        assert (found["nodes"], found["rows"], found["tasks"]) == (nodes, edges, 112)
        assert found["peak_rss_gb"] < 1 + 7 * scale
        assert time.perf_counter() - began < 60 + 600 * scale

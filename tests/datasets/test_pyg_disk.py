"""Raw folders of PyG's Yelp, AmazonProducts and PPI against PyG's own classes, and damaged ones."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.datasets import PPI, AmazonProducts, Yelp

from gnn_mtl._core.errors import (
    DataError,
    FileFormatError,
    GraphError,
    LabelError,
    SplitError,
    UsageError,
)
from gnn_mtl.datasets import (
    _json_stream,
    _pyg_saint,
    import_ppi,
    import_published,
    import_saint,
    load_dataset,
    verify,
)
from gnn_mtl.datasets._json_stream import JsonStream, json_stream

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_multilabel.py"
SPEC = importlib.util.spec_from_file_location("make_multilabel", SCRIPT)
make_multilabel = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_multilabel)

pytestmark = pytest.mark.filterwarnings("ignore:.*no positive in training")
MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")


def pairs(edge_index):
    """Return the distinct edges, sorted."""
    return np.unique(np.asarray(edge_index).T, axis=0)


def from_pyg(make, *arguments, **options):
    """Let PyG process a raw folder; it says so on stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        return make(*arguments, **options)


@pytest.mark.parametrize("pyg_class", [Yelp, AmazonProducts])
@pytest.mark.parametrize("directed", [False, True])
def test_saint_folders_are_what_pyg_makes_of_them(pyg_class, directed, tmp_path, monkeypatch):
    monkeypatch.setattr(_pyg_saint, "EDGES_AT_ONCE", 7)  # rows are cut by blocks
    monkeypatch.setattr(_pyg_saint, "NODES_AT_ONCE", 3)
    folder = make_multilabel.make_saint(tmp_path / pyg_class.__name__, directed=directed)
    data = from_pyg(pyg_class, str(folder))[0]
    graph = import_saint(folder, keep_direction=True)
    assert (graph.name, graph.directed) == (pyg_class.__name__, directed)
    np.testing.assert_array_equal(pairs(graph.csc.to_edge_index()), pairs(data.edge_index))
    np.testing.assert_array_equal(graph.x, data.x.numpy())
    for part, mask in MASKS.items():
        ids = np.sort(graph.split_idx[part])
        np.testing.assert_array_equal(ids, np.flatnonzero(data[mask].numpy()))
        y, known = graph.targets(ids, part)
        np.testing.assert_array_equal(y, data.y[ids].numpy())
        assert known.all()
    both = import_saint(folder)
    wanted = np.concatenate([data.edge_index, data.edge_index.flip(0)], axis=1)
    np.testing.assert_array_equal(pairs(both.csc.to_edge_index()), pairs(wanted))


@pytest.mark.parametrize("directed", [False, True])
def test_ppi_is_what_pyg_makes_of_it(directed, tmp_path):
    folder = make_multilabel.make_ppi(tmp_path / "PPI", directed=directed)
    x, y, edges, sizes, parts = [], [], [], [0], []
    for part in ("train", "val", "test"):
        for data in from_pyg(PPI, str(folder), split=part):
            x.append(data.x.numpy())
            y.append(data.y.numpy())
            edges.append(data.edge_index.numpy() + sum(sizes))
            sizes.append(data.num_nodes)
            parts.append(part)
    graph = import_ppi(folder)
    assert (graph.name, graph.directed, len(parts)) == ("PPI", False, 6)
    np.testing.assert_array_equal(graph.x, np.concatenate(x))
    np.testing.assert_array_equal(
        pairs(graph.csc.to_edge_index()), pairs(np.concatenate(edges, axis=1))
    )
    for part, ids in graph.split_idx.items():
        found, known = graph.targets(ids, part)
        np.testing.assert_array_equal(found, np.concatenate(y)[ids])
        assert known.all()
    wanted = [number for number, part in enumerate(parts) if part == "val"]
    assert (np.repeat(np.arange(6), sizes[1:])[graph.split_idx["valid"]] == wanted).all()
    assert graph.extras["graph_id"].tolist() == np.repeat([1, 2, 3, 4, 5, 6], 12).tolist()
    source, target = graph.csc.to_edge_index()
    tissue = graph.extras["graph_id"]
    np.testing.assert_array_equal(tissue[source], tissue[target])


def test_folders_are_converted_once(tmp_path):
    for make, read, file in (
        (make_multilabel.make_saint, import_saint, "role.json"),
        (make_multilabel.make_ppi, import_ppi, "test_graph.json"),
    ):
        folder = make(tmp_path / read.__name__)
        first = read(folder)
        (converted,) = (tmp_path / "cache" / "converted").glob(f"*{read.__name__}*/meta.json")
        assert verify(converted.parent) == []
        before = converted.stat().st_mtime_ns
        assert read(folder / "raw").fingerprint() == first.fingerprint()
        assert converted.stat().st_mtime_ns == before
        assert isinstance(read(folder).x, np.memmap)
        os.utime(folder / "raw" / file, (1, 1))
        read(folder)
        assert len(list((tmp_path / "cache" / "converted").glob(f"*{read.__name__}*"))) >= 2


def test_folders_may_be_read_only(tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    before = sorted(path.name for path in folder.rglob("*"))
    (folder / "raw").chmod(0o555)
    assert import_saint(folder).num_tasks == 6
    (folder / "raw").chmod(0o755)
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_names_and_paths(tmp_path):
    make_multilabel.make_all(tmp_path)
    for name, place in (
        ("yelp", "Yelp"), ("amazon-products", "AmazonProducts"), ("ppi-inductive", "PPI"),
    ):  # fmt: skip
        graph = load_dataset(name, tmp_path)
        assert graph.name == name
        by_path = load_dataset(tmp_path / place / "raw")
        assert by_path.name == place
        np.testing.assert_array_equal(by_path.csc.indices, graph.csc.indices)
        with pytest.raises(UsageError, match="is fixed"):
            import_published(tmp_path / place, split="random")


def test_nodes_without_labels_are_unlabelled(tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    make_multilabel.rewrite(
        folder / "raw" / "class_map.json",
        lambda labels: {node: row for node, row in labels.items() if node not in ("3", "9")},
    )
    graph = import_saint(folder)
    assert np.flatnonzero(~graph.labelled()).tolist() == [3, 9]


def test_float32_features_and_many_nodes(tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp", num_nodes=3000)
    x = np.load(folder / "raw" / "feats.npy").astype(np.float32)
    np.save(folder / "raw" / "feats.npy", x)
    np.testing.assert_array_equal(import_saint(folder).x, x)


def test_links_between_tissues_are_dropped_as_in_pyg(tmp_path):
    folder = make_multilabel.make_ppi(tmp_path / "PPI")
    wanted = import_ppi(folder).csc
    make_multilabel.rewrite(
        folder / "raw" / "train_graph.json",
        lambda graph: graph | {"links": [*graph["links"], {"source": 0, "target": 20}]},
    )
    np.testing.assert_array_equal(import_ppi(folder).csc.indices, wanted.indices)


@pytest.mark.parametrize("way", make_multilabel.BREAK["saint"])
def test_damaged_saint_folders(way, tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    make_multilabel.BREAK["saint"][way](folder)
    with pytest.raises(DataError, match=r"Yelp|Features should be finite"):
        import_saint(folder)
    with pytest.raises(DataError):
        load_dataset(folder)
    assert not list((tmp_path / "cache").rglob("meta.json"))
    assert [file for file in (tmp_path / "cache").rglob("*") if file.suffix != ".lock"] == [
        tmp_path / "cache" / "converted"
    ] or way == "missing file"


@pytest.mark.parametrize("way", make_multilabel.BREAK["ppi"])
def test_damaged_ppi_folders(way, tmp_path):
    folder = make_multilabel.make_ppi(tmp_path / "PPI")
    make_multilabel.BREAK["ppi"][way](folder)
    with pytest.raises(DataError, match=r"PPI|Links should join|Labels should be"):
        import_ppi(folder)
    with pytest.raises(DataError):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("way", "error", "message"),
    [
        ("missing file", FileFormatError, r"Missing: role\.json"),
        ("one class", LabelError, "one class a node"),
        ("a node twice", LabelError, "each node once"),
        ("no node", LabelError, r"\[0, 40\).*'40'"),
        ("extra column", LabelError, "all as long"),
        ("other labels", LabelError, "0 or 1"),
        ("roles", SplitError, "'te'"),
        ("not square", GraphError, "square"),
        ("other arrays", FileFormatError, "no shape, indptr"),
        ("pickled features", FileFormatError, r"feats\.npy.*objects"),
    ],
)
def test_damage_is_named(way, error, message, tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    make_multilabel.BREAK["saint"][way](folder)
    with pytest.raises(error, match=message):
        import_saint(folder)


@pytest.mark.parametrize("field", ["indptr", "indices"])
def test_edges_that_are_none(field, tmp_path):
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    path = folder / "raw" / "adj_full.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for bad in (arrays[field] + 100, -arrays[field], arrays[field] * 0.5):
        np.savez(path, **(arrays | {field: bad}))
        with pytest.raises(DataError, match=r"adj_full|Edge .* ids"):
            import_saint(folder)


def test_labels_of_another_width_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr(_pyg_saint, "NODES_AT_ONCE", 1)
    folder = make_multilabel.make_saint(tmp_path / "Yelp")
    make_multilabel.BREAK["saint"]["extra column"](folder)
    with pytest.raises(LabelError, match=r"labels for each node\. Found"):
        import_saint(folder)
    (folder / "raw" / "class_map.json").write_text("{}")
    with pytest.raises(LabelError, match="Found none"):
        import_saint(folder)


# JSON in pieces

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5), st.integers(1, 9), st.booleans())
def test_json_in_pieces_is_json(content, at_once, spaced):
    text = json.dumps(content, indent=2 if spaced else None)
    kept = _json_stream.CHARACTERS_AT_ONCE
    _json_stream.CHARACTERS_AT_ONCE = at_once
    try:
        stream = JsonStream(io.StringIO(text))
        assert {key: stream.value() for key in stream.members()} == content
        stream.finish()
        stream = JsonStream(io.StringIO(json.dumps([*content.values(), 12345])))
        assert list(stream.elements()) == [*content.values(), 12345]
    finally:
        _json_stream.CHARACTERS_AT_ONCE = kept


@pytest.mark.parametrize(
    "text", ["", "{", '{"a"', '{"a":', '{"a": 1', '{"a": 1,}', '{"a" 1}', "{1: 2}", '{"a": 1} x']
)
def test_json_that_is_none(text, tmp_path):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"some\.json should be whole JSON"):
        read_all(path)


def test_json_too_deep_or_too_long(tmp_path, monkeypatch):
    path = tmp_path / "some.json"
    path.write_text('{"a": ' + "[" * 200_000)
    with pytest.raises(FileFormatError, match="whole JSON"):
        read_all(path)
    monkeypatch.setattr(_json_stream, "LONGEST_VALUE", 100)
    monkeypatch.setattr(_json_stream, "CHARACTERS_AT_ONCE", 10)
    path.write_text('{"a": "' + "x" * 1000 + '"}')
    with pytest.raises(FileFormatError, match="more than 100 characters"):
        read_all(path)
    with pytest.raises(FileFormatError, match="Found none"):
        read_all(tmp_path / "absent.json")


def read_all(path):
    """Take every value of an object."""
    with json_stream(path) as stream:
        return {key: stream.value() for key in stream.members()}


# Size


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_amazon_products_in_bounded_memory(tmp_path, capsys):
    """Convert a folder shaped like AmazonProducts; GNN_MTL_SAINT_SCALE=1 for the full size."""
    scale = float(os.environ.get("GNN_MTL_SAINT_SCALE", "0.05"))
    nodes, edges = make_multilabel.make_large_saint(tmp_path / "AmazonProducts", scale)
    code = (
        "import json, re, sys, time; from pathlib import Path;"
        "from gnn_mtl.datasets import load_dataset;"
        "start = time.perf_counter(); graph = load_dataset('amazon-products', sys.argv[1]);"
        "status = Path('/proc/self/status').read_text();"
        "rss = int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) / 2**20;"
        "print(json.dumps({'seconds': time.perf_counter() - start, 'peak_rss_gb': rss,"
        "'nodes': graph.num_nodes, 'edges': graph.csc.num_edges, 'tasks': graph.num_tasks}))"
    )
    for round_number in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True
        )
        found = json.loads(done.stdout)
        with capsys.disabled():
            print(f"\nscale {scale}, round {round_number}: {found}")  # noqa: T201
        assert (found["nodes"], found["edges"], found["tasks"]) == (nodes, edges, 107)
        assert found["peak_rss_gb"] < 1 + 7 * scale
    graph = load_dataset("amazon-products", tmp_path)
    row = sp.csr_matrix(
        (np.ones(edges, dtype=np.int8), graph.csc.indices, graph.csc.indptr), (nodes, nodes)
    )[5]
    assert row.nnz == edges // nodes

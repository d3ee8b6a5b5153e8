"""Names, facts and copies of datasets."""

import json

import numpy as np
import pytest

from gnn_mtl._core.errors import DatasetNotFoundError, UsageError
from gnn_mtl.datasets import (
    catalog,
    catalog_entry,
    describe,
    fetch_dataset,
    how_to_get,
    import_any,
    import_npz,
    list_datasets,
    load_dataset,
    local_copies,
    planted,
    save_folder,
    save_npz,
)
from gnn_mtl.datasets._ogb_sets import SETS
from gnn_mtl.datasets._published_sets import PUBLISHED
from gnn_mtl.datasets._snap import SNAP_SETS


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """An empty data folder: nothing a user has is looked at."""
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_every_reader_has_an_entry_and_every_entry_a_reader():
    readers = {"ogb": set(SETS), "snap": set(SNAP_SETS), "published": set(PUBLISHED)}
    readers |= {"embedded": {"debian-tags"}, "generated": {"planted"}}
    families = {}
    for name, entry in catalog().items():
        assert name == entry.name
        families.setdefault(entry.family, set()).add(name)
    assert families == readers
    assert set(list_datasets()) == set(catalog())


@pytest.mark.parametrize("name", catalog())
def test_every_name_is_known_to_load_dataset(name, tmp_path):
    """It loads, or is not here; it is never an unknown name."""
    if name in ("debian-tags", "planted"):
        assert load_dataset(name, tmp_path, download=False).name == name
        return
    with pytest.raises(DatasetNotFoundError, match=f"Expected {name} (at|in) "):
        load_dataset(name, tmp_path, download=False)


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry):
    assert json.loads(json.dumps(entry.to_dict()))["name"] == entry.name
    for text in (entry.what, entry.features, entry.split, entry.licence, entry.numbers_from):
        assert text
        assert "\n" not in text
    assert entry.citation.endswith(".")
    assert any(character.isdigit() for character in entry.citation) or entry.name == "planted"
    assert len(entry.what) <= 27
    assert len(entry.licence) <= 12
    assert entry.source.startswith("http") or entry.family == "generated"
    assert set(entry.about) <= {"nodes", "edges", "tasks", "download_bytes"}
    if entry.family != "generated":
        assert min(entry.nodes, entry.edges, entry.tasks) > 0
    assert entry.what in entry.line()


def test_numbers_against_the_readers_own():
    for name, info in SETS.items():
        entry = catalog_entry(name)
        assert entry.tasks == (info.num_tasks if name == "ogbn-proteins" else info.num_classes)
        assert entry.download_bytes == info.download_bytes
    for name, info in SNAP_SETS.items():
        assert catalog_entry(name).download_bytes == info.edge_bytes + info.community_bytes


def test_the_embedded_graph_is_as_listed():
    facts, entry = describe(load_dataset("debian-tags")), catalog_entry("debian-tags")
    for key in ("nodes", "edges", "tasks"):
        assert facts[key] == getattr(entry, key)
    assert entry.differences(facts) == ""
    other = entry.differences(facts | {"nodes": 7, "tasks": 3})
    assert other == "7 nodes instead of 8,760, 3 tasks instead of 66"


@pytest.mark.parametrize(
    ("name", "folder"), [("blogcatalog", "blogcatalog"), ("ppi", "ppi_homo"), ("pcg", "pcg")]
)
def test_numbers_against_the_files(name, folder, shared_data):
    graph = import_npz(shared_data / folder / f"{folder}.npz")
    entry = catalog_entry(name)
    assert (graph.num_nodes, graph.csc.num_edges, graph.num_tasks) == (
        entry.nodes, 2 * entry.edges, entry.tasks,
    )  # fmt: skip


def test_unknown_names():
    with pytest.raises(UsageError, match=r"debian-tags.*Found 'ogb-proteins'. Did you mean ogbn-p"):
        catalog_entry("ogb-proteins")
    for function in (local_copies, fetch_dataset):
        with pytest.raises(UsageError, match="cora"):
            function("cora")


def test_copies_are_found_wherever_they_are(tmp_path, data_folder):
    (embedded,) = local_copies("debian-tags")
    assert embedded.kind == "embedded"
    assert embedded.num_bytes == embedded.path.stat().st_size > 0
    graph = planted(60, num_tasks=3, num_groups=1)
    graph.name = "ogbn-arxiv"
    root = tmp_path / "root"
    save_folder(graph, root / "ogbn-arxiv")
    save_npz(graph, root / "ppi" / "ppi.npz")
    save_folder(graph, data_folder / "converted" / "ogbn_arxiv-v1-sum-0123456789abcdef")
    (data_folder / "converted" / "broken").mkdir()
    (data_folder / "converted" / "broken" / "meta.json").write_text("{")
    found = local_copies("ogbn-arxiv", root)
    assert [copy.kind for copy in found] == ["stored", "converted"]
    for copy in found:
        files = [path for path in copy.path.iterdir() if path.is_file()]
        assert copy.num_bytes == sum(path.stat().st_size for path in files)
        assert copy.is_own_layout
    assert [copy.kind for copy in local_copies("ogbn-arxiv")] == ["converted"]
    assert [copy.path for copy in local_copies("ppi", root)] == [root / "ppi" / "ppi.npz"]


def test_published_files_are_found(tmp_path, data_folder):
    raw = tmp_path / "ogbn_proteins" / "raw"
    raw.mkdir(parents=True)
    (raw / "edge.csv.gz").write_bytes(b"12345")
    assert [(copy.kind, copy.num_bytes) for copy in local_copies("ogbn-proteins", tmp_path)] == [
        ("fetched", 5)
    ]
    assert not local_copies("ogbn-proteins", tmp_path)[0].is_own_layout
    folder = data_folder / "com-dblp"
    folder.mkdir(parents=True)
    (folder / "com-dblp.ungraph.txt").write_bytes(b"1 2\n")
    assert local_copies("snap-dblp") == []
    (folder / "com-dblp.top5000.cmty.txt.gz").write_bytes(b"xyz")
    (copy,) = local_copies("snap-dblp")
    assert (copy.kind, copy.num_bytes) == ("fetched", 7)
    (data_folder / "POS.mat").write_bytes(b"MATLAB")
    assert local_copies("pos")[0].path == data_folder / "POS.mat"


@pytest.mark.parametrize("name", catalog())
def test_fetching_without_a_network_says_how_to_get_it(name, tmp_path):
    if name == "planted":
        with pytest.raises(UsageError, match="generated, not fetched"):
            fetch_dataset(name, tmp_path)
    elif name == "debian-tags":
        assert (fetch_dataset(name, tmp_path, download=False) / "debian-tags.npz").is_file()
    else:
        with pytest.raises(DatasetNotFoundError, match=name):
            fetch_dataset(name, tmp_path, download=False)
    assert how_to_get(catalog_entry(name), tmp_path)


def test_fetching_what_is_here(tmp_path):
    (tmp_path / "POS.mat").write_bytes(b"MATLAB")
    assert fetch_dataset("pos", tmp_path, download=False) == tmp_path / "POS.mat"


def test_import_any_picks_the_reader(tmp_path):
    graph = planted(80, num_tasks=3, num_groups=1, num_features=2)
    save_npz(graph, tmp_path / "own.npz")
    save_folder(graph, tmp_path / "own")
    for place in ("own.npz", "own"):
        assert import_any(tmp_path / place).fingerprint() == graph.fingerprint()
    rows = np.array([[0, 1], [1, 0], [1, 1]] * 10)
    np.savez(tmp_path / "plain.npz", edge_index=np.array([[0, 1], [1, 2]]), num_nodes=30, y=rows)
    assert import_any(tmp_path / "plain.npz", split="random", seed=1).num_tasks == 2
    with pytest.raises(UsageError, match=r"keep_direction. Found top"):
        import_any(tmp_path / "own", top=3)
    with pytest.raises(DatasetNotFoundError):
        import_any(tmp_path / "nothing")

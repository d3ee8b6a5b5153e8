"""Dataset folders of the MLGNC repository, whole and damaged."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
import torch

from gnn_mtl._core.errors import DataError, FeatureError, FileFormatError, GraphError, SplitError
from gnn_mtl.datasets import import_mat, import_mlgnc, import_npz, load_dataset
from gnn_mtl.datasets._mlgnc import read_table

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_multilabel.py"
SPEC = importlib.util.spec_from_file_location("make_multilabel", SCRIPT)
make_multilabel = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_multilabel)

MAKERS = {
    "pcg_removed_isolated_nodes": make_multilabel.make_pcg,
    "HumanGo": make_multilabel.make_human_go,
    "dblp": make_multilabel.make_dblp,
    "Hyperspheres_10_10_0": make_multilabel.make_hyperspheres,
}
DELIMITERS = {".csv": ",", ".txt": ",", ".edgelist": "\t"}
pytestmark = pytest.mark.filterwarnings("ignore:.*no positive in training")


def oracle(path, skip):
    """Read a table as the repository's own loaders do."""
    return np.genfromtxt(path, delimiter=DELIMITERS[path.suffix], skip_header=skip)


@pytest.mark.parametrize("name", MAKERS)
def test_all_of_a_folder_arrives(name, tmp_path):
    folder = MAKERS[name](tmp_path)
    graph = import_mlgnc(folder)
    skip = int(name.startswith("Hyper"))
    suffix = ".txt" if name == "dblp" else ".csv"
    y = oracle(folder / f"labels{suffix}", skip)
    np.testing.assert_array_equal(
        graph.x, oracle(folder / f"features{suffix}", skip).astype(np.float32)
    )
    for part, ids in graph.split_idx.items():
        found, known = graph.targets(ids, part)
        np.testing.assert_array_equal(found, y[ids])
        assert known.all()
    (edge_file,) = (
        file for file in folder.iterdir() if file.name.startswith(("edge", "dblp.edge"))
    )
    edges = oracle(edge_file, int(name == "HumanGo"))
    edges = edges.T if skip else edges[:, :2]
    wanted = np.zeros((len(y), len(y)), dtype=bool)
    wanted[tuple(edges.T.astype(int))] = True
    wanted |= wanted.T
    np.fill_diagonal(wanted, False)
    found = np.zeros_like(wanted)
    found[tuple(graph.csc.to_edge_index())] = True
    np.testing.assert_array_equal(found, wanted)
    assert graph.csc.num_edges == wanted.sum()
    assert (graph.name, graph.directed, graph.edge_attr) == (name, False, None)
    assert load_dataset(folder).fingerprint() == graph.fingerprint()


def test_label_names_come_from_a_header(tmp_path):
    assert import_mlgnc(make_multilabel.make_hyperspheres(tmp_path)).label_names == (
        "y1", "y2", "y3",
    )  # fmt: skip


def test_evidence_becomes_edge_features(tmp_path):
    folder = make_multilabel.make_human_go(tmp_path)
    graph = import_mlgnc(folder, edge_features=True)
    table = oracle(folder / "edge_list.csv", 1)
    first = {}
    for source, target, *evidence in table[table[:, 0] != table[:, 1]].tolist():
        first.setdefault((source, target), evidence)
    for (source, target), row in zip(
        graph.csc.to_edge_index().T.tolist(), graph.edge_attr[graph.csc.edge_ids], strict=True
    ):
        wanted = first.get((source, target)), first.get((target, source))
        assert any(it is not None and np.allclose(row, it, atol=1e-6) for it in wanted)
    with pytest.raises(FeatureError, match="more than two columns"):
        import_mlgnc(make_multilabel.make_pcg(tmp_path), edge_features=True)


def test_splits(tmp_path):
    folder = make_multilabel.make_pcg(tmp_path)
    train = [import_mlgnc(folder, split=f"split{k}").split_idx["train"].tolist() for k in range(3)]
    assert len({tuple(ids) for ids in train}) == 3
    assert import_mlgnc(folder).split_idx["train"].tolist() == train[0]
    assert import_mlgnc(folder, split="task").split_kind == "task"
    drawn = import_mlgnc(folder, split="random").split_idx
    assert len(np.concatenate(list(drawn.values()))) == 30
    with pytest.raises(SplitError, match=r"split0, split1, split2.*'split'"):
        import_mlgnc(folder, split="split")
    assert len(import_mlgnc(make_multilabel.make_human_go(tmp_path), split="split").split_idx) == 3
    shutil.rmtree(tmp_path / f"{folder.name}_0.6")
    np.testing.assert_array_equal(import_mlgnc(folder).split_idx["test"], drawn["test"])


def test_overlapping_splits_are_refused(tmp_path):
    """As splits 1 and 2 of the published dblp are."""
    folder = make_multilabel.make_dblp(tmp_path)
    parts = [np.arange(10), np.arange(9, 20), np.arange(20, 30)]
    make_multilabel.write_split(folder / "dblp_0.6" / "split_1.pt", parts)
    with pytest.raises(SplitError, match="both in `train` and `valid`"):
        import_mlgnc(folder, split="split1")


def test_features_can_be_left_out(tmp_path):
    folder = make_multilabel.make_dblp(tmp_path)
    (folder / "features.txt").unlink()
    with pytest.raises(FileFormatError, match=r"features\.csv, features\.txt\. Found none"):
        import_mlgnc(folder)
    assert import_mlgnc(folder, features=False).x is None


@pytest.mark.parametrize("way", make_multilabel.BREAK["mlgnc"])
def test_damaged_folders(way, tmp_path):
    folder = make_multilabel.make_pcg(tmp_path)
    make_multilabel.BREAK["mlgnc"][way](folder)
    with pytest.raises(DataError, match=r"(?s)\.csv|split_0\.pt|edge_list"):
        import_mlgnc(folder)
    with pytest.raises(DataError):
        load_dataset(folder)


def test_damage_is_named(tmp_path):
    folder = make_multilabel.make_pcg(tmp_path)
    make_multilabel.BREAK["mlgnc"]["huge declared size"](folder)
    with pytest.raises(GraphError, match="99999999999"):
        import_mlgnc(folder)
    wide = folder / "edges_undir.csv"
    wide.write_text("0,1,2\n1,2,3\n")
    with pytest.raises(GraphError, match="two columns"):
        import_mlgnc(folder)
    wide.write_text("0,1.5\n")
    with pytest.raises(GraphError, match=r"1\.5"):
        import_mlgnc(folder)
    with pytest.raises(FileFormatError, match="Found none"):
        import_mlgnc(tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["", "\n", "a,b\n", "1,2\n3\n", "1,2\n3,x\n", "1,x\n2,3\n", "1,2\n3,4"]
)
def test_other_text(text, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"table\.csv should be a whole text file"):
        read_table(path)


@pytest.mark.parametrize("content", [{"train_mask": 3}, [1, 2], {"train_mask": [[1], [2]]}])
def test_other_split_files(content, tmp_path):
    folder = make_multilabel.make_pcg(tmp_path)
    if isinstance(content, dict) and isinstance(content["train_mask"], list):
        content = {"train_mask": torch.tensor(content["train_mask"])}
    torch.save(content, tmp_path / f"{folder.name}_0.6" / "split_0.pt")
    with pytest.raises(DataError, match=r"split_0\.pt"):
        import_mlgnc(folder)


def test_the_real_pcg_comes_back(shared_data, tmp_path):
    path = shared_data / "pcg" / "pcg.npz"
    folder = tmp_path / "pcg_removed_isolated_nodes"
    with np.load(path) as plain:
        arrays = dict(plain)
    edges = np.concatenate([arrays["edge_index"].T, arrays["edge_index"][::-1].T])
    make_multilabel.write_rows(folder / "edges_undir.csv", edges, form="%d")
    make_multilabel.write_rows(folder / "features.csv", arrays["x"], form="%.9g")
    ones = np.ones(len(arrays["y_indices"]))
    y = sp.csr_matrix((ones, arrays["y_indices"], arrays["y_indptr"]), shape=arrays["y_shape"])
    make_multilabel.write_rows(folder / "labels.csv", y.toarray(), form="%d")
    write_published(arrays, "split", tmp_path / f"{folder.name}_0.6")
    for number in range(3):
        split = f"split{number}"
        check_equal(import_mlgnc(folder, split=split), import_npz(path, split=split))
    assert load_dataset("pcg:split=split2", tmp_path).fingerprint() != (
        load_dataset("pcg", tmp_path).fingerprint()
    )


def test_the_real_blogcatalog_comes_back_with_its_splits(shared_data, tmp_path):
    path = shared_data / "blogcatalog" / "blogcatalog.npz"
    with np.load(path) as plain:
        arrays = dict(plain)
    wanted = import_npz(path, split="mlgnc_split0")
    source, target = wanted.csc.to_edge_index()
    network = sp.csc_matrix((np.ones(len(source)), (source, target)))
    ones = np.ones(len(arrays["y_indices"]))
    y = sp.csr_matrix((ones, arrays["y_indices"], arrays["y_indptr"]), shape=arrays["y_shape"])
    scipy.io.savemat(tmp_path / "blogcatalog.mat", {"network": network, "group": sp.csc_matrix(y)})
    write_published(arrays, "mlgnc_split", tmp_path / "blogcatalog_0.6")
    for number in range(3):
        check_equal(
            import_mat(tmp_path / "blogcatalog.mat", split=f"split{number}"),
            import_npz(path, split=f"mlgnc_split{number}"),
        )


def write_published(arrays, prefix, folder):
    """Write the three published splits of plain arrays as MLGNC's files."""
    for number in range(3):
        parts = [arrays[f"{prefix}{number}_{part}"].astype(np.int64) for part in PARTS]
        make_multilabel.write_split(folder / f"split_{number}.pt", parts)


PARTS = ("train", "val", "test")


def check_equal(found, wanted):
    """Compare two graphs but for their names."""
    np.testing.assert_array_equal(found.csc.indptr, wanted.csc.indptr)
    np.testing.assert_array_equal(found.csc.indices, wanted.csc.indices)
    if wanted.x is not None:
        np.testing.assert_array_equal(found.x, wanted.x)
    for part, ids in wanted.split_idx.items():
        np.testing.assert_array_equal(found.split_idx[part], ids)
        for one, other in zip(found.targets(ids, part), wanted.targets(ids, part), strict=True):
            np.testing.assert_array_equal(one, other)

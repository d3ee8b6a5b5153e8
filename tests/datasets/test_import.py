"""Plain arrays of others, and every real graph kept beside the repository."""

import json

import numpy as np
import pytest

from gnn_mtl._core.errors import (
    FileFormatError,
    LabelError,
    LabelWarning,
    SplitError,
    UsageError,
)
from gnn_mtl.datasets import describe, import_npz, load_npz, save_npz, verify

REAL = [
    "amazon100", "amazon100_distinct", "blogcatalog", "com_dblp_full", "dblp100", "debian",
    "debian_small", "pcg", "ppi_homo", "yeast_go",
]  # fmt: skip


@pytest.fixture
def plain(tmp_path):
    """Return a function that writes six nodes and four labels as plain arrays."""

    def write(**changes):
        arrays = {
            "edge_index": np.array([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=np.int32),
            "num_nodes": np.int64(6), "directed": np.bool_(False),
            "y_indptr": np.array([0, 2, 4, 5, 8, 9, 9], dtype=np.int32),
            "y_indices": np.array([0, 1, 0, 1, 2, 0, 1, 2, 3], dtype=np.int16),
            "y_shape": np.array([6, 4]), "label_names": np.array(list("abcd")),
            "first_copy_of": np.array([0, 0, 2, 3]), "community_row": np.array([9, 8, 7, 6]),
            "age": np.arange(6), "split0_train": np.array([0, 2, 4]),
            "split0_val": np.array([1]), "split0_test": np.array([3]),
            "split1_train": np.array([3, 4]), "split1_val": np.array([1, 2]),
            "split1_test": np.array([0]), "edge_kind_bits": np.array([1, 2, 3, 0], dtype=np.uint8),
        }  # fmt: skip
        arrays |= changes
        np.savez(tmp_path / "plain.npz", **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path / "plain.npz"

    return write


COPIES = pytest.mark.filterwarnings("ignore:.*repeat an earlier label")


@COPIES
def test_everything_arrives(plain):
    graph = import_npz(plain())
    assert (graph.name, graph.num_nodes, graph.label_names) == ("plain", 6, tuple("abcd"))
    assert graph.csc.num_edges == 8
    assert graph.labelled().tolist() == [True] * 5 + [False]
    assert graph.split_idx["train"].tolist() == [0, 2, 4]
    y, observed = graph.targets([1, 0], "valid")
    assert y.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert observed.tolist() == [[True] * 4, [False] * 4]
    assert set(graph.extras) == {"age", "community_row"}
    assert graph.edge_attr is None


def test_copies_are_counted_and_can_be_dropped(plain):
    with pytest.warns(LabelWarning, match=r"1 of 4 labels of plain repeat.*drop_copies"):
        import_npz(plain())
    graph = import_npz(plain(), drop_copies=True)
    assert graph.label_names == ("a", "c", "d")
    assert graph.extras["community_row"].tolist() == [9, 7, 6]


@COPIES
def test_labels_can_be_chosen(plain):
    assert import_npz(plain(), top=2).label_names == ("a", "b")
    assert import_npz(plain(), min_members=2).label_names == ("a", "b", "c")
    assert import_npz(plain(), min_members=2, top=1).label_names == ("a",)
    # A node whose labels were all left out was labelled all the same.
    assert import_npz(plain(), top=2).labelled().tolist() == [True] * 5 + [False]
    with pytest.raises(LabelError, match="largest of plain has 3"):
        import_npz(plain(), min_members=4)


@COPIES
def test_rows_without_labels(plain):
    assert import_npz(plain(), zero_rows="negative").labelled().all()
    marked = np.array([True, False, True, True, True, True])
    path = plain(labelled=marked, split0_val=np.array([5]))
    assert import_npz(path).labelled().tolist() == marked.tolist()


@COPIES
@pytest.mark.filterwarnings("ignore:.*no positive in training")
def test_splits(plain):
    assert import_npz(plain(), split="split1").split_idx["test"].tolist() == [0]
    drawn = import_npz(plain(), split="random", seed=1)
    assert sorted(np.concatenate(list(drawn.split_idx.values()))) == [0, 1, 2, 3, 4]
    with pytest.raises(SplitError, match=r"split0, split1.*'split9'"):
        import_npz(plain(), split="split9")
    with pytest.raises(FileFormatError, match="split1_val"):
        import_npz(plain(split1_val=None), split="split1")


@COPIES
@pytest.mark.filterwarnings("ignore:.*no positive in training")
def test_directions_edge_kinds_and_names(plain):
    graph = import_npz(plain(directed=np.bool_(True)), keep_direction=True, edge_features=True)
    assert graph.csc.num_edges == 4
    rows = graph.edge_attr[graph.csc.edge_ids]
    assert rows.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    assert import_npz(plain(label_names=None), top=2).label_names == ("0", "1")


@pytest.mark.parametrize("missing", ["edge_index", "y_shape"])
def test_missing_arrays(plain, missing):
    with pytest.raises(FileFormatError, match=f"Missing: {missing}"):
        import_npz(plain(**{missing: None}))


def test_labels_that_do_not_fit(plain):
    with pytest.raises(LabelError, match="6 rows"):
        import_npz(plain(y_shape=np.array([5, 4])))
    with pytest.raises(FileFormatError, match=r"\[0, 2\)"):
        import_npz(plain(y_shape=np.array([6, 2])))


@COPIES
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_nodes", np.array([6, 6])), ("y_shape", np.array([6])), ("y_shape", np.array(6)),
        ("label_names", np.array(["a"])), ("first_copy_of", np.arange(3)),
        ("edge_kind_bits", np.array([0.5, 1, 2, 3])), ("edge_kind_bits", np.array(["a"])),
        ("labelled", np.ones((6, 2), dtype=bool)), ("directed", np.array([True, False])),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(plain, name, value):
    path = plain(**{name: value})
    with pytest.raises((FileFormatError, LabelError), match=r"plain\.npz should|`label_names`"):
        import_npz(path, edge_features=True)


@pytest.mark.parametrize("top", [0, -1])
def test_top_is_a_number_of_labels(plain, top):
    with pytest.raises(UsageError, match="at least 1"):
        import_npz(plain(), top=top)


@COPIES
@pytest.mark.parametrize("name", REAL)
def test_real_graphs_have_the_counts_taken_when_they_were_made(name, shared_data, tmp_path):
    path = shared_data / name / f"{name}.npz"
    stats = json.loads((path.parent / f"{name}.stats.json").read_text())
    graph = import_npz(path, min_members=20 if name == "com_dblp_full" else 1)
    found = describe(graph)
    assert found["nodes"] == stats["nodes"]
    pairs = stats["canonicalisation"].get("unordered_pairs") if graph.directed else None
    assert found["edges"] == (pairs or stats["edges"])
    assert found["isolated"] == stats["isolated"]
    assert found["labelled_nodes"] == stats["labelled_nodes"]
    assert found["features"] == stats.get("features", [0, 0])[1]
    if name == "com_dblp_full":
        assert graph.num_tasks - found["duplicate_labels"] == 283
    else:
        assert found["tasks"] == stats["labels"]
        assert found["positives_min"] == stats["pos_per_label_min"]
        assert found["positives_median"] == stats["pos_per_label_median"]
        assert found["positives_max"] == stats["pos_per_label_max"]
        assert found["labels_per_node"] == stats["labels_per_labelled_node"]
        assert found["tasks"] - found["duplicate_labels"] == stats["distinct_label_columns"]
        assert found["homophily"] == pytest.approx(stats["label_homophily_jaccard"], abs=1e-4)
        assert found["nodes_with_two"] == stats["frac_labelled_with_2plus"]
    if not graph.directed:
        assert found["degree_max"] == stats["max_degree"]
    save_npz(graph, tmp_path / "g.npz")
    assert load_npz(tmp_path / "g.npz").fingerprint() == graph.fingerprint()
    assert verify(tmp_path / "g.npz") == []

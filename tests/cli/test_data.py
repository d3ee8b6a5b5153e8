"""``gnn-mtl data``: make, show, verify, import, list."""

import hashlib
import json

import numpy as np
import pytest

from gnn_mtl.datasets import list_datasets, load_dataset, planted


def test_list(cli):
    said = cli("data", "list")
    assert said.code == 0
    for name, text in list_datasets().items():
        assert any(line.split()[0] == name and text in line for line in said.out.splitlines())


@pytest.mark.parametrize("out", ["graph.npz", "graph"])
def test_make_show_verify(out, cli, here):
    made = cli(
        "data", "make", "planted", "--out", out, "--num-nodes", 90, "--num-edges", 300,
        "--num-tasks", 4, "--num-groups", 2, "--num-features", 3, "--conflict", 0.5, "--seed", 7,
    )  # fmt: skip
    assert made.code == 0
    assert "90 nodes, 600 stored edges, 4 tasks" in made.out
    graph = planted(90, 300, 4, 2, num_features=3, conflict=0.5, seed=7)
    assert load_dataset(out).fingerprint() == graph.fingerprint()
    assert cli("data", "verify", out).out == f"{out}: ok\n"
    shown = cli("data", "show", out, "--json")
    facts = json.loads(shown.out)
    assert (facts["name"], facts["nodes"], facts["tasks"]) == ("planted", 90, 4)
    table = cli("data", "show", out).out
    assert "planted" in table
    assert "90" in table


@pytest.fixture
def folder(cli, here):
    """A stored graph as a folder of arrays."""
    cli("data", "make", "planted", "--out", "graph", "--num-nodes", "90", "--num-tasks", "4")
    return here / "graph"


def flip_a_byte(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_tampered_array_of_a_folder(folder, cli):
    flip_a_byte(folder / "x.npy", -1)
    said = cli("data", "verify", "graph")
    assert said.code == 3
    assert "x.npy should have the SHA-256" in said.out
    assert "finding(s)" in said.out


def test_a_missing_array_of_a_folder(folder, cli):
    (folder / "indices.npy").unlink()
    for argv in (["data", "verify", "graph"], ["data", "show", "graph"]):
        said = cli(*argv)
        assert said.code == 3
        assert "indices.npy" in said.out + said.err


@pytest.mark.parametrize("how", ["flipped", "truncated", "swapped", "sums"])
def test_a_tampered_file_is_found_and_not_loaded(how, stored, cli, here):
    path = here / "graph.npz"
    path.write_bytes(stored.read_bytes())
    if how == "flipped":
        flip_a_byte(path, path.stat().st_size // 2)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "swapped":
        with np.load(path) as arrays:
            content = dict(arrays)
        content["x"] = content["x"][::-1]
        np.savez(path, **content)
    else:
        digest = hashlib.sha256(b"another file").hexdigest()
        (here / "SHA256SUMS").write_text(f"{digest}  graph.npz\n")
    verified = cli("data", "verify", path)
    assert verified.code == 3
    assert "1 finding(s)" in verified.out
    for argv in (["data", "show", path], ["train", "--dataset", path, "--out", "run"]):
        said = cli(*argv)
        assert said.code == 3
        assert "graph.npz" in said.err
    assert not (here / "run").exists()


@pytest.fixture
def plain(here):
    """A graph published as plain arrays: a path of 30 nodes, two labels, one repeated."""
    rows = [[2] if node % 2 else [0, 1, 3] for node in range(30)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    np.savez(
        here / "plain.npz",
        edge_index=np.stack([np.arange(29), np.arange(1, 30)]), num_nodes=30, directed=False,
        y_indptr=indptr, y_indices=np.concatenate(rows), y_shape=np.array([30, 4]),
        label_names=np.array(["a", "b", "c", "a again"]), first_copy_of=np.array([0, 0, 2, 0]),
    )  # fmt: skip
    return here / "plain.npz"


def test_import(plain, cli):
    flags = ["--name", "mine", "--drop-copies", "--zero-rows", "negative", "--split", "random"]
    said = cli("data", "import", plain, "--out", "mine.npz", *flags, "--seed", "1")
    assert said.code == 0
    graph = load_dataset("mine.npz")
    assert (graph.name, graph.num_nodes, graph.csc.num_edges) == ("mine", 30, 58)
    assert graph.label_names == ("a", "c")
    assert cli("data", "verify", "mine.npz").code == 0
    top = cli("data", "import", plain, "--out", "top.npz", "--top", "1", "--split", "random")
    assert top.code == 0
    assert load_dataset("top.npz").num_tasks == 1


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--min-members", "99"], 3, "99 positives"),
        (["--split", "split7"], 3, "split7"),
        (["--zero-rows", "maybe"], 2, "maybe"),
    ],
)
def test_a_bad_import_writes_nothing(flags, code, said, plain, cli, here):
    result = cli("data", "import", plain, "--out", "o.npz", *flags)
    assert result.code == code
    assert said in result.err
    assert [path.name for path in here.iterdir()] == ["plain.npz"]


def test_a_folder_is_not_overwritten(folder, cli):
    said = cli("data", "make", "planted", "--out", "graph")
    assert said.code == 2
    assert "exists" in said.err
    assert cli("data", "verify", "graph").code == 0


def test_datasets_below_a_root(stored, cli, here):
    (here / "root" / "mine").mkdir(parents=True)
    (here / "root" / "mine" / "mine.npz").write_bytes(stored.read_bytes())
    said = cli("data", "show", "mine", "--root", "root", "--json")
    assert json.loads(said.out)["nodes"] == 240
    assert cli("data", "show", "mine").code == 3

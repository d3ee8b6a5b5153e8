"""``gnn-mtl data``: make, show, fetch, verify, import, list."""

import hashlib
import json
import re

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from gnn_mtl.datasets import catalog, load_dataset, planted, save_folder


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """An empty data folder, and no network."""
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")
    return tmp_path / "cache"


def test_list(cli):
    said = cli("data", "list")
    assert said.code == 0
    heading, *lines = said.out.splitlines()
    assert " ".join(heading.split()) == "name nodes edges tasks what it is licence here"
    assert [line.split()[0] for line in lines] == list(catalog())
    for entry, line in zip(catalog().values(), lines, strict=True):
        assert entry.what in line
        assert entry.licence in line
        assert line.endswith(
            {"planted": "any time", "debian-tags": "kB"}.get(entry.name, "not here")
        )
    assert all(len(line) <= 100 and line.isascii() for line in said.out.splitlines())
    proteins = next(line for line in lines if line.startswith("ogbn-proteins")).split()
    assert proteins[1:4] == ["133k", "39.6M", "112"]


def test_list_says_what_is_here(cli, here, data_folder):
    graph = planted(60, num_tasks=3, num_groups=1)
    graph.name = "snap-dblp"
    save_folder(graph, data_folder / "converted" / "snap_dblp-v1-0123456789abcdef")
    save_folder(graph, here / "root" / "ppi")
    (here / "root" / "POS.mat").write_bytes(b"0" * 2_500)
    listed = json.loads(cli("data", "list", "--root", "root", "--json").out)
    kinds = {one["catalog"]["name"]: [copy["kind"] for copy in one["copies"]] for one in listed}
    assert {name: kind for name, kind in kinds.items() if kind} == {
        "debian-tags": ["embedded"], "snap-dblp": ["converted"], "ppi": ["stored"],
        "pos": ["fetched"],
    }  # fmt: skip
    assert {one["catalog"]["name"] for one in listed if one["here"]} == {
        "debian-tags", "planted", "snap-dblp", "ppi", "pos",
    }  # fmt: skip
    assert "fetched, 2.5 kB" in cli("data", "list", "--root", "root").out


def test_show_prints_labels_splits_overlap_and_origin(cli):
    said = cli("data", "show", "debian-tags")
    assert said.code == 0
    assert all(len(line) <= 100 for line in said.out.splitlines())
    words = " ".join(said.out.split())
    for text in (
        "8,760", "45,864", "positives a label min 103, median 215.5, max 2,560", "mean 4.264",
        "0.245 along edges", "train 4,199, valid 1,361, test 1,383", "red 0.0% (below .30)",
        "green 100.0%", "1.00 interface::graphical + interface::x11", "repeated labels none",
        "licence none stated", "Debian Project", "embedded, ",
    ):  # fmt: skip
        assert text in words, text
    assert "not as published" not in words


def test_show_flags_what_shares_too_few_nodes(cli):
    arguments = "planted:num_nodes=400,num_tasks=6,num_groups=2,split=task"
    assert "red 100.0% (below .30)" in cli("data", "show", arguments).out
    facts = json.loads(cli("data", "show", arguments, "--json").out)
    assert facts["overlap"]["jaccard"]["median"] == pytest.approx(0.111, abs=0.03)
    assert facts["catalog"]["name"] == "planted"
    assert (facts["here"], facts["copies"]) == (True, [])


@pytest.mark.parametrize("name", ["ogbn-proteins", "snap-dblp", "pos", "yelp"])
def test_show_of_what_is_not_here_says_what_is_known_and_ends_with_3(name, cli):
    said = cli("data", "show", name)
    assert said.code == 3
    entry = catalog()[name]
    words = " ".join(said.out.split())
    for text in (f"{name} (not here", f"{entry.nodes:,}", entry.licence, entry.citation):
        assert text in words
    assert (f"data fetch {name}" in said.err) == (name != "yelp")
    assert f"Expected {name}" in said.err
    facts = json.loads(cli("data", "show", name, "--json").out)
    assert facts["here"] is False
    assert facts["catalog"] == entry.to_dict()
    assert facts["how_to_get"]


def test_a_miniature_is_not_taken_for_the_published_graph(cli, here):
    graph = planted(60, num_tasks=3, num_groups=1)
    graph.name = "ppi"
    save_folder(graph, here / "root" / "ppi")
    said = cli("data", "show", "ppi", "--root", "root")
    assert said.code == 0
    assert "not as published" in said.out
    assert "60 nodes instead of 3,890, 3 tasks instead of 50" in " ".join(said.out.split())


def test_show_writes_a_page(cli, here):
    said = cli("data", "show", "debian-tags", "--html", "page.html")
    assert (said.code, said.out.splitlines()[-1]) == (0, "page.html")
    text = (here / "page.html").read_text()
    assert "gnn-mtl data show debian-tags --html page.html" in text
    assert "Debian Project" in text


@pytest.fixture
def mat(here):
    """A MATLAB file as node2vec's: a ring of 30 nodes, two labels."""
    ring = sp.csc_matrix(np.roll(np.eye(30), 1, axis=1) + np.roll(np.eye(30), -1, axis=1))
    labels = sp.csc_matrix(np.arange(60).reshape(30, 2) % 3 == 0, dtype=float)
    scipy.io.savemat(here / "POS.mat", {"network": ring, "group": labels})
    return here / "POS.mat"


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")
def test_a_name_is_verified_wherever_it_lies(cli, here, mat):
    root = here / "root"
    root.mkdir()
    assert cli("data", "verify", "pos", "--root", root).code == 3
    mat.rename(root / "POS.mat")
    assert cli("data", "verify", "pos", "--root", root).out.endswith("POS.mat, ok\n")
    (root / "POS.mat").write_bytes(b"not MATLAB")
    assert cli("data", "verify", "pos", "--root", root).code == 3
    embedded = cli("data", "verify", "debian-tags")
    assert embedded.code == 0
    assert embedded.out.endswith("debian-tags.npz: ok\n")


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")
def test_import_of_other_layouts(cli, here, mat):
    assert cli("data", "import", mat, "--out", "ring", "--seed", "4").code == 0
    graph = load_dataset("ring")
    assert (graph.num_nodes, graph.csc.num_edges, graph.num_tasks) == (30, 60, 2)
    said = cli("data", "import", mat, "--out", "other", "--top", "1")
    assert said.code == 2
    assert "Found top" in said.err
    assert not (here / "other").exists()
    assert cli("data", "import", "ring", "--out", "ring.npz").code == 0
    assert load_dataset("ring.npz").fingerprint() == graph.fingerprint()
    assert cli("data", "import", "nothing.npz", "--out", "o").code == 3


def test_fetch_says_how_without_a_network(cli, here):
    for name in ("snap-amazon", "ppi", "yelp", "ogbn-arxiv"):
        said = cli("data", "fetch", name, "--root", "root")
        assert said.code == 3
        assert f"Expected {name}" in said.err
    assert cli("data", "fetch", "planted").code == 2
    assert cli("data", "fetch", "ogb-arxiv").code == 2
    assert cli("data", "fetch", "debian-tags").code == 0


@pytest.mark.parametrize("limit", ["nan", "inf", "0", "-1"])
def test_a_limit_that_is_none(limit, cli):
    said = cli("data", "fetch", "snap-dblp", "--max-gigabytes", limit)
    assert said.code == 2
    assert "--max-gigabytes should be a number above 0" in said.err


@pytest.mark.parametrize("action", ["show", "verify"])
def test_what_the_system_refuses_is_said(action, cli):
    said = cli("data", action, "a" * 300)
    assert said.code == 3
    assert "cannot be used: File name too long" in said.err


def test_what_was_just_converted_is_shown(cli, here):
    make_small_snap(here / "com-dblp")
    for _ in range(2):
        kinds = [copy["kind"] for copy in json.loads(
            cli("data", "show", "snap-dblp", "--root", here, "--json").out
        )["copies"]]  # fmt: skip
        assert kinds == ["fetched", "converted"]


def make_small_snap(folder):
    """Write a ring with two communities."""
    folder.mkdir()
    ring = "".join(f"{node}\t{(node + 1) % 40}\n" for node in range(40))
    (folder / "com-dblp.ungraph.txt").write_text(ring)
    communities = ("\t".join(map(str, range(start, start + 20))) for start in (0, 15))
    (folder / "com-dblp.top5000.cmty.txt").write_text("\n".join(communities) + "\n")


def test_a_narrow_terminal_shows_every_column(cli, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", cli("data", "list").out).splitlines()
    assert all(len(line) <= 80 for line in lines)
    words = " ".join(" ".join(lines).split())
    assert "papers100M" in words
    assert "reviewer" in words


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

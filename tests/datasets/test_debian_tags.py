"""The embedded graph: the recipe on a small index, and the committed file."""

import gzip

import networkx as nx
import numpy as np
import pytest

from gnn_mtl._core.errors import DataError, FileFormatError
from gnn_mtl._core.files import sha256
from gnn_mtl.datasets import load_dataset, load_npz, verify
from gnn_mtl.datasets._debian_tags import (
    Recipe,
    build_debian_tags,
    main,
    parse_stanzas,
    read_index,
)
from gnn_mtl.datasets._registry import embedded_folder

FOLDER = embedded_folder("debian-tags")
RECIPE = Recipe(
    min_applications=2, max_needed_by=6, min_users=2, min_word_packages=2, min_word_nodes=2
)


def stanza(name, *, tags=(), description="a tool", **links):
    lines = [f"Package: {name}", "Version: 1", f"Description: {description}", " long text: more"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in links.items()]
    if tags:
        lines += [f"Tag: {tags[0]}" + "".join(f",\n {tag}" for tag in tags[1:])]
    return "\n".join(lines) + "\n\n"


APP = ("role::program", "interface::graphical")
INDEX = "".join([
    stanza("app-a", tags=(*APP, "use::editing"), description="Draw the nice pictures",
           Depends="libshared (>= 1), libc | libtiny:any", Recommends="virtual-mail"),
    stanza("app-b", tags=(*APP, "use::editing", "special::x"), description="Draw nice music",
           Depends="libshared, libc, app-a", Suggests="libtiny"),
    stanza("app-c", tags=(*APP, "use::viewing"), Pre_Depends="libc", Enhances="app-b"),
    stanza("app-c", tags=("role::program", "use::editing"), Depends="other"),
    stanza("app-d", tags=("role::program", "use::viewing"), Depends="app-c, libc, missing"),
    stanza("app-e", tags=(*APP, "use::editing"), Depends="libc"),
    stanza("data", tags=("role::app-data", "use::editing"), Depends="libc"),
    stanza("libc"), stanza("libshared", Depends="libc"), stanza("libtiny"),
    stanza("mail-1", Provides="virtual-mail (= 1)"), stanza("mail-2", Provides="virtual-mail"),
    stanza("other", Depends="libc, libshared"),
])  # fmt: skip


def test_the_recipe_on_a_small_index():
    graph = build_debian_tags(read_index(INDEX.splitlines(keepends=True)), RECIPE)
    package = graph.extras["package"].tolist()
    # libc is a hub; libtiny and the mail servers have one user; app-e is then on its own.
    assert package == ["app-a", "app-b", "app-c", "app-d", "libshared"]
    edges = {tuple(sorted((package[u], package[v]))) for u, v in graph.csc.to_edge_index().T}
    assert edges == {
        ("app-a", "libshared"), ("app-a", "app-b"), ("app-b", "libshared"), ("app-b", "app-c"),
        ("app-c", "app-d"),
    }  # fmt: skip
    assert graph.label_names == ("interface::graphical", "use::editing", "use::viewing")
    assert graph.labelled().tolist() == [True, True, True, True, False]
    y, _ = graph._labels.gather(slice(None))
    assert y.astype(int).tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]]
    words = graph.extras["vocabulary"].tolist()
    assert words == ["draw", "nice", "tool"]
    assert graph.x.toarray().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_parsing_reads_folded_fields_and_the_last_stanza():
    found = list(parse_stanzas(INDEX.rstrip().splitlines(keepends=True)))
    assert len(found) == 13
    assert found[0]["Tag"].split(", ")[-1] == "use::editing"
    assert "Version" not in found[0]
    with pytest.raises(FileFormatError, match=r"'<html>' in line 2"):
        list(parse_stanzas(["Package: a\n", "<html>"]))


def test_an_index_without_tags():
    with pytest.raises(DataError, match="120 applications"):
        build_debian_tags(read_index(INDEX.splitlines(keepends=True)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_command(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("gnn_mtl.datasets._debian_tags.Recipe", lambda: RECIPE)
    path = tmp_path / f"Packages{suffix}"
    path.write_bytes(gzip.compress(INDEX.encode()) if suffix else INDEX.encode())
    graph = main([str(path), str(tmp_path / "debian-tags")])
    assert sorted(p.name for p in (tmp_path / "debian-tags").iterdir()) == [
        "SHA256SUMS", "debian-tags.npz",
    ]  # fmt: skip
    assert load_dataset("debian-tags", root=tmp_path).fingerprint() == graph.fingerprint()


def test_the_committed_file_is_whole():
    digest, name = (FOLDER / "SHA256SUMS").read_text().split()
    assert name == "debian-tags.npz"
    assert sha256(FOLDER / name) == digest
    assert verify(FOLDER / name) == []
    assert (FOLDER / name).stat().st_size < 400_000


def test_the_committed_graph():
    graph = load_dataset("debian-tags")
    assert (graph.num_nodes, graph.num_tasks, graph.num_features) == (8_760, 66, 515)
    assert graph.csc.num_edges == 2 * 45_864
    assert int(graph.labelled().sum()) == 6_943
    assert {name: len(ids) for name, ids in graph.split_idx.items()} == {
        "train": 4_199, "valid": 1_361, "test": 1_383,
    }  # fmt: skip
    assert np.concatenate(list(graph.split_idx.values())).size == 6_943
    assert min(graph.positives(name).min() for name in ("train", "valid", "test")) >= 20
    assert nx.is_connected(nx.from_edgelist(graph.csc.to_edge_index().T.tolist()))
    package = graph.extras["package"].tolist()
    gimp, tags = package.index("gimp"), set()
    for split in ("train", "valid", "test"):
        tags |= {graph.label_names[t] for t in np.flatnonzero(graph.targets([gimp], split)[0][0])}
    assert {"uitoolkit::gtk", "works-with::image"} <= tags
    gtk = graph.csc.neighbors(package.index("libgtk2.0-0"))
    assert gimp in gtk


def test_the_committed_graph_equals_the_one_made_apart(shared_data):
    other = np.load(shared_data / "debian_small" / "debian_small.npz")
    with np.load(FOLDER / "debian-tags.npz") as mine:
        edges = np.sort(mine["edge_index"], axis=0)
        order = np.lexsort((edges[1], edges[0]))
        np.testing.assert_array_equal(edges[:, order], other["edge_index"])
        for name in ("y_indptr", "y_indices", "x_indptr", "x_indices", "x_data", "labelled"):
            np.testing.assert_array_equal(mine[name], other[name])
        for name in ("package", "vocabulary"):
            np.testing.assert_array_equal(mine[f"extra_{name}"], other[name])


def test_a_changed_file_is_refused(tmp_path):
    whole = (FOLDER / "debian-tags.npz").read_bytes()
    folder = tmp_path / "debian-tags"
    folder.mkdir()
    (folder / "debian-tags.npz").write_bytes(whole + b"\0")
    (folder / "SHA256SUMS").write_bytes((FOLDER / "SHA256SUMS").read_bytes())
    with pytest.raises(FileFormatError, match="SHA-256"):
        load_dataset("debian-tags", root=tmp_path)
    assert load_npz(FOLDER / "debian-tags.npz").name == "debian-tags"

"""Writes tiny copies of published multi-label graphs, and broken ones.

    python tests/miniatures/make_multilabel.py FOLDER          all layouts, tiny
    python tests/miniatures/make_multilabel.py FOLDER 0.1      AmazonProducts at a tenth of its size

Layouts are those of node2vec's ``.mat`` files, of the MLGNC repository, and of the raw folders of
PyG's ``Yelp``, ``AmazonProducts`` and ``PPI``; contents are drawn from a fixed seed. ``BREAK``
holds for each layout the ways in which tests damage a copy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse as sp
import torch

AMAZON = {"num_nodes": 1_569_960, "num_edges": 264_339_468, "num_features": 200, "num_labels": 107}


def draw_labels(rng, num_nodes, num_labels):
    """Return 0/1 labels ``[N, T]`` with a positive in every row and column."""
    y = rng.random((num_nodes, num_labels)) < 0.3
    y[np.arange(num_nodes), np.arange(num_nodes) % num_labels] = True
    return y.astype(np.int64)


def draw_network(rng, num_nodes, *, weighted=False, directed=False):
    """Return a sparse adjacency with a ring and two self-loops; the last node stays isolated."""
    ring = np.arange(num_nodes - 1)
    more = rng.integers(0, num_nodes - 1, (2, 3 * num_nodes))
    source, target = np.concatenate([[ring, np.roll(ring, -1)], more, [[0, 3], [0, 3]]], axis=1)
    ones = np.ones(len(source))
    network = sp.csr_matrix((ones, (source, target)), shape=(num_nodes, num_nodes))
    network = network if directed else network + network.T
    network.data[:] = 1
    if weighted:
        weights = sp.csr_matrix(network.shape)
        weights.indptr, weights.indices = network.indptr, network.indices
        weights.data = 1.0 + (network.nonzero()[0] + network.nonzero()[1]) % 7
        network = weights
    return sp.csc_matrix(network)


def draw_parts(rng, num_nodes):
    """Return node ids of train, valid and test."""
    order = rng.permutation(num_nodes)
    return np.split(order, [num_nodes * 6 // 10, num_nodes * 8 // 10])


def make_mat(path, *, num_nodes=30, num_labels=4, seed=0, dense=False, compress=True, **kind):
    """Write ``network`` and ``group`` as node2vec's files hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    network = draw_network(rng, num_nodes, **kind)
    group = draw_labels(rng, num_nodes, num_labels).astype(float)
    content = {"network": network, "group": group if dense else sp.csc_matrix(group)}
    scipy.io.savemat(path, content, do_compression=compress)
    return network, group


def write_rows(path, rows, header=None, delimiter=",", form="%g"):
    """Write a table of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        if header:
            file.write(delimiter.join(header) + "\n")
        np.savetxt(file, rows, fmt=form, delimiter=delimiter)


def write_split(path, parts):
    """Write a split as MLGNC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = ("train_mask", "val_mask", "test_mask")
    torch.save({key: torch.tensor(ids) for key, ids in zip(masks, parts, strict=True)}, path)


def make_pcg(root, num_nodes=30, seed=1):
    """``pcg_removed_isolated_nodes``: edges both ways, three splits beside the folder."""
    rng, name = np.random.default_rng(seed), "pcg_removed_isolated_nodes"
    network = draw_network(rng, num_nodes)
    network.setdiag(0)
    network.eliminate_zeros()
    write_rows(root / name / "edges_undir.csv", np.stack(network.nonzero(), axis=1), form="%d")
    write_rows(root / name / "features.csv", rng.standard_normal((num_nodes, 3)), form="%.6f")
    write_rows(root / name / "labels.csv", draw_labels(rng, num_nodes, 5), form="%d")
    for number in range(3):
        write_split(root / f"{name}_0.6" / f"split_{number}.pt", draw_parts(rng, num_nodes))
    return root / name


def make_human_go(root, num_nodes=30, seed=2):
    """``HumanGo``: a header, evidence for each edge, self-loops, one split in the folder."""
    rng, folder = np.random.default_rng(seed), root / "HumanGo"
    edges = np.stack(draw_network(rng, num_nodes, directed=True).nonzero(), axis=1)
    evidence = rng.integers(0, 100, (len(edges), 2)) / 100
    header = ("prot1", "prot2", "physical association", "colocalization")
    write_rows(folder / "edge_list.csv", np.concatenate([edges, evidence], axis=1), header)
    write_rows(folder / "features.csv", rng.standard_normal((num_nodes, 3)), form="%.6f")
    write_rows(folder / "labels.csv", draw_labels(rng, num_nodes, 4), form="%.1f")
    (folder / "nodes.csv").write_text("uniprot\n" + "".join(f"P{i}\n" for i in range(num_nodes)))
    write_split(folder / "split.pt", draw_parts(rng, num_nodes))
    return folder


def make_dblp(root, num_nodes=30, seed=3):
    """``dblp``: tabs between the ends of an edge, splits within the folder."""
    rng, folder = np.random.default_rng(seed), root / "dblp"
    edges = np.stack(sp.triu(draw_network(rng, num_nodes), 1).nonzero(), axis=1)
    write_rows(folder / "dblp.edgelist", edges, delimiter="\t", form="%d")
    write_rows(folder / "features.txt", rng.standard_normal((num_nodes, 3)), form="%.18e")
    write_rows(folder / "labels.txt", draw_labels(rng, num_nodes, 4), form="%.18e")
    write_split(folder / "dblp_0.6" / "split_0.pt", draw_parts(rng, num_nodes))
    return folder


def make_hyperspheres(root, num_nodes=30, seed=4):
    """``Hyperspheres_10_10_0``: headers everywhere but in the two lines of edges."""
    rng, folder = np.random.default_rng(seed), root / "Hyperspheres_10_10_0"
    edges = np.stack(draw_network(rng, num_nodes).nonzero())
    write_rows(folder / "edge_index.csv", edges, form="%d")
    write_rows(folder / "features.csv", rng.random((num_nodes, 2)), ("att1", "att2"), form="%.6f")
    write_rows(folder / "labels.csv", draw_labels(rng, num_nodes, 3), ("y1", "y2", "y3"), form="%d")
    write_split(root / "Hyperspheres_10_10_0_0.6" / "split_0.pt", draw_parts(rng, num_nodes))
    return folder


def make_saint(folder, num_nodes=40, num_labels=6, seed=5, directed=False):
    """PyG's ``Yelp`` or ``AmazonProducts``: features in float64, nodes of the map in any order."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    raw.mkdir(parents=True)
    sp.save_npz(raw / "adj_full.npz", draw_network(rng, num_nodes, directed=directed).tocsr())
    np.save(raw / "feats.npy", rng.standard_normal((num_nodes, 5)))
    y = draw_labels(rng, num_nodes, num_labels)
    labels = {str(node): y[node].tolist() for node in rng.permutation(num_nodes)}
    (raw / "class_map.json").write_text(json.dumps(labels))
    parts = dict(zip(("tr", "va", "te"), draw_parts(rng, num_nodes), strict=True))
    (raw / "role.json").write_text(json.dumps({k: ids.tolist() for k, ids in parts.items()}))
    return folder


def make_ppi(folder, tissues=((1, 2, 3), (4,), (5, 6)), num_nodes=12, seed=6, directed=True):
    """PyG's ``PPI``: for each part a few tissues, links both ways and a self-loop at every node."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    raw.mkdir(parents=True)
    for part, ids in zip(("train", "valid", "test"), tissues, strict=True):
        total = num_nodes * len(ids)
        blocks = sp.block_diag([_tissue(rng, num_nodes) for _ in ids])
        blocks = (blocks if directed else sp.triu(blocks)).tocoo()
        links = zip(blocks.row.tolist(), blocks.col.tolist(), strict=True)
        graph = {
            "directed": directed, "multigraph": False, "graph": {},
            "nodes": [{"id": node} for node in range(total)],
            "links": [{"source": source, "target": target} for source, target in links],
        }  # fmt: skip
        (raw / f"{part}_graph.json").write_text(json.dumps(graph))
        np.save(raw / f"{part}_feats.npy", rng.standard_normal((total, 4)))
        np.save(raw / f"{part}_labels.npy", draw_labels(rng, total, 3))
        np.save(raw / f"{part}_graph_id.npy", np.repeat(ids, num_nodes))
    return folder


def _tissue(rng, num_nodes):
    ring = np.arange(num_nodes)
    more = rng.integers(0, num_nodes, (2, num_nodes))
    source, target = np.concatenate([[ring, np.roll(ring, 1)], more], axis=1)
    block = sp.coo_matrix((np.ones(len(source)), (source, target)), shape=(num_nodes, num_nodes))
    return ((block + block.T + sp.eye(num_nodes)) > 0).astype(int)


def make_all(root):
    """Write every layout below ``root``, under the names the registry looks for."""
    root = Path(root)
    make_mat(root / "blogcatalog.mat")
    make_mat(root / "Homo_sapiens.mat", compress=False, dense=True)
    make_mat(root / "POS.mat", weighted=True)
    for make in (make_pcg, make_human_go, make_dblp, make_hyperspheres):
        make(root)
    make_saint(root / "Yelp")
    make_saint(root / "AmazonProducts", seed=7)
    make_ppi(root / "PPI")


def cut(path, share=0.5):
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit(path, old, new):
    """Replace bytes once."""
    content = path.read_bytes()
    if old not in content:
        raise ValueError(f"{old!r} is not in {path}")
    path.write_bytes(content.replace(old, new, 1))


def drop_line(path):
    """Remove the last line."""
    path.write_text("\n".join(path.read_text().rstrip().split("\n")[:-1]) + "\n")


def widen(path):
    """Add a column to the third line."""
    lines = path.read_text().split("\n")
    lines[2] += ",1"
    path.write_text("\n".join(lines))


def claim(path, shape):
    """Let a ``.npy`` file claim another shape than it has."""
    values = np.load(path)
    with path.open("wb") as file:
        header = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.tobytes())


def rewrite(path, change):
    """Change what a JSON file says."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


HUGE = (1 << 40, 5)
BREAK = {
    "mlgnc": {
        "missing file": lambda at: (at / "features.csv").unlink(),
        "wrong count": lambda at: drop_line(at / "features.csv"),
        "extra column": lambda at: widen(at / "labels.csv"),
        "truncated": lambda at: cut(at / "edges_undir.csv"),
        "truncated split": lambda at: cut(at.parent / f"{at.name}_0.6" / "split_0.pt"),
        "non-UTF-8": lambda at: edit(at / "features.csv", b"\n", b"\n\xff\xfe"),
        "huge declared size": lambda at: edit(at / "edges_undir.csv", b"\n", b"\n99999999999,0\n"),
        "words": lambda at: edit(at / "labels.csv", b"\n", b"\nyes,no,no,no,no\n"),
        "empty": lambda at: (at / "labels.csv").write_text(""),
        "two edge lists": lambda at: (at / "edge_list.csv").write_text("0,1\n"),
    },
    "saint": {
        "missing file": lambda at: (at / "raw" / "role.json").unlink(),
        "wrong count": lambda at: np.save(at / "raw" / "feats.npy", np.zeros((39, 5))),
        "extra column": lambda at: rewrite(
            at / "raw" / "class_map.json", lambda labels: labels | {"7": [0] * 7}
        ),
        "truncated": lambda at: cut(at / "raw" / "class_map.json"),
        "truncated edges": lambda at: cut(at / "raw" / "adj_full.npz"),
        "truncated features": lambda at: cut(at / "raw" / "feats.npy"),
        "non-UTF-8": lambda at: edit(at / "raw" / "role.json", b'"tr"', b'"\xff\xfe"'),
        "huge declared size": lambda at: claim(at / "raw" / "feats.npy", HUGE),
        "no node": lambda at: rewrite(
            at / "raw" / "class_map.json", lambda labels: labels | {"40": labels["7"]}
        ),
        "one class": lambda at: rewrite(
            at / "raw" / "class_map.json", lambda labels: dict.fromkeys(labels, 3)
        ),
        "other labels": lambda at: edit(at / "raw" / "class_map.json", b" 1,", b" 2,"),
        "a node twice": lambda at: edit(at / "raw" / "class_map.json", b'"7"', b'"8"'),
        "words": lambda at: edit(at / "raw" / "role.json", b'"tr": [', b'"tr": ["x", '),
        "roles": lambda at: edit(at / "raw" / "role.json", b'"te"', b'"tx"'),
        "not square": lambda at: sp.save_npz(at / "raw" / "adj_full.npz", sp.eye(40, 39).tocsr()),
        "other arrays": lambda at: np.savez(at / "raw" / "adj_full.npz", indices=np.zeros(3)),
        "pickled features": lambda at: np.save(at / "raw" / "feats.npy", np.array([{}] * 40)),
        "infinite features": lambda at: np.save(
            at / "raw" / "feats.npy", np.full((40, 5), np.inf)
        ),
    },
    "ppi": {
        "missing file": lambda at: (at / "raw" / "valid_labels.npy").unlink(),
        "wrong count": lambda at: np.save(at / "raw" / "test_labels.npy", np.zeros((5, 3))),
        "extra column": lambda at: np.save(at / "raw" / "test_labels.npy", np.zeros((24, 4))),
        "truncated": lambda at: cut(at / "raw" / "train_graph.json"),
        "truncated ids": lambda at: cut(at / "raw" / "train_graph_id.npy"),
        "non-UTF-8": lambda at: edit(at / "raw" / "train_graph.json", b'"graph"', b'"\xff\xfe"'),
        "huge declared size": lambda at: claim(at / "raw" / "train_feats.npy", HUGE),
        "no links": lambda at: edit(at / "raw" / "test_graph.json", b'"links"', b'"edges"'),
        "no target": lambda at: edit(at / "raw" / "test_graph.json", b'"target"', b'"tarjet"'),
        "no node": lambda at: edit(
            at / "raw" / "valid_graph.json", b'"source": 1,', b'"source": 9999,'
        ),
        "more after the end": lambda at: edit(at / "raw" / "test_graph.json", b"]}", b"]} {}"),
        "other labels": lambda at: np.save(at / "raw" / "test_labels.npy", np.full((24, 3), 2)),
        "tables of ids": lambda at: np.save(at / "raw" / "test_graph_id.npy", np.ones((24, 1))),
    },
}  # fmt: skip


def make_large_saint(folder, scale=1.0, seed=0):
    """AmazonProducts at ``scale`` times its nodes and edges, written in blocks."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    raw.mkdir(parents=True)
    nodes = int(scale * AMAZON["num_nodes"])
    degree = int(AMAZON["num_edges"] / AMAZON["num_nodes"]) // 2
    # A circulant graph is symmetric, and its rows can be written one after the other.
    steps = np.sort(rng.choice(np.arange(1, nodes // 2), degree, replace=False))
    steps = np.concatenate([steps, nodes - steps])
    indices = np.lib.format.open_memmap(
        raw / "indices.npy", "w+", np.int32, (nodes * len(steps),)
    )  # fmt: skip
    x = np.lib.format.open_memmap(
        raw / "feats.npy", "w+", np.float64, (nodes, AMAZON["num_features"])
    )  # fmt: skip
    with (raw / "class_map.json").open("w") as file:
        file.write("{")
        for start in range(0, nodes, 1 << 14):
            rows = np.arange(start, min(start + (1 << 14), nodes))
            block = np.sort((rows[:, None] + steps) % nodes, axis=1)
            indices[start * len(steps) : (rows[-1] + 1) * len(steps)] = block.ravel()
            x[rows] = rng.random((len(rows), x.shape[1]), dtype=np.float32)
            y = (rng.random((len(rows), AMAZON["num_labels"])) < 0.05).astype(int)
            pairs = zip(rows.tolist(), y.tolist(), strict=True)
            comma = ", " if start else ""
            file.write(comma + ", ".join(f'"{node}": {labels}' for node, labels in pairs))
        file.write("}")
    indptr = np.arange(nodes + 1, dtype=np.int32 if nodes * len(steps) < 2**31 else np.int64)
    np.savez(
        raw / "adj_full.npz", indices=indices, indptr=indptr * indptr.dtype.type(len(steps)),
        format=np.array(b"csr"), shape=np.array([nodes, nodes]),
        data=np.broadcast_to(np.float32(1), len(indices)),
    )  # fmt: skip
    del indices
    (raw / "indices.npy").unlink()
    parts = dict(zip(("tr", "va", "te"), draw_parts(rng, nodes), strict=True))
    (raw / "role.json").write_text(json.dumps({k: ids.tolist() for k, ids in parts.items()}))
    return nodes, nodes * len(steps)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        make_all(sys.argv[1])
    else:
        make_large_saint(Path(sys.argv[1]) / "AmazonProducts", float(sys.argv[2]))

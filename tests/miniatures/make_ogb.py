"""Writes tiny datasets in OGB's raw format, and one as large as wanted.

    python tests/miniatures/make_ogb.py FOLDER          all five, tiny
    python tests/miniatures/make_ogb.py FOLDER 0.1      ogbn-proteins at a tenth of its size

File names and layouts are those of OGB's archives; contents are drawn from a fixed seed. The edges
of the tiny ones hold a self-loop, a pair given twice and a pair given both ways.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

PROTEINS = {"num_nodes": 132_534, "num_edges": 39_561_252}
SPECIES = (3702, 4932, 6239, 7227, 7955, 9606, 10090, 511145)
FLAWED = np.array([[0, 2, 1, 5, 5, 3], [0, 1, 2, 7, 7, 4]])


def write_table(path, values):
    """Write an array as ``.csv.gz`` without header; whole floats keep their point, NaN is empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.atleast_2d(np.asarray(values))
    rows = rows.T if np.asarray(values).ndim == 1 else rows
    lines = (",".join("" if x != x else str(x) for x in row) + "\n" for row in rows.tolist())
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(lines)


def write_text(path, *rows):
    """Write rows of text as ``.csv.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines(",".join(map(str, row)) + "\n" for row in rows)


def finish(folder, split, parts, version=1):
    """Write the split and what OGB's loaders insist on."""
    for name, ids in parts.items():
        write_table(folder / "split" / split / f"{name}.csv.gz", ids)
    (folder / f"RELEASE_v{version}.txt").write_text("# Release note\n")
    (folder / "processed").mkdir()


def draw_edges(rng, num_nodes, num_edges):
    """Return edges ``[2, E]``; the last node stays isolated."""
    return np.concatenate([FLAWED, rng.integers(0, num_nodes - 1, (2, num_edges))], axis=1)


def draw_parts(rng, num_nodes, share=1.0):
    """Return node ids of train, valid and test over a share of the nodes."""
    order = rng.permutation(num_nodes)[: int(share * num_nodes)]
    cuts = [len(order) * 6 // 10, len(order) * 8 // 10]
    return dict(zip(("train", "valid", "test"), np.split(order, cuts), strict=True))


def make_proteins(folder, num_nodes=40, num_edges=120, num_tasks=112, seed=0):
    """ogbn-proteins: edges once, edge features, species, many binary labels, no node features."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    edges = draw_edges(rng, num_nodes, num_edges)
    write_table(raw / "edge.csv.gz", edges.T)
    write_table(raw / "edge-feat.csv.gz", np.round(rng.random((edges.shape[1], 8)), 3))
    write_table(raw / "num-node-list.csv.gz", [num_nodes])
    write_table(raw / "num-edge-list.csv.gz", [edges.shape[1]])
    write_table(raw / "node-label.csv.gz", rng.integers(0, 2, (num_nodes, num_tasks)))
    write_table(raw / "species.csv.gz", rng.choice(SPECIES, num_nodes))
    names = [(task, f"GO:{task:07d}") for task in range(num_tasks)]
    write_text(folder / "mapping" / "labelidx2GO.csv.gz", ("label idx", "label GO"), *names)
    finish(folder, "species", draw_parts(rng, num_nodes))


def make_products(folder, num_nodes=50, num_edges=90, seed=1):
    """ogbn-products: edges once, node features, classes."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    edges = draw_edges(rng, num_nodes, num_edges)
    write_table(raw / "edge.csv.gz", edges.T)
    write_table(raw / "node-feat.csv.gz", np.round(rng.standard_normal((num_nodes, 5)), 6))
    write_table(raw / "num-node-list.csv.gz", [num_nodes])
    write_table(raw / "num-edge-list.csv.gz", [edges.shape[1]])
    write_table(raw / "node-label.csv.gz", rng.integers(0, 47, num_nodes))
    finish(folder, "sales_ranking", draw_parts(rng, num_nodes))


def make_arxiv(folder, num_nodes=60, num_edges=100, seed=2):
    """ogbn-arxiv: directed edges, node features, years, classes."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    edges = draw_edges(rng, num_nodes, num_edges)
    write_table(raw / "edge.csv.gz", edges.T)
    write_table(raw / "node-feat.csv.gz", np.round(rng.standard_normal((num_nodes, 4)), 6))
    write_table(raw / "node_year.csv.gz", rng.integers(2010, 2021, num_nodes))
    write_table(raw / "num-node-list.csv.gz", [num_nodes])
    write_table(raw / "num-edge-list.csv.gz", [edges.shape[1]])
    write_table(raw / "node-label.csv.gz", rng.integers(0, 40, num_nodes))
    finish(folder, "time", draw_parts(rng, num_nodes))


def make_mag(folder, num_papers=45, num_authors=20, num_edges=80, seed=3):
    """ogbn-mag: two node types, three relations; papers have features, years and classes."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    write_text(raw / "num-node-dict.csv.gz", ("author", "paper"), (num_authors, num_papers))
    relations = {
        ("author", "writes", "paper"): (num_authors, num_papers),
        ("paper", "cites", "paper"): (num_papers, num_papers),
    }
    write_text(raw / "triplet-type-list.csv.gz", *reversed(relations))
    for number, (triplet, (heads, tails)) in enumerate(relations.items()):
        where = raw / "relations" / "___".join(triplet)
        edges = np.stack([rng.integers(0, heads, num_edges), rng.integers(0, tails, num_edges)])
        write_table(where / "edge.csv.gz", edges.T)
        write_table(where / "edge_reltype.csv.gz", np.full(num_edges, number))
        write_table(where / "num-edge-list.csv.gz", [num_edges])
    papers = raw / "node-feat" / "paper"
    write_table(papers / "node-feat.csv.gz", np.round(rng.standard_normal((num_papers, 3)), 5))
    write_table(papers / "node_year.csv.gz", rng.integers(2010, 2020, num_papers))
    write_text(raw / "nodetype-has-label.csv.gz", ("author", "paper"), (False, True))
    labels = rng.integers(0, 349, num_papers)
    write_table(raw / "node-label" / "paper" / "node-label.csv.gz", labels)
    split = folder / "split" / "time"
    write_text(split / "nodetype-has-split.csv.gz", ("author", "paper"), (False, True))
    finish(folder, "time/paper", draw_parts(rng, num_papers), version=2)


def make_papers(folder, num_nodes=70, num_edges=110, seed=4):
    """ogbn-papers100M: arrays in npz files, most nodes without a class."""
    rng, raw = np.random.default_rng(seed), folder / "raw"
    raw.mkdir(parents=True)
    edges = draw_edges(rng, num_nodes, num_edges)
    parts = draw_parts(rng, num_nodes, share=0.5)
    y = np.full((num_nodes, 1), np.nan, dtype=np.float32)
    labelled = np.concatenate(list(parts.values()))
    y[labelled, 0] = rng.integers(0, 172, len(labelled))
    np.savez_compressed(
        raw / "data.npz", edge_index=edges.astype(np.int64), num_nodes_list=np.array([num_nodes]),
        num_edges_list=np.array([edges.shape[1]]),
        node_year=rng.integers(1990, 2020, (num_nodes, 1)),
        node_feat=rng.standard_normal((num_nodes, 6)).astype(np.float32),
    )  # fmt: skip
    np.savez_compressed(raw / "node-label.npz", node_label=y)
    finish(folder, "time", parts)


MAKERS = {
    "ogbn_proteins": make_proteins, "ogbn_products": make_products, "ogbn_arxiv": make_arxiv,
    "ogbn_mag": make_mag, "ogbn_papers100M": make_papers,
}  # fmt: skip


def make_all(root):
    """Write all five below ``root``, in folders named as OGB names them."""
    for name, make in MAKERS.items():
        make(Path(root) / name)


def make_large_proteins(folder, scale=1.0, seed=0):
    """ogbn-proteins at ``scale`` times its nodes and edges: large files, written in chunks."""
    import pandas as pd

    num_nodes, num_edges = (int(scale * size) for size in PROTEINS.values())
    make_proteins(folder, num_nodes, 0, seed=seed)
    rng, raw = np.random.default_rng(seed), folder / "raw"
    write_table(raw / "num-edge-list.csv.gz", [num_edges])
    ends = [",", *[","] * 6, "\n"]
    token = np.array([[f"0.{k:03d}{end}" for end in ends] for k in range(1000)], dtype="S6")
    with (
        gzip.open(raw / "edge.csv.gz", "wb", compresslevel=1) as edge_file,
        gzip.open(raw / "edge-feat.csv.gz", "wb", compresslevel=1) as feature_file,
    ):
        for start in range(0, num_edges, 1 << 18):
            size = min(1 << 18, num_edges - start)
            edges = rng.integers(0, num_nodes, (size, 2))
            edge_file.write(pd.DataFrame(edges).to_csv(header=False, index=False).encode())
            feature_file.write(token[rng.integers(0, 1000, (size, 8)), np.arange(8)].tobytes())
    return num_nodes, num_edges


if __name__ == "__main__":
    if len(sys.argv) == 2:
        make_all(sys.argv[1])
    else:
        make_large_proteins(Path(sys.argv[1]) / "ogbn_proteins", float(sys.argv[2]))

"""Writes small graphs in SNAP's form, broken ones, and one as large as wanted.

    python tests/miniatures/make_snap.py FOLDER          com-mini, tiny, and it broken in every way
    python tests/miniatures/make_snap.py FOLDER 21e6     com-large with so many edges

A set is two files, edges and communities; contents are drawn from a fixed seed. Ids have gaps, as
SNAP's do. In the miniature communities overlap, some repeat others and most nodes are in none.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

EDGES, COMMUNITIES = ".ungraph.txt", ".top5000.cmty.txt"


def write(path, text):
    """Write text, gzipped if the name ends so."""
    content = text if isinstance(text, bytes) else text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def edge_text(edges, num_nodes=None, header=True):
    """Return edges ``[E, 2]`` as SNAP writes them."""
    nodes = len(np.unique(edges)) if num_nodes is None else num_nodes
    lines = [f"{u}\t{v}\n" for u, v in np.asarray(edges).tolist()]
    top = [
        "# Undirected graph: ../../data/output/mini.txt\n", "# Mini\n",
        f"# Nodes: {nodes} Edges: {len(edges)}\n", "# FromNodeId\tToNodeId\n",
    ]  # fmt: skip
    return "".join([*(top if header else []), *lines])


def community_text(communities):
    """Return member lists as SNAP writes them."""
    return "".join("\t".join(map(str, members)) + "\n" for members in communities)


def draw_mini(num_nodes=400, num_edges=1500, seed=0):
    """Return (edges of original ids ``[E, 2]``, communities as lists of original ids)."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(3 * num_nodes, num_nodes, replace=False))
    ring = np.stack([np.arange(num_nodes), np.roll(np.arange(num_nodes), -1)], axis=1)
    pairs = np.concatenate([ring, rng.integers(0, num_nodes, (num_edges, 2))])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    sizes = [3, 8, 120, 8, 30, 15, 110, 8, 60, 15]
    chosen = [np.sort(rng.choice(num_nodes // 2, size, replace=False)) for size in sizes]
    chosen += [chosen[2], chosen[5], chosen[2]]
    return ids[pairs], [ids[members].tolist() for members in chosen]


def make_mini(folder, stem="com-mini", end=".gz", seed=0):
    """Write the miniature; return its edges and communities."""
    edges, communities = draw_mini(seed=seed)
    write(folder / f"{stem}{EDGES}{end}", edge_text(edges))
    write(folder / f"{stem}{COMMUNITIES}{end}", community_text(communities))
    return edges, communities


def lines_of(path):
    """Return the lines of a file, gzipped or not."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines(keepends=True)


def edit(end, change):
    """Return what applies a function to the lines of a file."""

    def break_it(folder):
        (path,) = folder.glob(f"*{end}*")
        write(path, b"".join(change(lines_of(path))))

    return break_it


def cut(end, share):
    """Return what cuts a packed file."""

    def break_it(folder):
        (path,) = folder.glob(f"*{end}*")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return break_it


def blot(end):
    """Return what overwrites bytes in the middle of a packed file."""

    def break_it(folder):
        (path,) = folder.glob(f"*{end}*")
        content = path.read_bytes()
        path.write_bytes(content[:500] + bytes(40) + content[540:])

    return break_it


def drop(end):
    """Return what removes a file."""
    return lambda folder: next(folder.glob(f"*{end}*")).unlink()


def swap(place, line):
    """Return a change of one line."""
    return lambda lines: [*lines[:place], line, *lines[place + 1 :]]


FIRST = 4
"""The first line of edges, after the comments."""

BROKEN = {
    "no edges": drop(EDGES),
    "no communities": drop(COMMUNITIES),
    "fewer edges": edit(EDGES, lambda r: r[:-1]),
    "more edges": edit(EDGES, lambda r: [*r, r[-1]]),
    "other nodes": edit(EDGES, swap(FIRST, b"5000\t5001\n")),
    "truncated": cut(EDGES, 0.6),
    "truncated checksum": cut(EDGES, 0.999),
    "truncated communities": cut(COMMUNITIES, 0.6),
    "damaged in the middle": blot(EDGES),
    "an extra column": edit(EDGES, swap(FIRST + 3, b"1\t2\t3\n")),
    "a column less": edit(EDGES, swap(FIRST, b"1\n")),
    "text": edit(EDGES, swap(FIRST + 1, b"1\tx2\n")),
    "fractions": edit(EDGES, swap(FIRST, b"1.5\t2\n")),
    "commas": edit(EDGES, swap(FIRST, b"1,2\n")),
    "a comment behind": edit(EDGES, swap(FIRST, b"1\t2 # x\n")),
    "not UTF-8": edit(EDGES, swap(FIRST, b"1\t\xff\xfe\n")),
    "binary": edit(EDGES, lambda r: [bytes(range(256)) * 40]),
    "negative ids": edit(EDGES, swap(FIRST, b"-1\t2\n")),
    "huge ids": edit(EDGES, swap(FIRST, b"1\t2147483647\n")),
    "hopeless ids": edit(EDGES, swap(FIRST, b"9" * 5000 + b"\t1\n")),
    "a huge size": edit(EDGES, swap(2, b"# Nodes: 99999999999999 Edges: 5\n")),
    "a hopeless size": edit(EDGES, swap(2, b"# Nodes: " + b"9" * 9000 + b" Edges: 5\n")),
    "a huge number of edges": edit(EDGES, swap(2, b"# Nodes: 400 Edges: 99999999999\n")),
    "comments only": edit(EDGES, lambda r: r[:2]),
    "an empty file": cut(EDGES, 0),
    "empty edges": edit(EDGES, lambda r: []),
    "empty communities": edit(COMMUNITIES, lambda r: [b"\n\n"]),
    "unknown members": edit(COMMUNITIES, swap(4, b"1999\t5000\n")),
    "text among members": edit(COMMUNITIES, swap(2, b"1 a\n")),
    "negative members": edit(COMMUNITIES, swap(2, b"-4\n")),
    "huge members": edit(COMMUNITIES, swap(0, b"9" * 30)),
    "binary communities": edit(COMMUNITIES, lambda r: [b"\x00\x01"]),
}
"""What may be wrong, and how to do it to a folder."""


def make_all(root):
    """Write the miniature, and below ``broken`` every variant."""
    make_mini(root / "com-mini")
    for name, break_it in BROKEN.items():
        folder = root / "broken" / name.replace(" ", "-") / "com-mini"
        make_mini(folder)
        break_it(folder)


def make_large(folder, num_edges, num_communities=500, stem="com-large", seed=0, end=".gz"):
    """Write a graph as dense as Orkut, in chunks; return its numbers of nodes and edges.

    Edges are drawn, so that some repeat; each community is a range of ids.
    """
    import pandas as pd

    rng = np.random.default_rng(seed)
    num_edges = int(num_edges)
    num_nodes = max(num_edges // 38, 100)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}{EDGES}{end}"
    ring = np.stack([np.arange(num_nodes), np.roll(np.arange(num_nodes), -1)], axis=1)
    with gzip.open(path, "wb", compresslevel=1) if end else path.open("wb") as file:
        file.write(f"# Nodes: {num_nodes} Edges: {num_edges}\n".encode())
        for start in range(0, num_edges, 1 << 20):
            edges = rng.integers(0, num_nodes, (min(1 << 20, num_edges - start), 2))
            part = ring[start : start + len(edges)]
            edges[: len(part)] = part
            table = pd.DataFrame(edges + 1)
            file.write(table.to_csv(header=False, index=False, sep="\t").encode())
    sizes = rng.integers(20, max(num_nodes // num_communities, 21), num_communities)
    starts = rng.integers(1, num_nodes - sizes.max(), num_communities)
    members = [range(a, a + size) for a, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    write(folder / f"{stem}{COMMUNITIES}{end}", community_text(members))
    return num_nodes, num_edges


if __name__ == "__main__":
    if len(sys.argv) == 2:
        make_all(Path(sys.argv[1]))
    else:
        make_large(Path(sys.argv[1]) / "com-large", float(sys.argv[2]))

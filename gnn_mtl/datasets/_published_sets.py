"""The multi-label graphs that have a name beside OGB's and SNAP's: their files and where from.

``blogcatalog.mat`` and MLGNC's files were read at the commits named here: their checksums are
known. node2vec's two files are at addresses that many public scripts use, not opened here, without
checksum. ``ppi.zip`` is where torch_geometric 2.8.1 fetches it, its checksum as two public packages
give it. PyG gets Yelp and AmazonProducts from Google Drive, which asks back before it sends large
files: these are fetched by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from gnn_mtl.datasets._pyg_ppi import FILES as PPI_FILES

MLGNC = "https://raw.githubusercontent.com/Tianqi-py/MLGNC/e7f609fbc226cff5d4ec2a8eed114a4c2177b51f/data"
DEEPWALK = (
    "https://raw.githubusercontent.com/phanein/deepwalk/6e6dff245e4692e9bea47e9017c1034e51afbf29"
)


@dataclass(frozen=True)
class Source:
    """One file of a dataset: where it goes below the root, where it is, what it should be.

    Attributes:
        path: Place below the folder of datasets.
        url: Address.
        sha256: Checksum, where it is known.
        members: The files to take out of an archive, into ``raw`` beside it.
    """

    path: str
    url: str
    sha256: str | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A dataset with a name.

    Attributes:
        places: What it is called below a folder of datasets, its usual name first.
        sources: The files to fetch; none where that cannot be done unattended.
        by_hand: How to get it then.
    """

    places: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    by_hand: str = ""


def _mlgnc(folder: str, *places: str, **checksums: str) -> Published:
    """Describe a folder of MLGNC; a split numbered k is ``FOLDER_0.6/split_k.pt``."""
    sources = []
    for key, sha256 in checksums.items():
        stem, _, number = key.partition("_")
        file = f"{folder}/{key}.{'pt' if stem == 'split' else 'csv'}"
        path = f"{folder}_0.6/{key}.pt" if stem == "split" and number else file
        sources.append(Source(path, f"{MLGNC}/{path}", sha256))
    return Published((folder, *places), tuple(sources))


def _saint(pyg_class: str) -> Published:
    return Published(
        (pyg_class, pyg_class.lower()),
        by_hand=f'python -c "from torch_geometric.datasets import {pyg_class}; '
        f"{pyg_class}('{{base}}/{pyg_class}')\" on a machine with a network gets it from Google "
        f"Drive; of what it writes, {{base}}/{pyg_class}/raw with adj_full.npz, feats.npy, "
        "class_map.json and role.json is needed",
    )


PUBLISHED = {
    "blogcatalog": Published(
        ("blogcatalog.mat", "BlogCatalog.mat"),
        (
            Source(
                "blogcatalog.mat", f"{DEEPWALK}/example_graphs/blogcatalog.mat",
                "d4f4fb89ce1ccd4b7e2a183386c000773cc9362cc61f1be5b246a6d9c259da8f",
            ),
            *(
                Source(path := f"blogcatalog_0.6/split_{number}.pt", f"{MLGNC}/{path}", sha256)
                for number, sha256 in enumerate(
                    (
                        "649bd2e16797af84cad7f64a10b9e289349e55eb6ebc7f36097712de49701428",
                        "3aff9e3485d154042232dc836eb7dcd6135ea90aac37071351d74aa5c8b3bca8",
                        "a920acc6f2a93a3e4ea6cc175174869aea6628d007c9014ebfb85cb08cf85bf9",
                    )
                )
            ),
        ),
    ),
    "ppi": Published(
        ("Homo_sapiens.mat", "ppi.mat"),
        (Source("Homo_sapiens.mat", "https://snap.stanford.edu/node2vec/Homo_sapiens.mat"),),
    ),
    "pos": Published(
        ("POS.mat", "pos.mat"),
        (Source("POS.mat", "https://snap.stanford.edu/node2vec/POS.mat"),),
    ),
    "pcg": _mlgnc(
        "pcg_removed_isolated_nodes", "pcg",
        edges_undir="43bd76942bb327f5bb76172987831915a405c4d68b84918a77b29212d5a725d2",
        features="75565f7c8ff4687ee2bcd6e387291a8a69858a9207b789f36ab5eb953c5ce3a3",
        labels="6e13687788b68a667fc0c2ef8a28504cfe6dd454f6202d2176a863eb28874005",
        split_0="eb9b5d0293b0bde7be6496f441c685c50f8db0fecdbe24c26fe07566fc7faf7e",
        split_1="dc29537ea75bf1ce8940755b6bc99fbbb0958117c3fc27036088d8cbd19ba893",
        split_2="30dabf588b1361e6fe1847f611c4fbe9423e7c8e8c370f585960bac526dd9f9d",
    ),
    "human-go": _mlgnc(
        "HumanGo", "human-go",
        edge_list="130a7add7b404f9a062baf1daba96a76f805abc543804be410d36ed3a9723305",
        features="5f15a5a3f7d042e6e3eb125f7cfc47d43f36044f22e98d9192529e24c60343f1",
        labels="bd1079a042f803784b3155d42cc94e27c3f8b1b80d50269aeb71a83297fdb9ec",
        split="3a6964befd55012e38494adf3407ca8e8fb5a57178068616b366ff39324b2ccd",
    ),
    "eukaryote-go": _mlgnc(
        "EukaryoteGo", "eukaryote-go",
        edge_list="4222dfa04ef0c0a5a09d76973755cd1cd4dbb819ee1981841f5d1512cc534552",
        features="59d8ca8c747ca918d1252f5dc9d813c75c076b7f2b7b515b24622b738b4c8b49",
        labels="139026614ad8c2afed62791cf3f1f218426b92d01b2fb6536dbcb4e26286005d",
        split="0563cd8c031ae6c949f8a591798cbc6edbf01c0cd0e24eb03a02963de52d07ac",
    ),
    "yelp": _saint("Yelp"),
    "amazon-products": _saint("AmazonProducts"),
    "ppi-inductive": Published(
        ("PPI", "ppi-inductive"),
        (
            Source(
                "PPI/ppi.zip", "https://data.dgl.ai/dataset/ppi.zip",
                "1f5b2b09ac0f897fa6aa1338c64ab75a5473674cbba89380120bede8cddb2a6a", PPI_FILES,
            ),
        ),
    ),
}  # fmt: skip

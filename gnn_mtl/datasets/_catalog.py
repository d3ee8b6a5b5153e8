"""Every dataset with a name: how large, under which licence, whose work, and where it comes from.

One table, read by ``list_datasets``, ``gnn-mtl data`` and the profile page. Numbers are those of
the graph as published; what a reader makes of it by default is said in ``note``. A number that was
not counted on the files themselves is named in ``about``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gnn_mtl._core.errors import UsageError
from gnn_mtl.datasets._ogb_sets import SETS
from gnn_mtl.datasets._snap import SNAP_SETS

NONE_STATED = "none stated"


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """What is known of one dataset without having it.

    Attributes:
        name: Name that ``load_dataset`` takes.
        family: Who reads it: ``"embedded"``, ``"generated"``, ``"ogb"``, ``"snap"`` or
            ``"published"`` (MATLAB files, MLGNC's folders, PyG's raw ones).
        what: What nodes and labels are, in a few words.
        nodes: Number of nodes; None where you choose it.
        edges: Number of undirected edges, of directed ones if ``directed``.
        directed: Whether the source says who points at whom.
        tasks: Number of labels; with classes, one task each.
        features: Where node features come from and how many there are.
        split: Which part of the labels is for what, and who says so.
        licence: Licence of the data in a word, ``"none stated"`` where the publisher is silent.
        citation: What to cite: authors, title, venue, year.
        source: Address of the publisher's page.
        download_bytes: About how much there is to fetch; 0 if nothing is, None if unknown.
        about: Fields whose number is approximate or counted by others.
        numbers_from: Where the numbers come from.
        note: What a user should know.
    """

    name: str
    family: str
    what: str
    nodes: int | None
    edges: int | None
    directed: bool = False
    tasks: int | None
    features: str
    split: str
    licence: str
    citation: str
    source: str
    download_bytes: int | None = None
    about: tuple[str, ...] = ()
    numbers_from: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON values."""
        return {**asdict(self), "about": list(self.about)}

    def differences(self, facts: Mapping[str, Any]) -> str:
        """Return how a graph differs from the published numbers, empty if it does not.

        Samples and miniatures carry the name of the whole; this tells them apart. Generated graphs
        and sub-graphs made of communities have no number to differ from.

        Args:
            facts: ``nodes`` and ``tasks`` as counted.
        """
        if self.family in ("generated", "snap"):
            return ""
        found = [
            f"{facts[key]:,} {key} instead of {number:,}"
            for key, number in (("nodes", self.nodes), ("tasks", self.tasks))
            if number is not None and facts[key] != number
        ]
        return ", ".join(found)

    def line(self) -> str:
        """Return one line for a list of names."""
        if self.nodes is None:
            return f"{self.what}; {self.numbers_from}"
        return f"{self.what}; {self.nodes:,} nodes, {self.tasks} tasks"


def catalog() -> dict[str, CatalogEntry]:
    """Return all entries by name."""
    return dict(_ENTRIES)


def catalog_entry(name: str) -> CatalogEntry:
    """Return the entry of a name.

    Raises:
        UsageError: If there is none.
    """
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"Expected one of {', '.join(_ENTRIES)}. Found {name!r}.{hint}")
    return _ENTRIES[name]


def _ogb(name: str, note: str = "", **facts: Any) -> CatalogEntry:  # noqa: ANN401
    return CatalogEntry(
        name=name, family="ogb", split=f"{SETS[name].split.replace('_', ' ')}, fixed by OGB",
        citation=f"{_OGB} {facts.pop('also')}", source="https://ogb.stanford.edu/docs/nodeprop/",
        download_bytes=SETS[name].download_bytes, about=("download_bytes",), note=note,
        numbers_from="OGB's page of node-property sets", **facts,
    )  # fmt: skip


def _snap(name: str, page: str, what: str, **facts: Any) -> CatalogEntry:  # noqa: ANN401
    info = SNAP_SETS[name]
    return CatalogEntry(
        name=name, family="snap", what=what, tasks=100,
        features="none; add structural ones",
        split="per (node, task), drawn: 20 % of a label's cells train, 20 % validate",
        licence=NONE_STATED, citation=f"{_YANG} Tasks: {_KDD23}",
        source=f"https://snap.stanford.edu/data/{page}.html",
        download_bytes=info.edge_bytes + info.community_bytes,
        about=("download_bytes",), numbers_from="SNAP's page, for the whole graph",
        note=facts.pop("note"), **facts,
    )  # fmt: skip


_OGB = (
    "Hu, Fey, Zitnik, Dong, Ren, Liu, Catasta, Leskovec: Open Graph Benchmark: Datasets for "
    "Machine Learning on Graphs. NeurIPS 2020."
)
_MAG = (
    "Source: Wang, Shen, Huang, Wu, Dong, Kanakia: Microsoft Academic Graph: When experts are not "
    "enough. Quantitative Science Studies 1(1), 2020."
)
_YANG = (
    "Yang, Leskovec: Defining and Evaluating Network Communities based on Ground-truth. ICDM 2012."
)
_KDD23 = (
    "Li, Ju, Sharma, Zhang: Boosting Multitask Learning on Graphs through Higher-Order Task "
    "Affinities. KDD 2023."
)
_TMLR23 = (
    "Zhao, Dong, Hanjalic, Khosla: Multi-label Node Classification On Graph-Structured Data. TMLR "
    "2023."
)
_NODE2VEC = "Grover, Leskovec: node2vec: Scalable Feature Learning for Networks. KDD 2016."
_SAINT = (
    "Zeng, Zhou, Srivastava, Kannan, Prasanna: GraphSAINT: Graph Sampling Based Inductive Learning "
    "Method. ICLR 2020."
)
_INDUCED = "By default the sub-graph of the largest communities, "

_ENTRIES = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            name="debian-tags", family="embedded", what="Debian packages, debtags",
            nodes=8_760, edges=45_864, tasks=66, features="515 words, 0/1, sparse",
            split="per node, stratified 60/20/20, fixed",
            licence=NONE_STATED, download_bytes=0,
            citation="Debian Project: package index of Debian 12 (bookworm), 2026; debtags by its "
            "volunteers.",
            source="https://debtags.debian.org", numbers_from="counted on the file",
            note="Comes with gnn-mtl. The index states no licence; taken from it are names, links, "
            "tags and single words. 1,817 libraries are unlabelled, not negative.",
        ),
        CatalogEntry(
            name="planted", family="generated", what="generated, known groups",
            nodes=None, edges=None, tasks=None, features="any number, noisy latent factors",
            split="per node or per (node, task), drawn", licence="MIT", download_bytes=0,
            citation="gnn-mtl (this package).", source="gnn_mtl.datasets.planted",
            numbers_from="you choose them: planted:num_nodes=5000,num_tasks=40,seed=1",
            note="2,000 nodes and 24 tasks in 4 groups unless told otherwise.",
        ),
        _ogb(
            "ogbn-proteins", what="proteins, GO functions", nodes=132_534, edges=39_561_252,
            tasks=112, features="none; 8 a node summed from its edges", licence="CC0 1.0",
            also="Source: Szklarczyk et al.: STRING v11. Nucleic Acids Research 47, 2019; Gene "
            "Ontology Consortium. Nucleic Acids Research 47, 2019.",
            note="Split by species: test proteins are of species that training never saw.",
        ),
        _ogb(
            "ogbn-arxiv", what="papers, subject", nodes=169_343, edges=1_166_243,
            directed=True, tasks=40, features="128 dense", licence="ODC-BY", also=_MAG,
            note="One of 40 classes a paper; each class becomes a task.",
        ),
        _ogb(
            "ogbn-products", what="products, category", nodes=2_449_029, edges=61_859_140,
            tasks=47, features="100 dense", licence="Amazon's",
            also="Source: Bhatia et al.: The extreme classification repository, 2016; Chiang et "
            "al.: Cluster-GCN. KDD 2019.",
            note="One of 47 classes a product; each class becomes a task. The licence is "
            "Amazon's own, linked from OGB's page.",
        ),
        _ogb(
            "ogbn-mag", what="papers, venue", nodes=736_389, edges=5_416_271, directed=True,
            tasks=349, features="128 dense", licence="ODC-BY", also=_MAG,
            note="The papers and their citations; authors, institutions and fields are left out. "
            "One of 349 classes a paper.",
        ),
        _ogb(
            "ogbn-papers100M", what="papers, subject", nodes=111_059_956, edges=1_615_685_872,
            directed=True, tasks=172, features="128 dense", licence="ODC-BY", also=_MAG,
            note="About 1.5M papers have a class; the others are unlabelled.",
        ),
        _snap(
            "snap-amazon", "com-Amazon", "products, categories",
            nodes=334_863, edges=925_872,
            note=f"{_INDUCED}100 of them: 3,225 nodes and 10,262 edges as published, where 39 of "
            "the 100 repeat another exactly; 4,336 nodes and 14,100 edges with 100 distinct ones.",
        ),
        _snap(
            "snap-dblp", "com-DBLP", "authors, venues", nodes=317_080, edges=1_049_866,
            note=f"{_INDUCED}100 of them: 57,368 nodes and 210,061 edges.",
        ),
        _snap(
            "snap-youtube", "com-Youtube", "users, groups",
            nodes=1_134_890, edges=2_987_624,
            note=f"{_INDUCED}100 of them: about 16,750 nodes.",
        ),
        _snap(
            "snap-livejournal", "com-LiveJournal", "users, groups",
            nodes=3_997_962, edges=34_681_189,
            note=f"{_INDUCED}100 of them: about 18,400 nodes and 0.7M edges.",
        ),
        _snap(
            "snap-orkut", "com-Orkut", "users, groups",
            nodes=3_072_441, edges=117_185_083,
            note=f"{_INDUCED}100 of them; with 500 it is the graph of 21M stored edges of Grad-TAG "
            "(KDD 2024).",
        ),
        CatalogEntry(
            name="blogcatalog", family="published", what="bloggers, interests",
            nodes=10_312, edges=333_983, tasks=39, features="none; add structural ones",
            split="per node, 60/20/20; three published by Zhao et al. (TMLR 2023)",
            licence=NONE_STATED, download_bytes=None,
            citation="Tang, Liu: Relational Learning via Latent Social Dimensions. KDD 2009. Data: "
            f"Zafarani, Liu: Social Computing Data Repository at ASU, 2009. Splits: {_TMLR23}",
            source="http://leitang.net/social_dimension.html", numbers_from="counted on the file",
        ),
        CatalogEntry(
            name="ppi", family="published", what="proteins, hallmark sets",
            nodes=3_890, edges=37_845, tasks=50, features="none; add structural ones",
            split="none published; drawn", licence=NONE_STATED, download_bytes=None,
            citation=f"{_NODE2VEC} Source: Breitkreutz et al.: The BioGRID Interaction Database: "
            "2008 update. Nucleic Acids Research 36, 2008.",
            source="https://snap.stanford.edu/node2vec/", numbers_from="counted on the file",
            note="The literature's 76,584 edges are stored lines: each edge twice, and 894 loops.",
        ),
        CatalogEntry(
            name="pos", family="published", what="words, parts of speech",
            nodes=4_777, edges=92_400, tasks=40, features="none; add structural ones",
            split="none published; drawn", licence=NONE_STATED, download_bytes=None,
            citation=f"{_NODE2VEC} Source: Mahoney: Large text compression benchmark, 2011.",
            source="https://snap.stanford.edu/node2vec/", about=("edges",),
            numbers_from="node2vec's paper, whose 184,812 edges are stored lines",
        ),
        CatalogEntry(
            name="pcg", family="published", what="proteins, phenotypes",
            nodes=3_233, edges=37_351, tasks=15, features="32 dense",
            split="per node, 60/20/20; three published", licence=NONE_STATED,
            citation=_TMLR23, source="https://github.com/Tianqi-py/MLGNC", download_bytes=None,
            numbers_from="counted on the files",
        ),
        CatalogEntry(
            name="human-go", family="published", what="human proteins, locations",
            nodes=3_106, edges=15_978, tasks=14, features="32 dense",
            split="per node, one published", licence=NONE_STATED,
            citation=_TMLR23, source="https://github.com/Tianqi-py/MLGNC", download_bytes=None,
            numbers_from="counted on the files",
        ),
        CatalogEntry(
            name="eukaryote-go", family="published", what="proteins, locations",
            nodes=7_766, edges=11_321, tasks=22, features="32 dense",
            split="per node, one published", licence=NONE_STATED,
            citation=_TMLR23, source="https://github.com/Tianqi-py/MLGNC", download_bytes=None,
            numbers_from="counted on the files",
        ),
        CatalogEntry(
            name="yelp", family="published", what="reviewers, businesses",
            nodes=716_847, edges=6_977_410, tasks=100, features="300 dense",
            split="per node, fixed by GraphSAINT", licence=NONE_STATED,
            citation=_SAINT, source="https://github.com/GraphSAINT/GraphSAINT",
            download_bytes=2_100_000_000, about=("download_bytes",),
            numbers_from="GraphSAINT's table; the size from the shapes of the arrays",
            note="Made from the Yelp Open Dataset, whose terms of use apply to it.",
        ),
        CatalogEntry(
            name="amazon-products", family="published", what="products, categories",
            nodes=1_569_960, edges=132_169_734, tasks=107, features="200 dense",
            split="per node, fixed by GraphSAINT", licence=NONE_STATED,
            citation=_SAINT, source="https://github.com/GraphSAINT/GraphSAINT",
            download_bytes=4_500_000_000, about=("download_bytes",),
            numbers_from="GraphSAINT's table; the size from the shapes of the arrays",
            note="PyG counts the 264,339,468 stored edges.",
        ),
        CatalogEntry(
            name="ppi-inductive", family="published", what="proteins in 24 tissues, GO",
            nodes=56_944, edges=793_632, tasks=121, features="50 dense",
            split="per graph, 20/2/2 tissues, fixed", licence=NONE_STATED,
            citation="Zitnik, Leskovec: Predicting multicellular function through multi-layer "
            "tissue networks. Bioinformatics 33(14), 2017. Split: Hamilton, Ying, Leskovec: "
            "Inductive Representation Learning on Large Graphs. NeurIPS 2017.",
            source="https://snap.stanford.edu/graphsage/", download_bytes=None, about=("edges",),
            numbers_from="PyG's and GraphSAGE's tables, without self-loops",
            note="Saturated (F1 above .99): a smoke test rather than a benchmark.",
        ),
    )
}  # fmt: skip

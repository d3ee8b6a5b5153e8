"""Communities as tasks: which, on which nodes, with which masks; the published sets exactly."""

import hashlib
import importlib.util
import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import LabelError, LabelWarning, SplitError, UsageError
from gnn_mtl.datasets import CommunityOptions, import_npz, import_snap, load_snap
from gnn_mtl.datasets._communities import (
    choose_communities,
    community_graph,
    community_split,
    train_positives,
)
from gnn_mtl.datasets._introsort import introsort_order
from gnn_mtl.datasets._snap_text import Communities
from gnn_mtl.datasets._splits import SPLITS

SCRIPT = Path(__file__).parents[1] / "miniatures" / "make_snap.py"
SPEC = importlib.util.spec_from_file_location("make_snap", SCRIPT)
make_snap = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_snap)

PUBLISHED = {"distinct": False, "truncate": True}
QUIET = pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "snap-cache"
    monkeypatch.setenv("GNN_MTL_DATA", str(folder))
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")


def lists(*members):
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in members])])
    return Communities.from_lists(indptr, np.concatenate(members))


def path_edges(num_nodes):
    edges = np.stack([np.arange(num_nodes - 1), np.arange(1, num_nodes)])
    return lambda: [(edges[0], edges[1])]


def choose(communities, **options):
    rows, repeats = choose_communities(communities, CommunityOptions(**options))
    return rows.tolist(), repeats


# Which communities

FIVE = lists([1, 2, 3], [4, 5], [3, 2, 1], [7], [6, 8, 9])


def test_the_largest_are_kept():
    assert choose(FIVE, k=2, ties="first") == ([0, 4], 1)
    assert choose(FIVE, k=3, ties="first", distinct=False) == ([0, 2, 4], 1)
    assert choose(FIVE, k=9, ties="first") == ([3, 1, 0, 4], 1)
    assert choose(FIVE, k=9, ties="first", min_members=2) == ([1, 0, 4], 1)
    assert choose(FIVE, k=1, ties="first") == ([0], 0)
    assert choose(FIVE, k=9, distinct=False, ties="first") == ([3, 1, 0, 2, 4], 1)
    with pytest.raises(LabelError, match=r"4 members or more\. The largest has 3"):
        choose(FIVE, min_members=4)


@settings(max_examples=60, deadline=None)
@given(
    members=st.lists(st.frozensets(st.integers(0, 6), min_size=1), min_size=1, max_size=12),
    k=st.integers(1, 12),
    least=st.integers(1, 3),
    ties=st.sampled_from(["first", "numpy"]),
)
def test_distinct_ones_by_brute_force(members, k, least, ties):
    communities = lists(*(sorted(part) for part in members))
    sizes = [len(part) for part in members]
    order = introsort_order(np.array(sizes))[::-1].tolist()
    if ties == "first":
        order = sorted(range(len(members)), key=lambda row: (-sizes[row], row))
    order = [row for row in order if sizes[row] >= least]
    if not order:
        return
    kept = []
    for row in order:
        if len(kept) < k and members[row] not in [members[other] for other in kept]:
            kept.append(row)
    rows, repeats = choose(communities, k=k, min_members=least, ties=ties)
    assert sorted(rows) == sorted(kept)
    assert [sizes[row] for row in rows] == sorted(sizes[row] for row in kept)
    assert repeats == len(order[:k]) - len({members[row] for row in order[:k]})
    plain, _ = choose(communities, k=k, min_members=least, ties=ties, distinct=False)
    assert sorted(plain) == sorted(order[:k])


# The first 16 digits of the SHA-256 of what numpy.argsort of NumPy 1.23.5 returns.
ARGSORT = {
    (0, 5000, 40): "856b5ab3c7f401e0",
    (1, 1000, 5): "1d8fcb60c8e6b5c7",
    (2, 17, 4): "9dee9e1a39157139",
    (3, 16, 3): "aba8df0c5868ae18",
    (4, 200, 10**6): "2c2e39cc732d97b3",
}


@pytest.mark.parametrize("seed", ARGSORT)
def test_the_order_of_old_numpy(seed):
    values = np.random.default_rng(seed[0]).integers(0, seed[2], seed[1])
    order = introsort_order(values)
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == ARGSORT[seed]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=200))
def test_the_order_of_old_numpy_sorts(values):
    order = introsort_order(np.array(values, dtype=np.int64))
    assert sorted(order.tolist()) == list(range(len(values)))
    assert np.array(values, dtype=np.int64)[order].tolist() == sorted(values)


# Which cells train


def released(size, version):
    """Training positives as the released code computes them, its constants written out."""
    ratio = 0.2
    if version == "v2" and size > 100:
        ratio = 0.2 * 50 / size
    if version == "v3":
        ratio = 0.02 if size <= 100 else 0.2 * 10 / size
    return int(size * ratio)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_training_positives_as_released(version):
    for size in range(1, 8_000):
        assert train_positives(size, version, truncate=True) == released(size, version)


def test_what_truncation_loses():
    sizes = range(101, 8_000)
    ours = {version: [train_positives(size, version) for size in sizes] for version in ("v2", "v3")}
    assert set(ours["v2"]) == {10}
    assert set(ours["v3"]) == {2}
    assert sum(released(size, "v2") == 9 for size in sizes) == 112
    assert sum(released(size, "v3") == 1 for size in sizes) == 1057
    for version, divisor in (("v1", 5), ("v2", 5), ("v3", 50)):
        for size in range(3, 101):
            assert train_positives(size, version) == max(1, size // divisor)
    assert [train_positives(size, "v1") for size in (102, 198, 2217)] == [20, 39, 443]  # YouTube
    with pytest.raises(UsageError, match=r"v1, v2, v3\. Found 'v4'"):
        train_positives(9, "v4")


def brute_force(members, num_nodes, version, truncate, seed=1024):
    """The released builder with its membership tests; 0 train, 1 valid, 2 test."""
    rng = np.random.default_rng(seed)
    out = np.full((num_nodes, len(members)), -1)
    for task, part in enumerate(members):
        size = len(part)
        train, valid = released(size, version), int(size * 0.2)
        if not truncate:
            exact = {"v1": size // 5, "v2": size // 5, "v3": size // 50}[version]
            if size > 100:
                exact = {"v1": exact, "v2": 10, "v3": 2}[version]
            least = 1 if size > 2 else 0
            train, valid = max(exact, least), max(size // 5, least)
        order = rng.permutation(part)
        inside = set(part.tolist())
        negative = rng.permutation([node for node in range(num_nodes) if node not in inside])
        for nodes, first, second in (
            (order, train, valid),
            (negative, int(len(negative) * 0.2), int(len(negative) * 0.2)),
        ):
            out[nodes[:first], task] = 0
            out[nodes[first : first + second], task] = 1
            out[nodes[first + second :], task] = 2
    return out


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_masks_by_brute_force(version, truncate):
    rng = np.random.default_rng(3)
    members = [np.sort(rng.choice(600, s, replace=False)) for s in (3, 5, 60, 100, 101, 250, 103)]
    members += members[:4]  # more than one byte of tasks
    split = community_split(members, np.ones(600, bool), version=version, truncate=truncate)
    wanted = brute_force(members, 600, version, truncate)
    for code, name in enumerate(SPLITS):
        np.testing.assert_array_equal(split.mask(slice(None), name), wanted == code)
    assert (wanted >= 0).all()


def test_masks_leave_the_unlabelled_out():
    known = np.arange(600) % 3 > 0
    members = [np.flatnonzero(known)[:50], np.flatnonzero(known)[100:140]]
    split = community_split(members, known)
    cells = sum(split.mask(slice(None), name).astype(int) for name in SPLITS)
    np.testing.assert_array_equal(cells, np.repeat(known[:, None], 2, axis=1).astype(int))
    inside = np.flatnonzero(known)  # numbered without the others, the draw is the same
    place = np.full(600, -1)
    place[inside] = np.arange(len(inside))
    small = community_split([place[part] for part in members], np.ones(len(inside), bool))
    np.testing.assert_array_equal(split.mask(inside, "valid"), small.mask(slice(None), "valid"))


def test_communities_too_small_to_split():
    with pytest.raises(SplitError, match="`train` should hold at least one"):
        community_split([np.array([0, 1])], np.ones(4, bool), truncate=True)
    tiny = community_split([np.array([0, 1, 2])], np.ones(12, bool))
    y = np.arange(12) < 3
    assert [int((tiny.mask(slice(None), name)[:, 0] & y).sum()) for name in SPLITS] == [1, 1, 1]


# Which nodes


def graph_of(communities, num_nodes, **options):
    return community_graph(
        path_edges(num_nodes), num_nodes, communities, CommunityOptions(ties="first", **options)
    )


WIDE = lists(np.arange(40), np.arange(30, 60), np.arange(70, 82), np.arange(90, 95))


def test_the_induced_graph():
    graph = graph_of(WIDE, 120, k=3)
    inside = np.r_[0:60, 70:82]
    assert graph.extras["orig_id"].tolist() == inside.tolist()
    assert graph.extras["community_row"].tolist() == [2, 1, 0]
    assert graph.label_names == (
        "community 2 (12 members)", "community 1 (30 members)", "community 0 (40 members)",
    )  # fmt: skip
    ends = inside[graph.csc.to_edge_index()]
    wanted = {(u, u + 1) for u in inside[:-1] if u + 1 in inside}
    assert set(map(tuple, ends.T.tolist())) == wanted | {(v, u) for u, v in wanted}
    total = sum(graph.targets(np.arange(72), name)[0] for name in SPLITS)
    truth = np.stack([np.isin(inside, WIDE[row]) for row in (2, 1, 0)], axis=1)
    np.testing.assert_array_equal(total, truth)
    seen = sum(graph.targets(np.arange(72), name)[1].astype(int) for name in SPLITS)
    assert (seen == 1).all()


@pytest.mark.parametrize("masks", ["per_task", "shared"])
@pytest.mark.parametrize("background", ["unlabelled", "negative"])
def test_the_full_graph(background, masks):
    graph = graph_of(WIDE, 120, k=3, graph="full", background=background, masks=masks)
    assert (graph.num_nodes, graph.csc.num_edges) == (120, 238)
    somewhere = np.isin(np.arange(120), WIDE.members)
    assert somewhere[90]  # in a community that is not kept: known to be in none of the others
    labelled = somewhere if background == "unlabelled" else np.ones(120, bool)
    np.testing.assert_array_equal(graph.labelled(), labelled)
    seen = sum(graph.targets(np.arange(120), name)[1].astype(int) for name in SPLITS)
    np.testing.assert_array_equal(seen, np.repeat(labelled[:, None], 3, axis=1).astype(int))
    positive = sum(graph.targets(np.arange(120), name)[0] for name in SPLITS)
    assert positive.sum(axis=0).tolist() == [12, 30, 40]


def test_shared_masks_are_one_split():
    graph = graph_of(WIDE, 120, masks="shared")
    assert graph.split_kind == "node"
    nodes = graph.split_idx
    np.testing.assert_array_equal(
        np.sort(np.concatenate(list(nodes.values()))), np.arange(graph.num_nodes)
    )
    sizes = np.array([len(ids) for ids in nodes.values()]) / graph.num_nodes
    np.testing.assert_allclose(sizes, [0.2, 0.2, 0.6], atol=0.05)
    assert min(graph.positives(name).min() for name in SPLITS) >= 1
    again = graph_of(WIDE, 120, masks="shared", seed=5)
    assert not np.array_equal(again.split_idx["train"], nodes["train"])


# The published sets


def snap_folder(shared_data, name, folder, stem):
    """Write a saved graph out as SNAP's text files; return its arrays."""
    arrays = dict(np.load(shared_data / name / f"{name}.npz"))
    edges = arrays["orig_id"][arrays["edge_index"]].T
    make_snap.write(folder / f"{stem}.ungraph.txt", make_snap.edge_text(edges))
    tasks = arrays["y_indices"].astype(np.int64)
    nodes = np.repeat(arrays["orig_id"], np.diff(arrays["y_indptr"]))
    order = np.lexsort((nodes, tasks))
    cuts = np.cumsum(np.bincount(tasks, minlength=int(arrays["y_shape"][1])))[:-1]
    members = [part.tolist() for part in np.split(nodes[order], cuts)]
    make_snap.write(folder / f"{stem}.top5000.cmty.txt", make_snap.community_text(members))
    return arrays


@pytest.fixture(scope="module")
def dblp(shared_data, tmp_path_factory):
    """The folder of the whole of com-DBLP, and its arrays."""
    root = tmp_path_factory.mktemp("snap")
    return root, snap_folder(shared_data, "com_dblp_full", root / "com-dblp", "com-dblp")


def edges_of(graph):
    source, target = graph.extras["orig_id"][graph.csc.to_edge_index()]
    return set(zip(source.tolist(), target.tolist(), strict=True))


def test_dblp_is_read_back(dblp, shared_data):
    root, arrays = dblp
    graph = load_snap("snap-dblp", root, k=283, min_members=20, graph="full")
    assert (graph.num_nodes, graph.num_tasks, graph.csc.num_edges) == (317_080, 283, 2 * 1_049_866)
    np.testing.assert_array_equal(graph.extras["orig_id"], arrays["orig_id"])
    source = shared_data / "com_dblp_full" / "com_dblp_full.npz"
    wanted = import_npz(source, min_members=20, drop_copies=True)
    np.testing.assert_array_equal(graph.csc.indptr, wanted.csc.indptr)
    np.testing.assert_array_equal(graph.csc.indices, wanted.csc.indices)
    np.testing.assert_array_equal(graph.labelled(), wanted.labelled())
    assert int(graph.labelled().sum()) == 93_432
    nodes = np.flatnonzero(graph.labelled())[::7]
    order = np.argsort(graph.extras["community_row"])
    ours = sum(graph.targets(nodes, name)[0] for name in SPLITS)
    theirs = sum(wanted.targets(nodes, name)[0] for name in SPLITS)
    np.testing.assert_array_equal(ours[:, order], theirs)


def test_dblp_100(dblp, shared_data):
    root, _ = dblp
    graph = load_snap("snap-dblp", root)
    assert (graph.num_nodes, graph.csc.num_edges, graph.num_tasks) == (57_368, 420_122, 100)
    kept = graph.extras["community_row"].tolist()
    assert sorted(kept[:4]) == [434, 1573, 1759, 4870]
    saved = np.load(shared_data / "dblp100" / "dblp100.npz")
    assert sorted(kept) == sorted(saved["community_row"].tolist())
    np.testing.assert_array_equal(graph.extras["orig_id"], saved["orig_id"])
    edges = saved["orig_id"][saved["edge_index"]]
    once = set(zip(*edges.tolist(), strict=True))
    assert edges_of(graph) == once | {(v, u) for u, v in once}
    digest = hashlib.sha256(np.array(kept, dtype="<i8").tobytes()).hexdigest()
    assert digest.startswith("4dde3b9fd03a5c38")  # argsort(sizes)[-100:] of NumPy 1.23.5
    sizes = columns(graph).sum(axis=0)
    train = graph.positives("train")
    assert set(train[sizes > 100]) == {10}
    train = load_snap("snap-dblp", root, **PUBLISHED).positives("train")
    assert (train.min(), int(np.median(train)), train.max()) == (6, 10, 16)
    assert train.tolist() == [released(int(size), "v2") for size in sizes]


def test_dblp_100_by_other_ties(dblp):
    root, arrays = dblp
    first = load_snap("snap-dblp", root, ties="first")
    sizes = np.bincount(arrays["y_indices"], minlength=5_000)
    tied = np.flatnonzero(sizes == 33)
    assert len(tied) == 8
    assert first.extras["community_row"][:4].tolist() == tied[:4].tolist()
    order = np.argsort(-sizes, kind="stable")
    assert set(first.extras["community_row"].tolist()) == set(order[:100].tolist())
    always = np.isin(arrays["y_indices"], np.flatnonzero(sizes > 33))
    row = np.repeat(np.arange(317_080), np.diff(arrays["y_indptr"]))
    inside = np.zeros(317_080, dtype=bool)
    inside[row[always]] = True
    source, target = arrays["edge_index"]
    counts = {}
    for four in itertools.combinations(tied.tolist(), 4):
        nodes = inside.copy()
        nodes[row[np.isin(arrays["y_indices"], four)]] = True
        if (size := int(nodes.sum())) == 57_368 or four == tuple(tied[:4].tolist()):
            counts[four] = (size, 2 * int((nodes[source] & nodes[target]).sum()))
    assert counts[tuple(tied[:4].tolist())] == (first.num_nodes, first.csc.num_edges)
    as_published = [four for four, count in counts.items() if count == (57_368, 420_122)]
    assert as_published == [(434, 1573, 1759, 4870)]


@QUIET
def test_dblp_masks_are_those_of_the_released_builder(dblp):
    graph = load_snap("snap-dblp", dblp[0], k=5, version="v3", **PUBLISHED)
    members = [
        np.flatnonzero(sum(graph.targets(np.arange(graph.num_nodes), n)[0][:, t] for n in SPLITS))
        for t in range(2)
    ]
    wanted = brute_force(members, graph.num_nodes, "v3", truncate=True)
    for code, name in enumerate(SPLITS):
        observed = graph.targets(np.arange(graph.num_nodes), name)[1]
        np.testing.assert_array_equal(observed[:, :2], wanted == code)


def test_amazon_100(shared_data, tmp_path):
    saved = snap_folder(shared_data, "amazon100", tmp_path / "com-amazon", "com-amazon")
    with pytest.warns(LabelWarning, match="^39 of the largest communities of snap-amazon repeat"):
        graph = load_snap("snap-amazon", tmp_path, **PUBLISHED)
    assert (graph.num_nodes, graph.csc.num_edges, graph.num_tasks) == (3_225, 20_524, 100)
    assert graph.extras["snap"]["version"] == "v3"
    np.testing.assert_array_equal(graph.extras["orig_id"], saved["orig_id"])
    train = graph.positives("train")
    assert (train.min(), train.max(), int((train == 1).sum())) == (1, 2, 70)
    with pytest.warns(LabelWarning, match="^39 of the largest"):
        distinct = load_snap("snap-amazon", tmp_path)
    assert distinct.num_tasks == 61
    assert len({labels.tobytes() for labels in columns(distinct).T}) == 61


def columns(graph):
    nodes = np.arange(graph.num_nodes)
    return np.ascontiguousarray(sum(graph.targets(nodes, name)[0] for name in SPLITS))


def test_all_five_thousand(dblp):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*no positive in training")
        with pytest.warns(LabelWarning, match="^39 of the largest"):
            graph = load_snap("snap-dblp", dblp[0], k=5_000, masks="shared")
    assert graph.num_tasks == 4_961
    assert graph.num_nodes == 93_432


@QUIET
def test_overlap_of_training_masks(tmp_path):
    """Masks per task share a fifth of each other's nodes, shared ones all."""
    make_snap.make_mini(tmp_path / "com-mini")
    nodes = None
    for masks, wanted in (("per_task", 0.11), ("shared", 1.0)):
        graph = import_snap(tmp_path / "com-mini", masks=masks)
        nodes = np.arange(graph.num_nodes)
        train = graph.targets(nodes, "train")[1].astype(int)
        both = train.T @ train
        union = train.sum(0)[:, None] + train.sum(0) - both
        jaccard = (both / union)[~np.eye(len(both), dtype=bool)].mean()
        assert jaccard == pytest.approx(wanted, abs=0.03)

"""NetMF, VERSE and DeepWalk against dense formulas, and against published scores."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chi2

from gnn_mtl._core.errors import MissingExtraError
from gnn_mtl.datasets import _deepwalk as walks_room
from gnn_mtl.datasets import _netmf as netmf_room
from gnn_mtl.datasets import _proximity as proximity
from gnn_mtl.datasets import _verse as verse_room
from gnn_mtl.datasets import import_npz, structural_features
from gnn_mtl.datasets._deepwalk import deepwalk, random_walks
from gnn_mtl.datasets._netmf import netmf
from gnn_mtl.datasets._verse import verse
from gnn_mtl.graph import CSCGraph

WINDOW, ALPHA = 4, 0.85


@pytest.fixture(scope="module")
def csc():
    """A connected graph of 60 nodes with degrees from 2 to about 20."""
    rng = np.random.default_rng(3)
    ring = np.stack([np.arange(60), (np.arange(60) + 1) % 60])
    more = (60 * rng.random((2, 140)) ** 2).astype(int)
    edges = np.concatenate([ring, more[:, more[0] != more[1]]], axis=1)
    return CSCGraph.from_edge_index(edges, 60, undirected=True)


def adjacency(csc):
    dense = np.zeros((csc.num_nodes, csc.num_nodes))
    source, target = csc.to_edge_index()
    dense[target, source] = 1
    return dense


def transitions(csc):
    dense = adjacency(csc)
    return dense / np.maximum(dense.sum(axis=1, keepdims=True), 1)


def window_matrix(csc, window=WINDOW):
    """NetMF's matrix as the paper writes it, before the logarithm."""
    step, degree = transitions(csc), adjacency(csc).sum(axis=1)
    powers = sum(np.linalg.matrix_power(step, r) for r in range(1, window + 1))
    return degree.sum() / window * powers / degree


def pagerank(csc):
    nodes = csc.num_nodes
    return np.linalg.solve(np.eye(nodes) - ALPHA * transitions(csc), (1 - ALPHA) * np.eye(nodes))


def similarity(csc):
    """The mean logarithm of both directions of PageRank times N, exponentiated."""
    rank = pagerank(csc)
    return csc.num_nodes * np.sqrt(rank * rank.T)


def square_of_embedding(proximity_matrix):
    """``X X'`` of ``X = U sqrt(S)`` with all columns: the absolute value of the log matrix."""
    values, vectors = np.linalg.eigh(np.log(np.maximum(proximity_matrix, 1)))
    return vectors * np.abs(values) @ vectors.T


def assert_embeds(x, proximity_matrix, atol=1e-3):
    assert x.dtype == np.float32
    np.testing.assert_allclose(x @ x.T, square_of_embedding(proximity_matrix), atol=atol)


def test_netmf_equals_the_dense_formula(csc):
    assert_embeds(netmf(csc, 60, window=WINDOW), window_matrix(csc))
    assert_embeds(netmf(csc, 60, window=1, negative=2), window_matrix(csc, 1) / 2)


def test_low_rank_netmf_equals_its_dense_formula(csc, monkeypatch):
    monkeypatch.setattr(netmf_room, "EXACT_NODES", 0)
    monkeypatch.setattr(netmf_room, "RANK", 20)
    degree = adjacency(csc).sum(axis=1)
    values, vectors = np.linalg.eigh(adjacency(csc) / np.sqrt(np.outer(degree, degree)))
    values, vectors = values[-20:], vectors[:, -20:]
    kept = np.maximum(sum(values**r for r in range(1, WINDOW + 1)), 0)
    dense = (vectors * kept) @ vectors.T / np.sqrt(np.outer(degree, degree))
    assert_embeds(netmf(csc, 60, window=WINDOW), degree.sum() / WINDOW * dense, atol=3e-3)


def test_pushed_netmf_equals_the_dense_formula(csc, monkeypatch):
    monkeypatch.setattr(netmf_room, "DENSE_NODES", 0)
    monkeypatch.setattr(netmf_room, "EPSILON", 0.0)
    assert_embeds(netmf(csc, 60, window=WINDOW), window_matrix(csc))


def test_verse_is_the_mean_of_both_directions_of_pagerank(csc):
    assert_embeds(verse(csc, 60, alpha=ALPHA), similarity(csc))
    assert_embeds(verse(csc, 60, alpha=ALPHA, negative=3), similarity(csc) / 3)


def test_pushed_verse_equals_the_dense_formula(csc, monkeypatch):
    monkeypatch.setattr(verse_room, "DENSE_NODES", 0)
    monkeypatch.setattr(verse_room, "EPSILON", 1e-9)
    assert_embeds(verse(csc, 60, alpha=ALPHA), similarity(csc))


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-5])
def test_pushed_pagerank_keeps_its_bound(csc, epsilon):
    exact, degree = pagerank(csc), csc.degrees
    values, lists = np.zeros((3, 60)), np.zeros((3, 60), dtype=np.int32)
    for source in range(60):
        found = proximity.pagerank_row(
            csc.indptr, csc.indices, source, values, lists, ALPHA, epsilon
        )
        error = exact[source] - values[2]
        assert (error > -1e-12).all()
        assert (error <= epsilon * degree).all()
        assert set(np.flatnonzero(values[2])) == set(lists[2, :found].tolist())
        values[2] = 0
        assert not values.any()


def test_pushed_windows_lose_little_and_clean_up(csc):
    step = transitions(csc)
    exact = sum(np.linalg.matrix_power(step, r) for r in range(1, WINDOW + 1)) / WINDOW
    values, lists = np.zeros((3, 60)), np.zeros((3, 60), dtype=np.int32)
    lost = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        total = 0.0
        for source in range(60):
            proximity.window_row(csc.indptr, csc.indices, source, values, lists, WINDOW, epsilon)
            assert (values[2] <= exact[source] + 1e-12).all()
            total += 1 - values[2].sum()
            values[2] = 0
            assert not values.any()
        lost.append(total / 60)
    assert lost[0] > lost[1] >= lost[2]
    assert lost[2] < 1e-3


def test_rows_keep_their_largest_entries(csc, monkeypatch):
    monkeypatch.setattr(proximity, "ROWS_AT_ONCE", 7)
    ones = np.ones(60)

    def rows():
        return proximity.log_rows(
            csc, proximity.pagerank_row, (ALPHA, 1e-9), 60 * ones, ones, what="rows", top_k=5
        )

    found, dense = rows(), np.log(np.maximum(60 * pagerank(csc), 1))
    assert (np.diff(found.indptr) <= 5).all()
    for row in range(60):
        np.testing.assert_allclose(
            np.sort(found[row].toarray()[0])[-5:], np.sort(dense[row])[-5:], atol=1e-5
        )
    monkeypatch.setattr(proximity, "MAX_THREADS", 1)
    alone = rows()
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))


def test_walks_follow_edges_uniformly(csc):
    starts = np.arange(60)
    paths = np.concatenate([random_walks(csc, starts, 12, seed=5, turn=turn) for turn in range(60)])
    assert (paths[:60, 0] == starts).all()
    counts = np.zeros((60, 60))
    np.add.at(counts, (paths[:, :-1].ravel(), paths[:, 1:].ravel()), 1)
    assert not counts[adjacency(csc) == 0].any()
    expected = counts.sum(axis=1, keepdims=True) * transitions(csc)
    edge = expected > 0
    statistic = ((counts - expected)[edge] ** 2 / expected[edge]).sum()
    freedom = edge.sum() - 60
    assert 1e-4 < chi2.sf(statistic, freedom) < 1 - 1e-4


def test_walks_depend_on_seed_turn_and_start_only(csc):
    all_of = random_walks(csc, np.arange(60), 9, seed=1, turn=2)
    some = random_walks(csc, np.array([40, 7]), 9, seed=1, turn=2)
    np.testing.assert_array_equal(all_of[[40, 7]], some)
    assert not np.array_equal(all_of, random_walks(csc, np.arange(60), 9, seed=1, turn=3))
    assert not np.array_equal(all_of, random_walks(csc, np.arange(60), 9, seed=2, turn=2))


def test_deepwalk_needs_its_extra(csc, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(MissingExtraError, match=r"gnn-mtl\[embed\]"):
        deepwalk(csc, 4)


def test_what_deepwalk_gives_to_skip_gram(csc, monkeypatch):
    """Every node starts its walks, words are strings, vectors come back to their nodes."""
    seen = SimpleNamespace(sentences=[])

    class Skipgram:
        def __init__(self, **options):
            seen.options = options

        def build_vocab_from_freq(self, counts):
            self.words = sorted(counts, key=lambda word: (-counts[word], word))
            seen.counts = counts

        def train(self, sentences, *, total_examples, epochs):
            seen.sentences.extend(sentences)
            assert (len(seen.sentences), epochs) == (total_examples, 1)
            vectors = np.array([[float(word)] * 3 for word in self.words], dtype=np.float32)
            self.wv = SimpleNamespace(index_to_key=self.words, vectors=vectors)

    monkeypatch.setitem(sys.modules, "gensim.models", SimpleNamespace(Word2Vec=Skipgram))
    monkeypatch.setattr(walks_room, "WALKS_AT_ONCE", 13)
    x = deepwalk(csc, 3, walks_per_node=2, walk_length=6, seed=5)
    np.testing.assert_array_equal(x, np.arange(60)[:, None] * np.ones(3))
    assert seen.counts == {str(node): int(degree) for node, degree in enumerate(csc.degrees)}
    assert seen.options["workers"] == 1
    starts = sorted(int(walk[0]) for walk in seen.sentences)
    assert starts == sorted([*range(60), *range(60)])
    assert all(type(word) is str for walk in seen.sentences for word in walk)
    assert {len(walk) for walk in seen.sentences} == {6}


def test_deepwalk_tells_cliques_apart_and_repeats(monkeypatch):
    pytest.importorskip("gensim")
    monkeypatch.setattr(walks_room, "WALKS_AT_ONCE", 8)
    clique = np.array([[i, j] for i in range(8) for j in range(i)]).T
    edges = np.concatenate([clique, clique + 8, [[0], [8]]], axis=1)
    csc = CSCGraph.from_edge_index(edges, 18, undirected=True)
    x = deepwalk(csc, 8, walks_per_node=40, seed=3)
    np.testing.assert_array_equal(x, deepwalk(csc, 8, walks_per_node=40, seed=3))
    assert not np.array_equal(x, deepwalk(csc, 8, walks_per_node=40, seed=4))
    assert not x[16:].any()
    unit = x[:16] / np.linalg.norm(x[:16], axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.kron(np.eye(2), np.ones((8, 8))) > 0
    assert cosine[same].mean() > cosine[~same].mean() + 0.2


@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("method", ["netmf", "verse"])
def test_isolated_nodes_loops_and_directions(method, pushed, monkeypatch):
    if pushed:
        for room in (netmf_room, verse_room):
            monkeypatch.setattr(room, "DENSE_NODES", 0)
    edges = np.array([[0, 1, 2, 2], [1, 2, 2, 0]])
    csc = CSCGraph.from_edge_index(edges, 6)
    x = structural_features(csc, dim=3, method=method, standardise=False, degrees=False)
    assert np.isfinite(x).all()
    assert np.abs(x[:3]).max() > 0
    both = CSCGraph.from_edge_index(edges, 6, undirected=True)
    again = structural_features(both, dim=3, method=method, standardise=False, degrees=False)
    np.testing.assert_array_equal(x, again)
    empty = CSCGraph.from_edge_index(np.zeros((2, 0), dtype=int), 4)
    assert np.isfinite(structural_features(empty, dim=2, method=method)).all()


def micro_f1(x, y, seed, share=0.9):
    """One-vs-rest logistic regression, as many labels predicted for a node as it has."""
    from sklearn.linear_model import LogisticRegression

    nodes = np.random.default_rng(seed).permutation(np.flatnonzero(y.any(axis=1)))
    train, test = np.split(nodes, [int(share * len(nodes))])
    scores = np.stack(
        [
            LogisticRegression(max_iter=1000)
            .fit(x[train], column[train])
            .decision_function(x[test])
            for column in y.T
        ],
        axis=1,
    )
    rank = (-scores).argsort(axis=1).argsort(axis=1)
    guess = rank < y[test].sum(axis=1, keepdims=True)
    return 2 * (guess & y[test]).sum() / (guess.sum() + y[test].sum())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["netmf", "verse", "deepwalk"])
@pytest.mark.parametrize(("name", "published"), [("blogcatalog", 0.4349), ("ppi_homo", 0.2486)])
def test_published_scores(shared_data, name, published, method):
    """NetMF's scores at 90 % training (cogdl's table), with the embedding as it is and C = 1."""
    if method == "deepwalk":
        pytest.importorskip("gensim")
        published = {"blogcatalog": 0.4269, "ppi_homo": 0.2259}[name]
    graph = import_npz(shared_data / name / f"{name}.npz")
    x = structural_features(graph, method=method, standardise=False, degrees=False)
    y = graph._labels.gather(slice(None))[0]
    found = np.mean([micro_f1(x, y, seed) for seed in range(3 if name == "blogcatalog" else 10)])
    assert found > published - 0.01

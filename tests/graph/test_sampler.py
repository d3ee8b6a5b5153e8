"""Neighbour sampling: exact where it can be, uniform where it is random, equal on both backends."""

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch_geometric.utils import k_hop_subgraph

from gnn_mtl._core.errors import GraphError, UsageError
from gnn_mtl.graph import CSCGraph, NeighborSampler

MIN_P = 1e-6
SEEDS = np.array([0, 7, 3, 39, 12])  # 39 is isolated


@pytest.fixture(scope="module")
def csc(make_csc):
    return make_csc(40, 200, seed=3)  # directed, with self-loops


def global_edges(sample):
    """Sampled edges as (source, target) ids of the graph, in order."""
    targets = torch.repeat_interleave(torch.arange(len(sample.indptr) - 1), sample.indptr.diff())
    n_id = sample.n_id
    return list(zip(n_id[sample.indices.long()].tolist(), n_id[targets].tolist(), strict=True))


def star(degree):
    """A graph whose node 0 has that many in-neighbours."""
    leaves = np.arange(1, degree + 1)
    return CSCGraph.from_edge_index(np.stack([leaves, np.zeros_like(leaves)]), degree + 1)


def chi_square_p(counts, expected):
    statistic = ((counts - expected) ** 2 / expected).sum()
    return chi2.sf(statistic, len(counts) - 1)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("fanouts", [(3,), (3, 2), (-1, 2), (2, -1, 1), (50, 50), (1, 1, 1, 1)])
@pytest.mark.parametrize(
    "seeds", [SEEDS, np.array([5, 5, 1, 5, 1]), np.array([38]), np.array([], dtype=np.int64)]
)
def test_backends_agree_bit_for_bit(csc, seeds, fanouts, replace):
    samplers = [
        NeighborSampler(csc, fanouts, replace=replace, edge_positions=True, backend=backend)
        for backend in ("numba", "torch")
    ]
    for batch in range(3):
        one, other = (s.sample(seeds, seed=11, epoch=2, batch=batch) for s in samplers)
        for name in ("n_id", "indptr", "indices", "edge_positions"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), name
        assert one.num_nodes == other.num_nodes


def test_backends_agree_on_a_hub_of_degree_40000():
    graph = star(40_000)
    numba, torch_ = (NeighborSampler(graph, [10], backend=b) for b in ("numba", "torch"))
    for batch in range(50):
        a, b = (s.sample(np.array([0]), seed=0, batch=batch) for s in (numba, torch_))
        assert torch.equal(a.n_id, b.n_id)


@pytest.mark.gpu
@pytest.mark.parametrize("replace", [False, True])
def test_cuda_equals_numba(make_csc, replace):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    graph = make_csc(3000, 60_000, seed=5)
    seeds = np.random.default_rng(0).integers(0, 3000, 512)
    here = NeighborSampler(graph, [10, 5], replace=replace, edge_positions=True)
    there = NeighborSampler(graph, [10, 5], replace=replace, edge_positions=True, device="cuda")
    for batch in range(3):
        a, b = (s.sample(seeds, seed=1, batch=batch) for s in (here, there))
        assert b.n_id.is_cuda
        for name in ("n_id", "indptr", "indices", "edge_positions"):
            assert torch.equal(getattr(a, name), getattr(b, name).cpu()), name


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("fanout", [-1, 1000])
def test_full_fan_out_is_the_k_hop_subgraph(csc, hops, fanout):
    sample = NeighborSampler(csc, [fanout] * hops).sample(SEEDS, seed=0)
    edge_index = torch.from_numpy(csc.to_edge_index())
    nodes, _, _, _ = k_hop_subgraph(
        torch.from_numpy(SEEDS), hops, edge_index, num_nodes=csc.num_nodes
    )
    assert sorted(sample.n_id.tolist()) == nodes.tolist()
    # every in-edge of every node within hops - 1, each once
    inner, *_ = k_hop_subgraph(
        torch.from_numpy(SEEDS), hops - 1, edge_index, num_nodes=csc.num_nodes
    )
    expected = [(u, v) for u, v in csc.to_edge_index().T.tolist() if v in set(inner.tolist())]
    assert sorted(global_edges(sample)) == sorted(expected)


def test_hops_are_distances_to_the_seeds(csc):
    sample = NeighborSampler(csc, [-1] * 3).sample(SEEDS, seed=0)
    reverse = nx.DiGraph()
    reverse.add_nodes_from(range(csc.num_nodes))
    reverse.add_edges_from((v, u) for u, v in csc.to_edge_index().T.tolist())
    distance = nx.multi_source_dijkstra_path_length(reverse, set(SEEDS.tolist()), cutoff=3)
    bounds = [0, *sample.num_nodes]
    for hop, (start, stop) in enumerate(itertools.pairwise(bounds)):
        found = sorted(sample.n_id[start:stop].tolist())
        assert found == sorted(node for node, d in distance.items() if d == hop)


@pytest.mark.parametrize("replace", [False, True])
def test_structure_of_a_sample(csc, replace):
    fanouts = (4, 3)
    sampler = NeighborSampler(csc, fanouts, replace=replace, edge_positions=True)
    existing = set(map(tuple, csc.to_edge_index().T.tolist()))
    for batch in range(20):
        sample = sampler.sample(SEEDS, seed=0, batch=batch)
        assert sample.batch_size == len(SEEDS)
        assert sample.n_id[: len(SEEDS)].tolist() == SEEDS.tolist()
        assert len(set(sample.n_id.tolist())) == len(sample.n_id) == sample.num_nodes[-1]
        edges = global_edges(sample)
        assert set(edges) <= existing
        positions = sample.edge_positions.numpy()
        ends = csc.to_edge_index()[:, positions]
        assert list(map(tuple, ends.T.tolist())) == edges
        assert replace or len(set(positions.tolist())) == len(positions)
        # exactly min(degree, k) per target; k with replacement where there is any neighbour
        targets = sample.n_id[: len(sample.indptr) - 1].numpy()
        assert len(targets) == sample.num_nodes[-2]
        k = np.where(np.arange(len(targets)) < sample.num_nodes[0], *fanouts)
        degree = csc.degrees[targets]
        expected = np.where(degree > 0, k, 0) if replace else np.minimum(degree, k)
        np.testing.assert_array_equal(sample.indptr.diff().numpy(), expected)
        # the prefix property: edges into hop h come from nodes found up to hop h + 1
        for hop in range(len(fanouts)):
            end = int(sample.indptr[sample.num_nodes[hop]])
            assert (sample.indices[:end] < sample.num_nodes[hop + 1]).all()


def test_a_node_that_is_two_seeds_keeps_both_places(csc):
    sample = NeighborSampler(csc, [-1]).sample(np.array([7, 7]), seed=0)
    assert sample.n_id[:2].tolist() == [7, 7]
    assert sample.batch_size == 2
    degree = int(csc.degrees[7])
    assert sample.indptr.tolist() == [0, degree, 2 * degree]
    first, second = sample.indices[:degree], sample.indices[degree:]
    assert torch.equal(first, second)


def test_a_sample_depends_on_its_arguments_only(csc):
    sampler = NeighborSampler(csc, [2, 2])
    first = sampler.sample(SEEDS, seed=0, epoch=1, batch=2)
    sampler.sample(SEEDS[:1], seed=4)
    torch.manual_seed(99)
    again = NeighborSampler(csc, [2, 2]).sample(torch.from_numpy(SEEDS), seed=0, epoch=1, batch=2)
    assert torch.equal(first.n_id, again.n_id)
    assert torch.equal(first.indices, again.indices)
    for other in ({"seed": 1}, {"epoch": 2}, {"batch": 3}):
        arguments = {"seed": 0, "epoch": 1, "batch": 2} | other
        assert not torch.equal(sampler.sample(SEEDS, **arguments).n_id, first.n_id)


def draws_of(degree, fanout, rounds, *, replace=False, backend="numba"):
    """How often each neighbour of a hub was drawn, over rounds that differ in the batch only."""
    sampler = NeighborSampler(star(degree), [fanout], replace=replace, backend=backend)
    drawn = [sampler.sample(np.array([0]), seed=0, batch=b).n_id[1:] for b in range(rounds)]
    if replace:  # count draws, not distinct nodes
        sampler = NeighborSampler(
            star(degree), [fanout], replace=True, edge_positions=True, backend=backend
        )
        drawn = [
            sampler.sample(np.array([0]), seed=0, batch=b).edge_positions + 1 for b in range(rounds)
        ]
    return np.bincount(torch.cat(drawn).numpy(), minlength=degree + 1)[1:]


@pytest.mark.parametrize(
    ("degree", "fanout", "rounds"),
    [(2, 1, 4000), (3, 2, 4000), (11, 10, 3000), (100, 10, 3000), (1000, 10, 3000)],
)
@pytest.mark.parametrize("replace", [False, True])
def test_neighbours_are_drawn_uniformly(degree, fanout, rounds, replace):
    counts = draws_of(degree, fanout, rounds, replace=replace)
    share = rounds * fanout / degree
    assert counts.sum() == rounds * fanout
    # without replacement the counts vary less than multinomially, by (1 - k / d) d / (d - 1)
    spread = 1.0 if replace else (1 - fanout / degree) * degree / (degree - 1)
    statistic = ((counts - share) ** 2 / share).sum() / spread
    p = chi2.sf(statistic, degree - 1)
    assert MIN_P < p < 1 - MIN_P


def hub_p_value(draw):
    """The chi-square test at degree 40,000, on 200 equal ranges of neighbours."""
    ranks = draw()
    return chi_square_p(np.bincount(ranks // 200, minlength=200), len(ranks) / 200)


def test_a_hub_of_degree_40000_is_drawn_uniformly():
    graph = star(40_000)
    sampler = NeighborSampler(graph, [200])

    def draw():
        rounds = [sampler.sample(np.array([0]), seed=0, batch=b).n_id[1:] for b in range(500)]
        return torch.cat(rounds).numpy() - 1

    assert hub_p_value(draw) > MIN_P


def test_the_same_test_catches_a_16_bit_modulo():
    bits = np.random.default_rng(0).integers(0, 1 << 16, size=100_000)
    assert hub_p_value(lambda: bits % 40_000) < MIN_P
    uniform = np.random.default_rng(0).integers(0, 40_000, size=100_000)
    assert hub_p_value(lambda: uniform) > MIN_P


@pytest.mark.parametrize(("degree", "fanout"), [(5, 2), (6, 3), (5, 4), (7, 1)])
def test_every_subset_is_equally_likely(degree, fanout):
    sampler = NeighborSampler(star(degree), [fanout])
    subsets = list(itertools.combinations(range(1, degree + 1), fanout))
    number = {subset: index for index, subset in enumerate(subsets)}
    rounds = 300 * len(subsets)
    counts = np.zeros(len(subsets))
    for batch in range(rounds):
        n_id = sampler.sample(np.array([0]), seed=1, batch=batch).n_id
        counts[number[tuple(sorted(n_id[1:].tolist()))]] += 1
    assert MIN_P < chi_square_p(counts, 300.0) < 1 - MIN_P


def test_uniform_in_every_degree_class_of_one_graph():
    """Many targets in one call: the streams of different nodes are independent and unbiased."""
    rng = np.random.default_rng(0)
    degrees = np.repeat([3, 12, 60, 300], 400)
    targets = np.repeat(np.arange(len(degrees)), degrees)
    num_leaves = 300
    sources = len(degrees) + np.concatenate([rng.permutation(num_leaves)[:d] for d in degrees])
    graph = CSCGraph.from_edge_index(np.stack([sources, targets]), len(degrees) + num_leaves)
    sampler = NeighborSampler(graph, [2], edge_positions=True)
    seeds = np.arange(len(degrees))
    ranks = np.stack(
        [
            sampler.sample(seeds, seed=0, batch=b).edge_positions.numpy().reshape(-1, 2)
            - graph.indptr[seeds][:, None]
            for b in range(20)
        ]
    )
    for degree in (3, 12, 60, 300):
        counts = np.bincount(ranks[:, degrees == degree].ravel(), minlength=degree)
        spread = (1 - 2 / degree) * degree / (degree - 1)
        share = counts.sum() / degree
        statistic = ((counts - share) ** 2 / share).sum() / spread
        assert MIN_P < chi2.sf(statistic, degree - 1) < 1 - MIN_P, degree


@pytest.mark.parametrize("fanouts", [[], [0], [3, 0], [-2]])
def test_bad_fan_outs_are_refused(csc, fanouts):
    with pytest.raises(UsageError, match="fan-out"):
        NeighborSampler(csc, fanouts)


def test_bad_backends_are_refused(csc):
    with pytest.raises(UsageError, match="backend"):
        NeighborSampler(csc, [2], backend="cupy")
    with pytest.raises(UsageError, match="CPU"):
        NeighborSampler(csc, [2], backend="numba", device="meta")


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("seeds", [[0, 40], [-1]])
def test_seeds_outside_the_graph_are_refused(csc, backend, seeds):
    with pytest.raises(GraphError, match=r"\[0, 40\)"):
        NeighborSampler(csc, [2], backend=backend).sample(np.array(seeds), seed=0)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_read_only_arrays_are_ordinary_input(csc, backend):
    arrays = [csc.indptr.copy(), csc.indices.copy(), SEEDS.copy()]
    for array in arrays:
        array.flags.writeable = False
    frozen = CSCGraph(arrays[0], arrays[1])
    sample = NeighborSampler(frozen, [2, 2], backend=backend).sample(arrays[2], seed=0)
    assert torch.equal(sample.n_id, NeighborSampler(csc, [2, 2]).sample(SEEDS, seed=0).n_id)

"""Blocks: layers of a sample, chunks of the whole graph."""

import itertools

import numpy as np
import pytest
import torch

from gnn_mtl.graph import Block, NeighborSampler, full_blocks, layered_blocks

SEEDS = np.array([4, 1, 30, 39])


@pytest.fixture(scope="module")
def csc(make_csc):
    return make_csc(40, 200, seed=8, keep_edge_ids=True)


def dense(block):
    matrix = torch.zeros(block.num_dst, block.num_src)
    matrix.index_put_(
        (block.targets, block.indices.long()), torch.ones(block.num_edges), accumulate=True
    )
    return matrix


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_layers_of_a_sample(csc, hops):
    sample = NeighborSampler(csc, [3] * hops, edge_positions=True).sample(SEEDS, seed=0)
    degrees = torch.from_numpy(csc.degrees)[sample.n_id]
    edge_attr = torch.rand(len(sample.indices), 2)
    blocks = layered_blocks(sample, degrees, edge_attr)
    assert len(blocks) == hops
    assert blocks[0].num_src == len(sample.n_id)
    assert blocks[-1].num_dst == len(SEEDS)
    for outer, inner in itertools.pairwise(blocks):
        assert inner.num_src == outer.num_dst  # a layer computes what the next one reads
    for block in blocks:
        assert block.indices.max() < block.num_src
        assert torch.equal(block.dst_degrees, degrees[: block.num_dst])
        assert torch.equal(block.src_degrees, degrees[: block.num_src])
        assert torch.equal(block.edge_attr, edge_attr[: block.num_edges])
        ends = csc.to_edge_index()[:, block.edge_positions.numpy()]
        np.testing.assert_array_equal(sample.n_id[block.indices.long()].numpy(), ends[0])
        np.testing.assert_array_equal(sample.n_id[block.targets].numpy(), ends[1])


def test_edge_index_targets_and_degrees():
    block = Block(torch.tensor([0, 2, 2, 3]), torch.tensor([4, 0, 1]), 5)
    assert block.edge_index.tolist() == [[4, 0, 1], [0, 0, 2]]
    assert block.edge_index.dtype == torch.int64
    assert block.degrees.tolist() == [2, 0, 1]
    assert repr(block) == "Block(5 -> 3, 3 edges)"


def test_transposed_is_the_transposed_matrix_and_its_own_inverse():
    block = Block(torch.tensor([0, 3, 3, 5]), torch.tensor([3, 0, 3, 1, 0]), 5)
    reverse, order = block.transposed()
    assert torch.equal(dense(reverse), dense(block).T)
    # edge i of the reverse is edge order[i] of the block
    assert torch.equal(reverse.indices, block.targets[order])
    assert torch.equal(reverse.targets, block.indices[order])
    back, inverse = reverse.transposed()
    assert back is block
    assert torch.equal(order[inverse], torch.arange(5))


def test_sampling_scale_makes_sums_unbiased(csc):
    """The mean of the scaled sum over many samples is the full sum."""
    value = torch.rand(40)
    sampler = NeighborSampler(csc, [2])
    full = torch.stack([value[torch.from_numpy(csc.neighbors(v)).long()].sum() for v in SEEDS])
    total = torch.zeros(len(SEEDS))
    for batch in range(2000):
        sample = sampler.sample(SEEDS, seed=0, batch=batch)
        (block,) = layered_blocks(sample, torch.from_numpy(csc.degrees)[sample.n_id])
        total += dense(block) @ value[sample.n_id] * block.sampling_scale()
    torch.testing.assert_close(total / 2000, full, rtol=0.05, atol=1e-6)
    assert full[-1] == 0  # isolated
    bare = Block(torch.tensor([0, 1, 1]), torch.tensor([0]), 1)
    assert bare.sampling_scale().tolist() == [1.0, 1.0]


@pytest.mark.parametrize("edges_per_chunk", [1, 7, 50, 10**6])
def test_full_blocks_cover_the_graph(csc, edges_per_chunk):
    features = np.random.default_rng(0).random((200, 3)).astype(np.float32)
    seen, edges = [], []
    for rows, block in full_blocks(csc, edge_attr=features, edges_per_chunk=edges_per_chunk):
        seen += range(rows.start, rows.stop)
        assert block.num_dst == rows.stop - rows.start
        assert block.num_src == csc.num_nodes
        assert block.num_dst == 1 or block.num_edges <= edges_per_chunk
        assert torch.equal(block.src_degrees, torch.from_numpy(csc.degrees))
        assert torch.equal(block.dst_degrees, torch.from_numpy(csc.degrees[rows]))
        ids = csc.edge_ids[block.edge_positions.numpy()]
        np.testing.assert_array_equal(block.edge_attr.numpy(), features[ids])
        edges.append(torch.stack([block.indices.long(), block.targets + rows.start]))
    assert seen == list(range(csc.num_nodes))
    np.testing.assert_array_equal(torch.cat(edges, dim=1).numpy(), csc.to_edge_index())


def test_to_moves_every_part():
    parts = {
        "edge_positions": torch.arange(3), "edge_attr": torch.rand(3, 2),
        "src_degrees": torch.ones(4), "dst_degrees": torch.ones(2),
    }  # fmt: skip
    block = Block(torch.tensor([0, 2, 3]), torch.tensor([0, 3, 1]), 4, **parts).to("meta")
    assert block.indptr.is_meta
    assert block.indices.is_meta
    assert all(getattr(block, name).is_meta for name in parts)
    assert (block.num_src, block.num_dst, block.num_edges) == (4, 2, 3)

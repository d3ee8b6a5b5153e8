"""The loader: same batches for any number of threads, the right rows in them."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnn_mtl._core.errors import SealedLabelsError, UsageError
from gnn_mtl.graph import NeighborLoader

OPTIONS = {"num_neighbors": [3, 2], "batch_size": 8, "seed": 5}


@pytest.fixture(scope="module")
def graph(make_graph):
    return make_graph(60, edge_channels=2, seed=2)


def tensors_of(batch):
    yield from (batch.n_id, batch.x, batch.y, batch.observed)
    for block in batch.blocks:
        yield from (block.indptr, block.indices, block.edge_attr, block.src_degrees)
        yield from (block.dst_degrees, block.edge_positions)


def assert_equal_batches(one, other):
    assert (one.batch_size, one.epoch, one.index) == (other.batch_size, other.epoch, other.index)
    for a, b in zip(tensors_of(one), tensors_of(other), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_batches_do_not_depend_on_the_workers(graph, num_workers):
    reference = NeighborLoader(graph, num_workers=0, backend="torch", **OPTIONS)
    loader = NeighborLoader(graph, num_workers=num_workers, prefetch=1, **OPTIONS)
    for epoch in range(2):
        found = list(loader)
        assert len(found) == len(loader) == 5
        for index, batch in enumerate(found):
            assert_equal_batches(batch, reference.batch(epoch, index))
    assert loader.epoch == 2


def test_batches_do_not_depend_on_the_order_they_are_asked_in(graph):
    loader = NeighborLoader(graph, **OPTIONS)
    iterated = {(e, b.index): b for e in range(3) for b in loader.epoch_batches(e)}
    fresh = NeighborLoader(graph, **OPTIONS)
    for key in sorted(iterated, key=lambda k: (k[1], -k[0])):
        assert_equal_batches(fresh.batch(*key), iterated[key])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_be_taken_up_in_the_middle_and_left(graph, num_workers):
    loader = NeighborLoader(graph, num_workers=num_workers, **OPTIONS)
    whole = list(loader.epoch_batches(1))
    for one, other in zip(loader.epoch_batches(1, start=2), whole[2:], strict=True):
        assert_equal_batches(one, other)
    first = next(loader.epoch_batches(1))
    assert_equal_batches(first, whole[0])
    assert list(loader.epoch_batches(1, start=len(loader))) == []


def test_an_epoch_is_a_permutation_of_the_split_and_epochs_differ(graph):
    loader = NeighborLoader(graph, **OPTIONS)
    orders = [np.concatenate([loader.seeds(e, i) for i in range(len(loader))]) for e in range(4)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.sort(graph.split_idx["train"]))
    for a, b in itertools.combinations(orders, 2):
        assert not np.array_equal(a, b)
    other = NeighborLoader(graph, **(OPTIONS | {"seed": 6}))
    assert not np.array_equal(other.seeds(0, 0), loader.seeds(0, 0))


def test_the_same_seeds_get_other_neighbours_in_another_epoch(graph):
    loader = NeighborLoader(graph, shuffle=False, **OPTIONS)
    a, b = loader.batch(0, 0), loader.batch(1, 0)
    assert torch.equal(a.seeds, b.seeds)
    np.testing.assert_array_equal(a.seeds.numpy(), graph.split_idx["train"][:8])
    assert not torch.equal(a.n_id, b.n_id)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_rows_are_those_of_their_nodes(graph, split):
    loader = NeighborLoader(graph, split, **OPTIONS)
    features = graph.features(np.arange(graph.num_nodes))
    sources, targets = graph.csc.to_edge_index()
    for batch in loader:
        assert len(batch.blocks) == 2
        assert batch.blocks[-1].num_dst == batch.batch_size == len(batch.y)
        np.testing.assert_array_equal(batch.x.numpy(), features[batch.n_id.numpy()])
        y, observed = graph.targets(batch.seeds.numpy(), split)
        np.testing.assert_array_equal(batch.y.numpy(), y)
        np.testing.assert_array_equal(batch.observed.numpy(), observed)
        assert batch.edge_index.shape == (2, batch.blocks[0].num_edges)
        for block in batch.blocks:
            positions = block.edge_positions.numpy()
            ends = batch.n_id[block.edge_index].numpy()
            np.testing.assert_array_equal(ends, [sources[positions], targets[positions]])
            rows = graph.csc.edge_ids[positions]
            np.testing.assert_array_equal(block.edge_attr.numpy(), graph.edge_attr[rows])
            degrees = graph.csc.degrees[batch.n_id[: block.num_dst].numpy()]
            np.testing.assert_array_equal(block.dst_degrees.numpy(), degrees)
        assert batch.edge_attr is batch.blocks[0].edge_attr


def test_edge_features_follow_the_edges(make_graph):
    """An edge's feature is its two end points, so that a mix-up shows; both directions share it."""
    pairs = np.random.default_rng(0).integers(0, 58, (2, 150))
    graph = make_graph(60, seed=0)
    labels = np.ones((60, 1))
    labels[::2] = 0
    graph = type(graph).from_arrays(
        pairs, labels, x=np.zeros((60, 1)), edge_attr=np.sort(pairs, axis=0).T, split="random"
    )
    for batch in NeighborLoader(graph, **OPTIONS):
        ends = np.sort(batch.n_id[batch.edge_index].numpy(), axis=0)
        np.testing.assert_array_equal(batch.edge_attr.numpy(), ends.T)


def test_without_hops_only_seeds_are_gathered(graph):
    batch = NeighborLoader(graph, num_neighbors=[], batch_size=8).batch(0, 0)
    assert batch.blocks == ()
    assert torch.equal(batch.n_id, batch.seeds)
    assert batch.x.shape == (8, graph.num_features)


@pytest.mark.parametrize("kind", ["sparse", "float64", "read-only"])
def test_features_of_any_storage(graph, kind):
    x = graph.features(np.arange(graph.num_nodes))
    stored = {"sparse": sp.csr_matrix(x), "float64": x.astype(np.float64), "read-only": x.copy()}
    stored["read-only"].flags.writeable = False
    batch = NeighborLoader(graph.with_features(stored[kind]), **OPTIONS).batch(0, 1)
    expected = NeighborLoader(graph, **OPTIONS).batch(0, 1)
    assert batch.x.dtype == torch.float32
    torch.testing.assert_close(batch.x, expected.x)


def test_number_of_batches(graph):
    train = graph.split_idx["train"]
    sizes = [b.batch_size for b in NeighborLoader(graph, **OPTIONS)]
    assert sizes == [8, 8, 8, 8, len(train) - 32]
    dropped = NeighborLoader(graph, drop_last=True, **OPTIONS)
    assert [b.batch_size for b in dropped] == [8] * 4 == [8] * len(dropped)
    one = NeighborLoader(graph, drop_last=True, num_neighbors=[2], batch_size=1000)
    assert [b.batch_size for b in one] == [len(train)]


@pytest.mark.parametrize("as_mask", [False, True])
def test_chosen_seeds(graph, as_mask):
    nodes = np.array([3, 9, 50])
    chosen = np.isin(np.arange(60), nodes) if as_mask else torch.from_numpy(nodes)
    loader = NeighborLoader(graph, "valid", input_nodes=chosen, shuffle=False, **OPTIONS)
    assert loader.batch(0, 0).seeds.tolist() == [3, 9, 50]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"split": "training"}, "split"),
        ({"input_nodes": np.array([], dtype=int)}, "at least one node"),
        ({"input_nodes": np.array([0, 60])}, r"\[0, 60\)"),
        ({"input_nodes": np.array([-1])}, r"\[0, 60\)"),
        ({"num_neighbors": [0]}, "num_neighbors"),
    ],
)
def test_bad_arguments_are_refused(graph, options, message):
    with pytest.raises(UsageError, match=message):
        NeighborLoader(graph, **(OPTIONS | options))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_a_worker_reaches_the_caller(graph, num_workers):
    loader = NeighborLoader(graph.sealed(), "test", num_workers=num_workers, **OPTIONS)
    with pytest.raises(SealedLabelsError):
        list(loader)


def test_to_moves_the_batch(graph):
    batch = NeighborLoader(graph, **OPTIONS).batch(0, 0)
    assert batch.to("cpu") is batch
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in tensors_of(moved))
    assert (moved.batch_size, moved.epoch, moved.index) == (8, 0, 0)


@pytest.mark.gpu
def test_batches_on_cuda_equal_those_on_the_cpu(graph):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    here = NeighborLoader(graph, **OPTIONS)
    there = NeighborLoader(graph, device="cuda", **OPTIONS)
    for a, b in zip(here, there, strict=True):
        assert b.x.is_cuda
        assert_equal_batches(a, b.to("cpu"))

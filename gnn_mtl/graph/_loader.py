"""``NeighborLoader``: seeds of a split in shuffled batches, sampled and gathered by threads.

A batch is a pure function of (seed, epoch, number of the batch). Threads prefetch it (the sampling
kernel and the gathers release the interpreter lock, so worker processes would only add copies), and
any number of them yields the same batches in the same order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import generator
from gnn_mtl.graph._block import Block
from gnn_mtl.graph._csc import CSCGraph
from gnn_mtl.graph._minibatch import MiniBatch, layered_blocks
from gnn_mtl.graph._sampler import Backend, NeighborSampler


class TargetSource(Protocol):
    """What the loader needs of a dataset; ``gnn_mtl.datasets.TaskGraph`` is one."""

    @property
    def csc(self) -> CSCGraph:
        """The graph."""
        ...

    @property
    def split_idx(self) -> Mapping[str, NDArray[np.int64]]:
        """Node ids of ``"train"``, ``"valid"`` and ``"test"``."""
        ...

    @property
    def x(self) -> Any:  # noqa: ANN401
        """Features: an array ``[N, F]`` (maybe a memory map), a sparse matrix, or None."""
        ...

    @property
    def edge_attr(self) -> NDArray[np.float32] | None:
        """Features of the original edges, addressed by ``csc.edge_ids``."""
        ...

    def features(self, nodes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Dense features ``[B, F]`` of some nodes."""
        ...

    def targets(
        self, nodes: NDArray[np.int64], split: str
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Targets and which of them are observed in the split, each ``[B, T]``."""
        ...


@runtime_checkable
class LabelInputs(Protocol):
    """A dataset whose features end in columns of training labels, hidden where they would leak."""

    @property
    def label_columns(self) -> int:
        """Number of trailing feature columns made of labels."""
        ...

    def label_passes(
        self, nodes: NDArray[np.int64]
    ) -> Iterator[tuple[TargetSource, NDArray[np.int64]]]:
        """Sources that hide labels, with the positions in ``nodes`` that may be scored on each."""
        ...


class NeighborLoader:
    """Iterates over the mini-batches of one split.

    Iterating yields one epoch and moves :attr:`epoch` forward, so the next pass shuffles and
    samples anew. ``loader.batch(epoch, index)`` gives any single batch directly.

    Args:
        graph: The dataset.
        split: ``"train"``, ``"valid"`` or ``"test"``: whose nodes are the seeds, and whose targets
            are gathered.
        num_neighbors: Fan-out per hop, nearest first; one entry per layer of the model; ``-1`` for
            all neighbours; empty for models that read the seeds' own features only.
        batch_size: Number of seeds B of a batch; the last one of an epoch may be smaller.
        seed: Seed of shuffling and sampling.
        input_nodes: Seeds instead of all nodes of the split, int64 ``[*]``.
        shuffle: Draw a new order every epoch.
        drop_last: Leave out a last, smaller batch.
        replace: Sample neighbours with replacement.
        num_workers: Threads that prepare batches ahead; 0 prepares them when asked.
        prefetch: Batches each thread may be ahead.
        device: Where batches are moved.
        backend: Sampler backend, see :class:`NeighborSampler`.

    Raises:
        UsageError: If the split has no node or an unknown one, or a size is not positive.
    """

    def __init__(
        self,
        graph: TargetSource,
        split: str = "train",
        *,
        num_neighbors: Sequence[int],
        batch_size: int,
        seed: int = 0,
        input_nodes: NDArray[np.integer] | Tensor | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        replace: bool = False,
        num_workers: int = 1,
        prefetch: int = 2,
        device: torch.device | str = "cpu",
        backend: Backend = "auto",
    ) -> None:
        if batch_size < 1 or num_workers < 0 or prefetch < 1:
            raise UsageError(
                "`batch_size` and `prefetch` should be at least 1 and `num_workers` at least 0. "
                f"Found {batch_size}, {prefetch} and {num_workers}."
            )
        if input_nodes is None:
            if split not in graph.split_idx:
                raise UsageError(
                    f"`split` should be one of {sorted(graph.split_idx)}. Found {split!r}."
                )
            input_nodes = graph.split_idx[split]
        nodes = np.asarray(input_nodes)
        if nodes.dtype == np.bool_:
            nodes = nodes.nonzero()[0]
        if len(nodes) == 0:
            raise UsageError(f"The split {split!r} should hold at least one node. Found none.")
        if int(nodes.min()) < 0 or int(nodes.max()) >= graph.csc.num_nodes:
            raise UsageError(
                f"`input_nodes` should be node ids in [0, {graph.csc.num_nodes}). "
                f"Found {int(nodes.min())} to {int(nodes.max())}."
            )
        self.graph = graph
        self.split = split
        self.input_nodes = nodes.astype(np.int64)
        self.num_neighbors = tuple(int(k) for k in num_neighbors)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.prefetch = prefetch
        self.device = torch.device(device)
        self.epoch = 0
        self._has_edge_attr = graph.edge_attr is not None
        self.sampler: NeighborSampler | None = None
        if self.num_neighbors:
            self.sampler = NeighborSampler(
                graph.csc,
                num_neighbors,
                replace=replace,
                edge_positions=self._has_edge_attr,
                backend=backend,
            )
            self._degrees = torch.from_numpy(graph.csc.degrees)
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.input_nodes)
        self._label_columns = graph.label_columns if isinstance(graph, LabelInputs) else 0
        self._x = None if self._label_columns else _dense_in_memory(graph.x)

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        if self.drop_last:
            return max(1, len(self.input_nodes) // self.batch_size)
        return math.ceil(len(self.input_nodes) / self.batch_size)

    def __iter__(self) -> Iterator[MiniBatch]:
        epoch = self.epoch
        self.epoch += 1
        yield from self.epoch_batches(epoch)

    def epoch_batches(self, epoch: int, start: int = 0) -> Iterator[MiniBatch]:
        """Yield the batches of an epoch from number ``start`` on."""
        numbers = range(start, len(self))
        if self.num_workers == 0:
            for index in numbers:
                yield self.batch(epoch, index)
            return
        self._epoch_order(epoch)
        ahead = self.num_workers * self.prefetch
        pending: deque[Future[MiniBatch]] = deque()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="gnn-mtl-loader")
        try:
            for index in numbers:
                pending.append(pool.submit(self._prepare, epoch, index))
                if len(pending) > ahead:
                    yield self._deliver(pending.popleft().result())
            while pending:
                yield self._deliver(pending.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def batch(self, epoch: int, index: int) -> MiniBatch:
        """Return one batch; equal to what iterating gives at that place.

        Raises:
            UsageError: If the epoch has no batch of that number.
        """
        if not 0 <= index < len(self):
            raise UsageError(f"`index` should lie in [0, {len(self)}). Found {index}.")
        return self._deliver(self._prepare(epoch, index))

    def seeds(self, epoch: int, index: int) -> NDArray[np.int64]:
        """Return the seed nodes of one batch, int64 ``[B]``."""
        order = self._epoch_order(epoch)
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        known, order = self._order
        if not self.shuffle:
            return self.input_nodes
        if known != epoch:
            order = generator(self.seed, "shuffle", epoch).permutation(self.input_nodes)
            self._order = (epoch, order)
        return order

    def _prepare(self, epoch: int, index: int) -> MiniBatch:
        seeds = self.seeds(epoch, index)
        n_id = torch.from_numpy(seeds)
        blocks: tuple[Block, ...] = ()
        if self.sampler is not None:
            sample = self.sampler.sample(seeds, seed=self.seed, epoch=epoch, batch=index)
            n_id = sample.n_id
            edge_attr = None
            if self._has_edge_attr:
                edge_attr = self._edge_features(sample.edge_positions)
            blocks = layered_blocks(sample, self._degrees[n_id], edge_attr)
        y, observed = self.graph.targets(seeds, self.split)
        return MiniBatch(
            n_id,
            len(seeds),
            self._features(n_id, len(seeds)),
            blocks,
            torch.from_numpy(y),
            torch.from_numpy(observed),
            epoch,
            index,
        )

    def _deliver(self, batch: MiniBatch) -> MiniBatch:
        if self.device.type == "cpu":
            return batch
        return batch.to(self.device, non_blocking=True)

    def _features(self, nodes: Tensor, num_seeds: int) -> Tensor:
        if self._x is not None:
            return self._x[nodes]
        x = torch.from_numpy(self.graph.features(nodes.numpy()))
        if self._label_columns:  # no seed reads its own label, nor through a neighbour
            x[:num_seeds, -self._label_columns :] = 0
        return x

    def _edge_features(self, positions: Tensor | None) -> Tensor:
        ids, attr = self.graph.csc.edge_ids, self.graph.edge_attr
        if positions is None or attr is None:
            raise UsageError("Edge features need a sampler that keeps edge positions.")
        rows = positions.numpy() if ids is None else ids[positions.numpy()]
        return torch.from_numpy(np.ascontiguousarray(attr[rows], dtype=np.float32))


def _dense_in_memory(x: Any) -> Tensor | None:  # noqa: ANN401
    """The features as a tensor that shares their memory, where that is possible at no cost."""
    if type(x) is np.ndarray and x.dtype == np.float32 and x.flags.writeable:
        return torch.from_numpy(x)
    return None

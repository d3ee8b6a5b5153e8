"""``bench sampler``: seeds per second against our torch sampler and PyG's, and uniformity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2

from gnn_mtl._core.optional import is_installed
from gnn_mtl._core.seeding import generator
from gnn_mtl._core.threads import one_thread
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.datasets import planted
from gnn_mtl.graph import CSCGraph, NeighborSampler

FAN_OUT, BATCH = (10, 10), 1024


def run(*, quick: bool = False) -> dict[str, Any]:
    """Sample the same seeds with every sampler on one thread.

    Full size: 1.2M nodes, 21M undirected edges, fan-out [10, 10], batch 1024.
    """
    nodes, edges = (100_000, 1_500_000) if quick else (1_200_000, 21_000_000)
    graph = planted(nodes, edges, 4, 2, num_features=0, seed=0).csc
    batches, repeats = (5, 3) if quick else (10, 5)
    seeds = [generator(0, "bench", i).choice(nodes, BATCH, replace=False) for i in range(batches)]
    ours = NeighborSampler(graph, FAN_OUT)
    torch_sampler = NeighborSampler(graph, FAN_OUT, backend="torch")

    def work(sampler: NeighborSampler) -> Any:  # noqa: ANN401
        def sample(repeat: int) -> None:
            for index, nodes in enumerate(seeds):
                sampler.sample(nodes, seed=0, epoch=repeat, batch=index)

        return sample

    candidates = {"numba": work(ours), "torch": work(torch_sampler)}
    pyg = _pyg_sampler(graph, seeds)
    if pyg is not None:
        candidates["pyg"] = pyg
    for function in candidates.values():
        function(0)
    with one_thread():
        times = interleaved(candidates, repeats)
    lowest = min(uniformity(degree, fan_out) for degree, fan_out in UNIFORMITY)
    rows = [
        {
            "sampler": name,
            "seeds_per_cpu_s": batches * BATCH / t["cpu_s"],
            "cpu_ms_per_batch": 1e3 * t["cpu_s"] / batches,
            "wall_ms_per_batch": 1e3 * t["wall_s"] / batches,
            "nodes": nodes,
            "directed_edges": graph.num_edges,
        }
        for name, t in times.items()
    ]
    ratios = {
        "over_torch": times["torch"]["cpu_s"] / times["numba"]["cpu_s"],
        "over_pyg": times["pyg"]["cpu_s"] / times["numba"]["cpu_s"] if "pyg" in times else None,
        "chi_square_min_p": lowest,
    }
    return result("sampler", ratios, rows)


UNIFORMITY = ((11, 10), (50, 10), (600, 10), (7_750, 10), (40_000, 20))


def uniformity(degree: int, fan_out: int, draws_per_cell: int = 40) -> float:
    """Return the p-value of a chi-square test that every neighbour is drawn equally often.

    Samples the ``degree`` neighbours of one hub until every cell expects ``draws_per_cell`` hits,
    in 1,000 cells at most. Draws without replacement are negatively correlated, which the variance
    accounts for exactly.
    """
    hub = CSCGraph.from_edge_index(
        np.stack([np.arange(1, degree + 1), np.zeros(degree, dtype=np.int64)]), degree + 1
    )
    sampler = NeighborSampler(hub, [fan_out])
    cells = min(degree, 1000)
    samples = -(-draws_per_cell * cells // fan_out)
    counts: NDArray[np.int64] = np.zeros(degree, dtype=np.int64)
    for index in range(samples):
        found = sampler.sample(np.array([0]), seed=7, batch=index).n_id[1:].numpy() - 1
        counts[found] += 1
    folded = np.bincount(np.arange(degree) * cells // degree, weights=counts, minlength=cells)
    sizes = np.bincount(np.arange(degree) * cells // degree, minlength=cells)
    expected = samples * fan_out * sizes / degree
    statistic = float(((folded - expected) ** 2 / expected).sum())
    correction = (degree - fan_out) / (degree - 1)
    return float(chi2.sf(statistic / correction, cells - 1))


def _pyg_sampler(graph: CSCGraph, seeds: list[NDArray[np.int64]]) -> Any:  # noqa: ANN401
    """PyG's own sampler, where one of its compiled back ends is installed."""
    if not (is_installed("pyg_lib") or is_installed("torch_sparse")):
        return None
    from torch_geometric.data import Data
    from torch_geometric.sampler import NeighborSampler as PyGSampler
    from torch_geometric.sampler import NodeSamplerInput

    data = Data(edge_index=torch.from_numpy(graph.to_edge_index()), num_nodes=graph.num_nodes)
    sampler = PyGSampler(data, list(FAN_OUT))

    def sample(_repeat: int) -> None:
        for nodes in seeds:
            sampler.sample_from_nodes(NodeSamplerInput(None, torch.from_numpy(nodes)))

    return sample

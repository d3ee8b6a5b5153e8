"""Noisy vectors in planted groups: how often the conflict graph and its groups come out exactly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gnn_mtl as gm
from gnn_mtl.grouping import welsh_powell
from gnn_mtl.linalg import cosine_of_gramian, unbiased_gramian

TAU = 0.25
Array = NDArray[Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Unit vectors in groups; every two of a group have one cosine, every two others another."""

    name: str
    sizes: tuple[int, ...]
    within: float
    cross: float

    @property
    def groups(self) -> Array:
        """Group of each task."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @property
    def margin(self) -> float:
        """How far the true cosines stay from the tolerance."""
        return min(abs(self.within + TAU), abs(self.cross + TAU))

    def means(self, dim: int) -> Array:
        """Return vectors ``[T, dim]`` with exactly these cosines."""
        groups = self.groups
        cosine = np.where(groups[:, None] == groups, self.within, self.cross)
        np.fill_diagonal(cosine, 1.0)
        sizes, axes = np.linalg.eigh(cosine)
        means = np.zeros((len(groups), dim))
        means[:, : len(groups)] = axes * np.sqrt(sizes.clip(min=0))
        return means


PROBLEMS = (
    Problem("two groups", (20, 20), 0.6, -0.6),
    Problem("three groups", (14, 13, 13), 0.8, -0.4),
)
PAIR = Problem("one pair", (1, 1), 1.0, -0.6)
SETTINGS = ((4.0, 100), (16.0, 100), (16.0, 1000))
"""Energy of one sample's noise, in units of a true gradient's, and the dimensions it lies in."""
SAMPLES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
BLOCKS = {"plain": 1, "two halves": 2, "eight blocks": 8}
"""Estimators: cosines of the mean, or products between means of so many disjoint blocks only."""
BIAS = {"noise": 16.0, "samples": 19, "dim": 2000}


def block_means(
    means: Array, noise: float, samples: int, blocks: int, shared: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means ``[K, T, dim]`` of noisy samples dealt to K blocks, and the blocks' sizes."""
    sizes = np.array([len(part) for part in np.array_split(np.arange(samples), blocks)])
    own = rng.standard_normal((blocks, *means.shape))
    common = rng.standard_normal((blocks, 1, means.shape[1])) if shared else 0.0
    drawn = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    scale = np.sqrt(noise / means.shape[1] / sizes)[:, None, None]
    return torch.from_numpy(means + scale * drawn), torch.from_numpy(sizes).double()


def cosines(parts: torch.Tensor, sizes: torch.Tensor) -> Array:
    """Return the estimate of the blocks: plain of one, free of the noise's own norm of several."""
    blocks, tasks, _ = parts.shape
    weighted = (parts * sizes[:, None, None]).flatten(0, 1)
    products = weighted @ weighted.T
    if blocks == 1:
        return cosine_of_gramian(products).numpy()
    masses = sizes[:, None].expand(blocks, tasks)
    cross = products.view(blocks, tasks, blocks, tasks)
    return cosine_of_gramian(unbiased_gramian(cross, masses)).numpy()


def recovery(
    problem: Problem, noise: float, dim: int, samples: int, estimator: str, trials: int, seed: int
) -> Row:
    """Return how often edges and groups come out exactly, and how the graph errs."""
    means, groups = problem.means(dim), problem.groups
    truth = groups[:, None] != groups
    pairs = np.triu_indices(len(groups), 1)
    rng = np.random.default_rng([seed, int(noise), dim, samples, len(problem.sizes)])
    totals = dict.fromkeys(("edges", "partition", "found", "false", "unknown"), 0.0)
    for _ in range(trials):
        blocks = min(BLOCKS[estimator], samples)
        cosine = cosines(*block_means(means, noise, samples, blocks, 0.0, rng))
        graph = gm.conflict_graph(gm.Affinity(cosine, "cosine"), TAU)
        totals["edges"] += np.array_equal(graph, truth)
        totals["partition"] += same_partition(welsh_powell(graph), groups)
        totals["found"] += graph[pairs][truth[pairs]].mean()
        totals["false"] += graph[pairs][~truth[pairs]].mean()
        totals["unknown"] += np.isnan(cosine[pairs]).mean()
    return {
        "problem": problem.name, "noise": noise, "dim": dim, "samples": samples,
        "estimator": estimator, **{name: round(sum_ / trials, 4) for name, sum_ in totals.items()},
    }  # fmt: skip


def same_partition(classes: Sequence[Sequence[int]], groups: Array) -> bool:
    planted = [np.flatnonzero(groups == group).tolist() for group in np.unique(groups)]
    return sorted(map(list, classes)) == sorted(planted)


def bias(shared: float, estimator: str, trials: int, seed: int) -> Row:
    """Return mean and spread of the estimated cosine of one pair whose noise is correlated."""
    means = PAIR.means(int(BIAS["dim"]))
    rng = np.random.default_rng([seed, int(100 * shared)])
    found = []
    for _ in range(trials):
        parts = block_means(
            means, BIAS["noise"], int(BIAS["samples"]), BLOCKS[estimator], shared, rng
        )
        found.append(cosines(*parts)[0, 1])
    known = np.array(found)[~np.isnan(found)]
    return {
        "shared": shared, "estimator": estimator, "unknown": trials - len(known),
        "mean": round(float(known.mean()), 4), "std": round(float(known.std(ddof=1)), 4),
    }  # fmt: skip


def simulation(smoke: bool, seed: int = 0) -> Row:
    """Return the whole first part."""
    trials = 10 if smoke else 200
    settings, samples = (SETTINGS[:1], SAMPLES[1:4]) if smoke else (SETTINGS, SAMPLES)
    rows = []
    for problem, (noise, dim) in itertools.product(PROBLEMS, settings):
        for number, estimator in itertools.product(samples, BLOCKS):
            rows.append(recovery(problem, noise, dim, number, estimator, trials, seed))
        print(f"{problem.name}, noise {noise:g} in {dim} dimensions", flush=True)
    pairs = itertools.product((0.0, 0.3, 0.6), BLOCKS)
    biases = [bias(shared, estimator, trials, seed) for shared, estimator in pairs]
    bounds = [
        {
            "problem": problem.name, "noise": noise,
            "samples": round(noise / problem.margin**2 * np.log(sum(problem.sizes) / 0.01)),
        }
        for problem in PROBLEMS for noise in sorted({noise for noise, _ in settings})
    ]  # fmt: skip
    return {
        "trials": trials, "tau": TAU, "seed": seed, "bias_at": BIAS, "recovery": rows,
        "bias": biases, "bound": bounds,
    }  # fmt: skip

"""Groups that come out of a training: DMTG's trunks, STG-MTL's data maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.grouping import fuzzy_k_means
from gnn_mtl.runs._build import build_graph, build_model
from gnn_mtl.runs._config import RunConfig
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import DMTG, data_maps, learn_groups


@dataclass(frozen=True, kw_only=True)
class DataMapGroups:
    """Groups of tasks that find the same nodes easy and the same nodes ambiguous (STG-MTL)."""

    kind: ClassVar[str] = "data_maps"

    num_groups: int = 4
    """Number of groups."""
    nodes: int = 1000
    """Training nodes that are followed, at most."""
    fuzziness: float = 1.07
    """Of the fuzzy k-means; towards 1 it is k-means."""

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.nodes < 1 or not 1 < self.fuzziness < math.inf:
            raise UsageError(
                "`num_groups` and `nodes` should be at least 1, and `fuzziness` finite and above "
                f"1. Found {self.num_groups}, {self.nodes} and {self.fuzziness}."
            )


LEARNED: dict[str, type] = {"dmtg": DMTG, "data_maps": DataMapGroups}
"""What each way of learning groups is told, by name."""


def learned_groups(
    config: RunConfig, options: DMTG | DataMapGroups, *, graph: TaskGraph | None = None
) -> Grouping:
    """Train as a run is configured, and return the groups that training shows.

    A finished run does not tell: memberships and data maps are made while a model trains. Nothing
    is written, and neither validation nor test labels are read for the groups.

    Args:
        config: Dataset, encoder, features, budget and seed; its schedule is not used: all tasks
            are supervised at every step.
        options: The method.
        graph: The dataset with its inputs, if it is loaded already.

    Raises:
        DataError: If the dataset cannot be loaded or trained on.
        UsageError: If the encoder does not suit DMTG, or there are fewer tasks than groups.
    """
    graph = build_graph(config) if graph is None else graph
    if options.num_groups > graph.num_tasks:
        raise UsageError(
            f"`num_groups` should be at most the {graph.num_tasks} tasks. "
            f"Found {options.num_groups}."
        )
    if isinstance(options, DataMapGroups):
        maps = data_maps(
            build_model(config, graph), graph, config.train, num_nodes=options.nodes,
            seed=config.seed,
        )  # fmt: skip
        clusters = fuzzy_k_means(
            maps.features(), options.num_groups, fuzziness=options.fuzziness,
            seed=derive_seed(config.seed, "clusters"),
        )  # fmt: skip
        return Grouping.of(clusters.grouping().groups, graph.num_tasks, "data_maps")
    edge_channels = None if graph.edge_attr is None else int(graph.edge_attr.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "init"))
        model = options.build(config.encoder, graph.num_features, graph.num_tasks, edge_channels)
    return learn_groups(model, graph, config.train, options, seed=config.seed).grouping

"""The ways compared: from a graph and groups to rows of scores and costs.

A unit is what shares a training: everything that starts from the joint model is one, the separate
models with what is merged from them another. Every unit depends on the graph, the groups, the
budget and a seed alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gnn_mtl import TaskGraph
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.nn import SAGE, Adapters, HeadConfig, LabelModel, Linear, branch_model, prune
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import (
    DMTG,
    Cost,
    CrossLearning,
    ForkMerge,
    Train,
    cross_learn,
    evaluate_groups,
    evaluate_split,
    fit,
    fork_merge,
    inference_cost,
    learn_groups,
    merge_models,
    refresh_batch_norm,
    training_loader,
)

Row = dict[str, Any]
MERGES: dict[str, dict[str, Any]] = {
    "average": {}, "ties": {"density": 0.2}, "low_rank": {"rank": 16},
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A graph, the groups its labels are given in, and what one training may cost."""

    graph: TaskGraph
    groups: Grouping
    train: Train
    more_epochs: int
    seed: int

    @property
    def more(self) -> Train:
        """The budget of a second training, at a third of the learning rate."""
        return replace(self.train, epochs=self.more_epochs, lr=self.train.lr / 3)

    def model(self, head: HeadConfig | None = None, num_tasks: int | None = None) -> LabelModel:
        """Return a new model; its trunk starts the same whatever its heads."""
        with self.initial():
            encoder = SAGE().build(self.graph.num_features)
            tasks = self.graph.num_tasks if num_tasks is None else num_tasks
            return LabelModel(encoder, (head or Linear()).build(encoder.out_channels, tasks))

    @contextmanager
    def initial(self) -> Iterator[None]:
        """Draw weights from the seed inside."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "init"))
            yield

    def fitted(self, model: LabelModel, config: Train | None = None, *before: Cost) -> Cost:
        """Train the model on all tasks; return what that cost and what was spent before."""
        cost = fit(
            model, self.graph, JointScheduler(self.graph.num_tasks), config or self.train,
            seed=self.seed,
        ).cost  # fmt: skip
        return total([*before, cost])

    def row(self, way: str, model: LabelModel, cost: Cost) -> Row:
        """Return the scores and costs of one model for all tasks."""
        scores = {s: evaluate_split(model, self.graph, s).macro["ap"] for s in ("valid", "test")}
        return self._row(way, scores, [model], cost)

    def row_of_groups(self, way: str, models: Sequence[LabelModel], cost: Cost) -> Row:
        """Return the scores and costs of a model per group, with heads for its tasks or all."""
        if all(model.num_tasks == self.graph.num_tasks for model in models):
            scores = {
                s: evaluate_groups(models, self.groups, self.graph, s).macro["ap"]
                for s in ("valid", "test")
            }
        else:
            scores = {s: float(np.nanmean(self._ap(models, s))) for s in ("valid", "test")}
        return self._row(way, scores, models, cost)

    def _ap(self, models: Sequence[LabelModel], split: str) -> NDArray[np.float64]:
        """Return each task's AP by its group's model, ``[T]``."""
        found = np.full(self.graph.num_tasks, np.nan)
        for model, group in zip(models, self.groups.groups, strict=True):
            part = self.graph.select_tasks(list(group))
            found[list(group)] = evaluate_split(model, part, split).per_label["ap"]
        return found

    def _row(
        self, way: str, scores: dict[str, float], models: Sequence[LabelModel], cost: Cost
    ) -> Row:
        price = inference_cost(models, self.graph, repeats=0)
        return {
            "way": way,
            **{f"{split}_ap": round(score, 5) for split, score in scores.items()},
            "parameters": price.parameters,
            "forwards": price.forwards,
            "mflops_per_node": round(price.mflops_per_node, 4),
            "steps": cost.steps,
            "label_gradients": cost.label_gradients,
        }


def total(costs: Sequence[Cost]) -> Cost:
    """Return the costs' sum."""
    summed = Cost()
    for cost in costs:
        summed.add(cost)
    return summed


# -- what shares a training ------------------------------------------------------------------------


def from_joint(problem: Problem) -> Iterator[Row]:
    """One joint model; trained on; fine-tuned for each group; those merged."""
    joint = problem.model()
    cost = problem.fitted(joint)
    yield problem.row("joint", joint, cost)
    longer = copy.deepcopy(joint)
    yield problem.row("joint, trained on", longer, problem.fitted(longer, problem.more, cost))
    tuned, costs = [], [cost]
    for group in problem.groups.groups:
        rows = list(group)
        model = LabelModel(
            copy.deepcopy(joint.encoder), Linear().build(joint.encoder.out_channels, len(rows))
        )
        with torch.no_grad():
            model.heads.weight.copy_(joint.heads.weight[rows])
            model.heads.bias.copy_(joint.heads.bias[rows])
        costs.append(_fit_part(problem, model, rows, problem.more))
        tuned.append(model)
    yield problem.row_of_groups("fine-tuned from joint", tuned, total(costs))
    yield from _merged("fine-tuned", problem, tuned, joint, total(costs))


def from_scratch(problem: Problem) -> Iterator[Row]:
    """One model per group, from equal initial trunks; those merged."""
    models, costs = [], []
    for group in problem.groups.groups:
        model = problem.model(num_tasks=len(group))
        costs.append(_fit_part(problem, model, list(group), problem.train))
        models.append(model)
    yield problem.row_of_groups("separate", models, total(costs))
    yield from _merged("separate", problem, models, problem.model(), total(costs))


def separate(problem: Problem) -> Iterator[Row]:
    """One model per group, not merged."""
    yield next(from_scratch(problem))


def adapters(problem: Problem) -> Iterator[Row]:
    """One trunk with a small network per group on its output."""
    model = problem.model(Adapters(groups=problem.groups.groups, rank=8))
    yield problem.row("adapters, rank 8", model, problem.fitted(model))


def branches(problem: Problem) -> Iterator[Row]:
    """A trunk per group on one stem."""
    yield _branches(problem, 1, "branches on a stem")


def whole_branches(problem: Problem) -> Iterator[Row]:
    """A trunk per group, in one model."""
    yield _branches(problem, 0, "branches, no stem")


def forked(problem: Problem) -> Iterator[Row]:
    """ForkMerge with the groups and all tasks as branches."""
    model = problem.model()
    sets = [*problem.groups.groups, range(problem.graph.num_tasks)]
    merged = fork_merge(model, problem.graph, sets, problem.train, ForkMerge(), seed=problem.seed)
    shares = merged.rounds[merged.best_round].weights
    row = problem.row("ForkMerge", model, merged.cost)
    yield row | {"share_of_joint_branch": round(float(shares[-1]), 3)}


def crossed(problem: Problem) -> Iterator[Row]:
    """A model per group within a radius of a centre."""
    models = [problem.model() for _ in problem.groups.groups]
    learned = cross_learn(
        models, problem.graph, problem.groups, problem.train, CrossLearning(), seed=problem.seed
    )
    yield problem.row_of_groups("cross-learning", models, learned.cost)


def chosen(problem: Problem) -> Iterator[Row]:
    """DMTG's own groups, as many as given ones; pruned; trained on."""
    options = DMTG(num_groups=len(problem.groups), shared_layers=1)
    with problem.initial():
        model = options.build(SAGE(), problem.graph.num_features, problem.graph.num_tasks)
    learned = learn_groups(model, problem.graph, problem.train, options, seed=problem.seed)
    pruned = prune(model)
    yield problem.row("DMTG, pruned", pruned, learned.cost)
    cost = problem.fitted(pruned, problem.more, learned.cost)
    yield problem.row("DMTG, pruned and trained on", pruned, cost)


UNITS: dict[str, Callable[[Problem], Iterator[Row]]] = {
    "joint": from_joint,
    "adapters": adapters,
    "branches": branches,
    "whole_branches": whole_branches,
    "separate": from_scratch,
    "fork_merge": forked,
    "cross_learning": crossed,
    "dmtg": chosen,
}
CONTROLS: dict[str, Callable[[Problem], Iterator[Row]]] = {
    "adapters": adapters, "branches": branches, "separate": separate,
}  # fmt: skip
"""Ways that are run with random groups of the same sizes too."""


def _branches(problem: Problem, shared_layers: int, way: str) -> Row:
    with problem.initial():
        model = branch_model(
            SAGE(), problem.graph.num_features, problem.groups, shared_layers=shared_layers
        )
    return problem.row(way, model, problem.fitted(model))


def _fit_part(problem: Problem, model: nn.Module, tasks: list[int], config: Train) -> Cost:
    part = problem.graph.select_tasks(tasks)
    return fit(model, part, JointScheduler(len(tasks)), config, seed=problem.seed).cost


def _merged(
    of: str, problem: Problem, models: Sequence[LabelModel], base: LabelModel, cost: Cost
) -> Iterator[Row]:
    """Merge by every method; batch norms are measured anew on an epoch of training nodes."""
    for method, options in MERGES.items():
        model = merge_models(models, problem.groups, method=method, base=base, **options)
        loader = training_loader(
            problem.graph.sealed(), model, problem.train, seed=derive_seed(problem.seed, "norms")
        )
        refresh_batch_norm(model, loader.epoch_batches(0))
        yield problem.row(f"{of}, merged: {method.replace('_', ' ')}", model, cost)

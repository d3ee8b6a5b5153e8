"""One model in place of one per group, so that a prediction is one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import nn

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, LinearHeads, MLPHeads
from gnn_mtl.tasks import Grouping
from gnn_mtl.training._merge_states import (
    average_states,
    check_states,
    low_rank_states,
    ties_states,
)

MergeMethod = Literal["average", "ties", "low_rank"]
MERGE_METHODS: tuple[str, ...] = get_args(MergeMethod)


def merge_models(
    models: Sequence[LabelModel],
    groups: Grouping,
    *,
    method: MergeMethod = "average",
    base: LabelModel | None = None,
    weights: Sequence[float] | None = None,
    owners: Sequence[int] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    rank: int = 16,
) -> LabelModel:
    """Return one model in place of one per group.

    Trunks are merged by ``method``; the head of a task is that of its own group's model. Running
    statistics of batch norms are averaged; :func:`refresh_batch_norm` measures them anew, which
    merged trunks usually need.

    Averages make sense between models that started from the same weights and did not part far.

    Args:
        models: One per group, in the order of ``groups``; each has a head for every task of the
            graph, or for those of its group only, in their order.
        groups: The groups.
        method: ``"average"``, ``"ties"`` or ``"low_rank"``.
        base: What the models were trained from: their common initial weights, or the model they
            were fine-tuned from; needed by ``"ties"`` and ``"low_rank"``.
        weights: Weight of each model, for ``"average"`` only; default: equal.
        owners: The group whose model's head serves each task ``[T]``; default: the first group
            that holds it.
        density: See :func:`ties_states`.
        scale: See :func:`ties_states`.
        rank: See :func:`low_rank_states`.

    Raises:
        ShapeError: If the trunks or heads do not match.
        UsageError: If the method is unknown, lacks its base or takes no weights, or heads have
            adapters.
    """
    if method not in MERGE_METHODS:
        raise UsageError(f"`method` should be {', '.join(MERGE_METHODS)}. Found {method!r}.")
    if weights is not None and method != "average":
        raise UsageError(f"`weights` are for method='average'. Found them with {method!r}.")
    if len(models) != len(groups):
        raise UsageError(f"Expected one model per group, {len(groups)}. Found {len(models)}.")
    if any(model.group_parameters() for model in models):
        raise UsageError(
            "Models with adapters are one model for all groups already. Found some to merge."
        )
    heads = _gathered_heads(models, groups, _owners(groups, owners))
    states = [model.encoder.state_dict() for model in models]
    if method == "average":
        trunk = average_states(states, weights)
    elif base is None:
        raise UsageError(f"{method} needs `base`, the model the others were trained from.")
    else:
        start = base.encoder.state_dict()
        check_states([start, *states])
        floats = {name for name, _ in base.encoder.named_parameters()}
        trunk = average_states(states)  # buffers
        parts = [{k: v for k, v in state.items() if k in floats} for state in (start, *states)]
        if method == "ties":
            trunk |= ties_states(parts[0], parts[1:], density=density, scale=scale)
        else:
            trunk |= low_rank_states(parts[0], parts[1:], rank=rank)
    merged = LabelModel(copy.deepcopy(models[0].encoder), heads)
    merged.encoder.load_state_dict(trunk)
    return merged.train(models[0].training)


@torch.no_grad()
def refresh_batch_norm(model: LabelModel, batches: Iterable[MiniBatch]) -> int:
    """Measure the running statistics of the model's batch norms anew, by averages over batches.

    Args:
        model: Changed in place; its parameters and mode stay as they are.
        batches: Batches of training nodes; every one counts the same.

    Returns:
        The number of batch norms; nothing is run if that is 0.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d) and m.track_running_stats]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.eval()
    for norm in norms:
        norm.train()
    try:
        for batch in batches:
            model.encoder(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)


def _gathered_heads(
    models: Sequence[LabelModel], groups: Grouping, owners: Sequence[int]
) -> LinearHeads | MLPHeads:
    """Heads of all tasks, row t from the model of the group that owns task t."""
    heads = copy.deepcopy(models[0].heads)
    if not isinstance(heads, LinearHeads | MLPHeads):
        raise UsageError(f"Linear and MLP heads can be merged. Found {type(heads).__name__}.")
    parts = [dict(model.heads.named_parameters()) for model in models]
    rows_of = [_rows(model, group) for model, group in zip(models, groups.groups, strict=True)]
    for name in parts[0]:
        if len({part[name].shape[1:] if name in part else None for part in parts}) != 1:
            raise ShapeError(f"The models should have heads of one shape. Found others in {name}.")
        rows = [parts[owner][name][rows_of[owner][t]] for t, owner in enumerate(owners)]
        setattr(heads, name, nn.Parameter(torch.stack(rows).detach().clone()))
    heads.num_tasks = groups.num_tasks
    return heads


def _rows(model: LabelModel, group: Sequence[int]) -> dict[int, int]:
    """Where the heads of a group's tasks are in its model."""
    if model.num_tasks == len(group):
        return {task: row for row, task in enumerate(group)}
    if model.num_tasks <= max(group):
        raise ShapeError(
            f"The model of a group should have heads for its {len(group)} tasks, or for all. "
            f"Found {model.num_tasks}."
        )
    return {task: task for task in group}


def _owners(groups: Grouping, owners: Sequence[int] | None) -> list[int]:
    """The group that serves each task: as given, else the first that holds it."""
    if owners is None:
        return groups.first_of().tolist()
    holds = groups.memberships()
    found = [int(owner) for owner in owners]
    if len(found) != groups.num_tasks or not all(
        0 <= owner < len(groups) and holds[owner, task] for task, owner in enumerate(found)
    ):
        raise UsageError("`owners` should name for every task a group that holds it.")
    return found

"""Models of several trunks: one per group, or DMTG's search space and what is left of it."""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.nn._encoder import Encoder
from gnn_mtl.nn._group_adapters import Overlap, serving_groups
from gnn_mtl.nn._model import LabelModel
from gnn_mtl.nn._trunk_heads import BranchHeads, TrunkHeads
from gnn_mtl.nn._trunks import Trunks
from gnn_mtl.tasks import Grouping


class BuildsEncoder(Protocol):
    """An encoder configuration, as ``SAGE()`` is one."""

    def build(self, in_channels: int, edge_channels: int | None = None) -> Encoder:
        """Build an encoder for features of width ``in_channels``."""
        ...


def trunk_model(
    encoder: BuildsEncoder,
    in_channels: int,
    num_tasks: int,
    num_trunks: int,
    *,
    shared_layers: int = 0,
    edge_channels: int | None = None,
    noise: float = 0.0,
    regulate: bool = False,
) -> LabelModel:
    """Return a model of K trunks in which every task has a head on each (DMTG's search space).

    Args:
        encoder: Configuration of a trunk; convolutional.
        in_channels: Width F of the features.
        num_tasks: Number of tasks T.
        num_trunks: Number of trunks K.
        shared_layers: First layers that all trunks share.
        edge_channels: Width of the edge features, if there are any.
        noise: See :class:`TrunkHeads`.
        regulate: See :class:`Trunks` and :class:`TrunkHeads`.

    Raises:
        UsageError: If the encoder is not convolutional, or numbers do not fit together.
    """
    if num_trunks < 1:
        raise UsageError(f"`num_trunks` should be at least 1. Found {num_trunks}.")
    trunks = _build(encoder, in_channels, edge_channels, num_trunks, shared_layers, regulate)
    heads = TrunkHeads(trunks.out_channels, num_tasks, num_trunks, noise=noise, regulate=regulate)
    return LabelModel(trunks, heads)


def branch_model(
    encoder: BuildsEncoder,
    in_channels: int,
    groups: Grouping,
    *,
    shared_layers: int = 0,
    edge_channels: int | None = None,
    overlap: Overlap = "refuse",
) -> LabelModel:
    """Return a model with a trunk for every group, over a stem they may share.

    With no shared layer it is one model per group, evaluated as one.

    Args:
        encoder: Configuration of a trunk; convolutional.
        in_channels: Width F of the features.
        groups: The groups.
        shared_layers: First layers that all groups share.
        edge_channels: Width of the edge features, if there are any.
        overlap: See :func:`serving_groups`.

    Raises:
        UsageError: If the encoder is not convolutional, or groups overlap against ``overlap``.
    """
    trunk_of = serving_groups(groups, groups.num_tasks, overlap=overlap)
    trunks = _build(encoder, in_channels, edge_channels, max(trunk_of) + 1, shared_layers, False)
    return LabelModel(trunks, BranchHeads(trunks.out_channels, trunk_of))


def _build(
    encoder: BuildsEncoder,
    in_channels: int,
    edge_channels: int | None,
    number: int,
    shared_layers: int,
    regulate: bool,
) -> Trunks:
    built: list[Any] = [encoder.build(in_channels, edge_channels) for _ in range(number)]
    return Trunks(built, shared_layers=shared_layers, regulate=regulate)


def prune(model: LabelModel) -> LabelModel:
    """Return the model with each task's best trunk and head alone; trunks without a task go.

    The result is independent of ``model``, gives the same logits and trains like any model.

    Raises:
        UsageError: If the model is not one of :func:`trunk_model`.
    """
    heads, encoder = model.heads, model.encoder
    if not isinstance(heads, TrunkHeads) or not isinstance(encoder, Trunks):
        raise UsageError(
            "A model of trunks with a head on each can be pruned (trunk_model). Found "
            f"{type(encoder).__name__} with {type(heads).__name__}."
        )
    chosen = heads.trunk_of()
    kept = sorted(set(chosen))
    width = encoder.out_channels // encoder.num_trunks
    pruned = BranchHeads(width * len(kept), [kept.index(trunk) for trunk in chosen])
    tasks = torch.arange(heads.num_tasks)
    with torch.no_grad():
        pruned.weight.copy_(heads.weight[tasks, list(chosen)])
        pruned.bias.copy_(heads.bias[tasks, list(chosen)])
    pruned.train(model.training)
    return LabelModel(copy.deepcopy(encoder).keep(kept), pruned.to(heads.weight.device))

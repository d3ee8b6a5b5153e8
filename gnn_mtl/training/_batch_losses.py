"""``BatchLosses``: the tasks' losses on one batch, and the Gramian of their gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl.gradients import GramianMode, LastLayerTap, TaskGramian, tapped, task_gramian
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel, masked_bce
from gnn_mtl.training._ranks import agreed, shares, summed, world_size
from gnn_mtl.training._replay import Replay


class BatchLosses:
    """Computes losses of tasks on one batch, by as many forward passes as it is asked for.

    Args:
        model: The model, in training mode.
        batch: The batch, on the model's device.
        pos_weight: Weights of the tasks' positives ``[T]``.
        autocast: Run forward passes in bfloat16.
        meter: Counts the passes.
        replay: Gives all passes the same random numbers.
        mode: The gradients that :meth:`gramian` is to be of; None = it will not be asked.
    """

    def __init__(
        self,
        model: LabelModel,
        batch: MiniBatch,
        *,
        pos_weight: Tensor | None = None,
        autocast: bool = False,
        meter: CostMeter | None = None,
        replay: Replay | None = None,
        mode: GramianMode | None = None,
    ) -> None:
        self.model, self.batch, self.pos_weight = model, batch, pos_weight
        self.autocast, self.replay, self.mode = autocast, replay, mode
        self.meter = meter or CostMeter()
        self._shares = shares(batch.observed)
        self._tap: LastLayerTap | None = None
        self._tasks: tuple[int, ...] = ()

    def __call__(self, tasks: tuple[int, ...]) -> Tensor:
        """Return the losses of tasks ``[S]``, with their graph."""
        self.meter.forwards += 1
        self.meter.nodes += self.batch.batch_size
        selected = None if tasks == tuple(range(self.model.num_tasks)) else tasks
        with contextlib.ExitStack() as around:
            if self.replay is not None:
                around.enter_context(self.replay.forward())
            if self.mode == "last_layer" and torch.is_grad_enabled():
                self._tap = around.enter_context(tapped(self.model))
            device = self.batch.x.device.type
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
                logits = self.model(self.batch, selected)
        self._tasks = tasks
        return masked_bce(
            logits.float(), self.batch.y, self.batch.observed, selected, pos_weight=self.pos_weight
        )

    def shares(self, tasks: Sequence[int]) -> Tensor | None:
        """Return the share of each task's observed nodes that lies in this process ``[S]``."""
        return None if self._shares is None else self._shares[list(tasks)]

    def means(self, losses: Tensor, tasks: Sequence[int]) -> Tensor:
        """Return the losses ``[S]`` of tasks over the batches of all processes, detached."""
        here = self.shares(tasks)
        return losses.detach() if here is None else summed(losses.detach() * here.to(losses))

    def gramian(self, losses: Tensor, tasks: Sequence[int], factors: Tensor | None) -> TaskGramian:
        """Return the inner products of the gradients of ``losses``, keeping their graph.

        The last layer's, where it is linear maps, come from the forward pass the losses are of;
        other modes make one of their own, without dropout. Across processes they are those of the
        summed gradients (from the last forward pass), or the mean of the processes' Gramians (other
        modes), whose diagonals also hold the noise of a single process's batch.

        Args:
            losses: Losses of ``tasks``, times ``factors``, of the last forward pass.
            tasks: Their ids, all among those of that pass.
            factors: What the losses were multiplied by ``[S]``; None = 1.
        """
        if self._tap is not None:
            columns = [self._tasks.index(task) for task in tasks]
            reduce = summed if world_size() > 1 else None
            self.meter.label_gradients += len(tasks)
            return self._tap.gramian(losses, columns, tasks=tasks, reduce=reduce)
        assert self.mode is not None  # noqa: S101
        found = task_gramian(
            self.model, self.batch, tasks=tasks, mode=self.mode, pos_weight=self.pos_weight,
            meter=self.meter,
        )  # fmt: skip
        gramian = found.gramian
        if factors is not None:
            scale = factors.to(gramian)
            gramian = gramian * torch.outer(scale, scale)
        broken = found.broken
        if world_size() > 1:
            gramian = summed(gramian.nan_to_num(0.0)) * world_size()
            broken = None if broken is None else ~agreed(~broken)
        return replace(found, gramian=gramian, broken=broken)

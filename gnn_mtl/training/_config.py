"""How a model is trained: budget, batches, optimizer, model choice, probes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gnn_mtl._core.errors import UsageError

Monitor = Literal["ap", "auroc", "f1"]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Everything about a training but the model, the data and the schedule of tasks."""

    epochs: int = 60
    """Passes over the training nodes, at most."""
    max_steps: int | None = None
    """Optimizer steps, at most; whichever of the two is reached first ends the training."""
    max_label_gradients: int | None = None
    """Labels supervised, summed over the steps: the budget by which schedules of few labels a step
    are comparable with joint steps. The training ends with the step that reaches it, and the
    learning rate follows it; models of groups or single labels share it by their labels."""
    batch_size: int = 256
    """Seed nodes of a step."""
    num_neighbors: tuple[int, ...] = (10, 10)
    """Neighbours sampled per hop, nearest first; the last entry is repeated or cut to the encoder's
    number of layers; -1 takes all."""
    replace: bool = False
    """Sample neighbours with replacement."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Adam, or AdamW with decoupled weight decay."""
    group_moments: bool = False
    """Adam keeps moments of its own for every group of labels (memory: 8 bytes a shared parameter
    and group), so that its momentum does not mix groups that take turns."""
    lr: float = 1e-2
    """Learning rate."""
    weight_decay: float = 1e-4
    """Weight decay; rows of inactive heads are exempt while inactive."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """What the learning rate does over the whole budget."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    grad_clip: float | None = None
    """Largest norm of the shared gradient; larger ones are scaled down."""
    pos_weight: Literal["none", "sqrt", "balanced"] = "none"
    """Weight of a label's positives: 1, negatives / positives, or its square root (at most 100)."""
    monitor: Monitor = "ap"
    """Macro validation score by which the model is chosen and the training stopped early."""
    eval_every: int = 5
    """Epochs between two evaluations of the validation split."""
    patience: int | None = 6
    """Evaluations without improvement before stopping early; None never stops early."""
    autocast: Literal["none", "bf16"] = "none"
    """Run the forward pass in bfloat16 where the device gains by it."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:1."""
    deterministic: bool = False
    """Ask torch for deterministic kernels on CUDA (the CPU ones are)."""
    num_workers: int = 1
    """Threads that sample ahead; the batches do not depend on it."""
    probe: Literal["last_layer", "last_layer_sketch", "full", "streamed"] = "last_layer_sketch"
    """Gradients a scheduler is fed with: those of the last shared layer, exact or sketched (a third
    of the cost and as faithful after training: `bench refresh`), or of all shared parameters, on a
    probe batch; or streamed, approximately those of all layers, summed up over the training steps
    (linear heads; not for GATv2 or layer norm)."""
    stream_every: int = 4
    """Streamed gradients: every so many steps are summed up, for about a tenth of a step each."""
    probe_batch_size: int = 512
    """Training nodes behind a probe."""
    gramian: Literal["last_layer", "last_layer_sketch", "full", "count_sketch"] = "last_layer"
    """Gradients whose inner products an aggregator is given: those of the last shared layer, exact
    (from the step's own forward pass) or sketched, or of all shared parameters, exact (full) or
    sketched. What aggregators promise holds for these gradients only."""
    gramian_every: int = 1
    """Updates of the same labels that share the weights of one Gramian."""
    checkpoint_seconds: float = 30.0
    """At the first evaluation after so many seconds the state is saved: what a kill can cost. A
    signal or a guard saves it at once."""
    log_every: int = 10
    """Steps between two training rows in the records."""

    def __post_init__(self) -> None:
        at_least_one = {
            "epochs": self.epochs, "batch_size": self.batch_size, "eval_every": self.eval_every,
            "probe_batch_size": self.probe_batch_size, "stream_every": self.stream_every,
            "log_every": self.log_every, "gramian_every": self.gramian_every,
        }  # fmt: skip
        if self.max_steps is not None:
            at_least_one["max_steps"] = self.max_steps
        if self.max_label_gradients is not None:
            at_least_one["max_label_gradients"] = self.max_label_gradients
        if self.patience is not None:
            at_least_one["patience"] = self.patience
        for name, value in at_least_one.items():
            if value < 1:
                raise UsageError(f"`{name}` should be at least 1. Found {value}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"`lr` should be a positive number. Found {self.lr}.")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(
                f"`checkpoint_seconds` should not be negative. Found {self.checkpoint_seconds}."
            )
        if not math.isfinite(self.weight_decay):
            raise UsageError(f"`weight_decay` should be a number. Found {self.weight_decay}.")
        if self.weight_decay < 0 or self.warmup_steps < 0 or self.num_workers < 0:
            raise UsageError(
                "`weight_decay`, `warmup_steps` and `num_workers` should not be negative. Found "
                f"{self.weight_decay}, {self.warmup_steps} and {self.num_workers}."
            )
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise UsageError(f"`grad_clip` should be positive. Found {self.grad_clip}.")
        if any(k == 0 or k < -1 for k in self.num_neighbors) or not self.num_neighbors:
            raise UsageError(
                "`num_neighbors` should hold positive fan-outs, or -1 for all neighbours. "
                f"Found {self.num_neighbors}."
            )

    def fan_outs(self, num_hops: int) -> tuple[int, ...]:
        """Return one fan-out per hop of an encoder."""
        missing = max(0, num_hops - len(self.num_neighbors))
        return (self.num_neighbors + self.num_neighbors[-1:] * missing)[:num_hops]

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the whole budget."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

"""``task_gramian``: inner products of task gradients, without ever holding all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._last_layer import linear_end_factors
from gnn_mtl.gradients._losses import TaskLosses
from gnn_mtl.gradients._nystrom import nystrom_gramian
from gnn_mtl.gradients._plan import Plan, ProbeMode, passes, total_rows, weighted_rows
from gnn_mtl.gradients._representation import representation_gramian
from gnn_mtl.gradients._sample import ProbeSample
from gnn_mtl.graph import MiniBatch
from gnn_mtl.linalg import add_gramian, cosine_of_gramian, unbiased_gramian
from gnn_mtl.nn import LabelModel, LinearHeads

GramianMode = ProbeMode | Literal["nystrom"]
MEMORY_BYTES = 256 << 20
NYSTROM_DIM = 64
Passes = Callable[[], Iterator[MiniBatch]]


@dataclass(frozen=True, eq=False)
class TaskGramian:
    """Inner products of some tasks' gradients.

    Attributes:
        tasks: Task id of every row.
        gramian: float64 ``[S, S]``, of the mean losses over all batches taken as one.
        valid: bool ``[S]``: False where the task had no observed node or its gradient is not
            finite or zero; such a row is NaN.
        masses: What each batch counts for each task ``[K, S]``: its observed nodes.
        cross: Where asked for, inner products between the batches, each gradient times its mass,
            float64 ``[K, S, K, S]``.
        label_gradients: Task gradients measured, for the books.
        broken: bool ``[S]``: True where the gradient is not finite, as opposed to zero or
            unobserved.
    """

    tasks: tuple[int, ...]
    gramian: Tensor
    valid: Tensor
    masses: Tensor
    cross: Tensor | None = None
    label_gradients: int = 0
    broken: Tensor | None = None

    def cosine(self) -> Tensor:
        """Return the cosines, float64 ``[S, S]``; NaN in the rows of invalid tasks."""
        return cosine_of_gramian(self.gramian)

    def unbiased(self) -> Tensor:
        """Return :func:`gnn_mtl.linalg.unbiased_gramian` of the batches.

        Raises:
            UsageError: If the inner products between batches were not kept.
        """
        if self.cross is None:
            raise UsageError("This needs the products between batches: pass per_batch=True.")
        return unbiased_gramian(self.cross, self.masses)


def task_gramian(
    model: LabelModel,
    batches: MiniBatch | Iterable[MiniBatch],
    *,
    tasks: Sequence[int] | None = None,
    mode: GramianMode = "last_layer",
    pos_weight: Tensor | None = None,
    sample: ProbeSample | None = None,
    num_layers: int = 1,
    sketch_dim: int | None = None,
    scale: Mapping[Tensor, Tensor] | None = None,
    per_batch: bool = False,
    memory_bytes: int = MEMORY_BYTES,
    meter: CostMeter | None = None,
) -> TaskGramian:
    r"""Return :math:`J J^\top` of the tasks' gradients J ``[S, P]``.

    Equals the products of :func:`probe`'s rows. Exact modes go through the parameters in groups
    whose rows fit into ``memory_bytes`` and pass over the batches once per group, so any number of
    nodes, tasks and parameters fits. ``"representation"``, and a linear last layer that nothing
    follows, have closed forms that need no rows at all.

    Args:
        model: The model.
        batches: As in :func:`probe`; an iterator is held in memory if more than one pass over it is
            needed.
        tasks: The tasks; default all.
        mode: As in :func:`probe`, or ``"nystrom"``: rank-``sketch_dim`` approximation from that
            many backward and forward-mode passes per batch; positive semi-definite, never above the
            true one, good only where few directions carry it, and not linear in the gradients.
        pos_weight: As in :func:`probe`.
        sample: As in :func:`probe`.
        num_layers: As in :func:`probe`.
        sketch_dim: As in :func:`probe`; 64 for ``"nystrom"``.
        scale: As in :func:`probe`.
        per_batch: Also keep the products between batches, for unbiased estimates and errors;
            ``(K S)^2`` numbers.
        memory_bytes: Bound on the rows held at a time (at least one unit of a layer, however wide).
        meter: Counts the work.

    Returns:
        The Gramian; rows and columns of invalid tasks are NaN.

    Raises:
        UsageError: As :func:`probe`; or if ``per_batch`` is asked of a mode that has no products
            between batches.
    """
    ids = tuple(range(model.num_tasks)) if tasks is None else tuple(int(t) for t in tasks)
    losses = TaskLosses(ids, pos_weight, sample)
    rows_mode: ProbeMode = "full" if mode == "nystrom" else mode
    dim = None if mode == "nystrom" else sketch_dim
    plan = Plan(model, losses, rows_mode, num_layers, dim, scale, None, meter)
    again = passes(batches)
    if per_batch:
        if mode in ("nystrom", "representation"):
            raise UsageError(
                f"`per_batch` needs gradients by the same parameters in every batch. Found {mode!r}"
            )
        return _between(plan, again, memory_bytes)
    found: tuple[Tensor, Tensor] | None = None
    if mode == "nystrom":
        found = nystrom_gramian(plan, again, sketch_dim or NYSTROM_DIM)
    elif mode == "representation":
        found = _representation(plan, again())
    elif mode == "last_layer" and num_layers == 1 and scale is None:
        found = _linear_end(plan, again)
    gramian, masses = _streamed(plan, again, memory_bytes) if found is None else found
    return finished(plan.losses.tasks, gramian, masses)


def _streamed(plan: Plan, again: Passes, memory_bytes: int) -> tuple[Tensor, Tensor]:
    """Sum over groups of columns."""
    gramian, masses = None, None
    for parts in plan.groups(memory_bytes):
        rows, masses = total_rows(plan, again(), parts)
        gramian = add_gramian(gramian, rows)
    assert gramian is not None  # noqa: S101
    assert masses is not None  # noqa: S101
    return gramian, masses


def _between(plan: Plan, again: Passes, memory_bytes: int) -> TaskGramian:
    """Products between the rows of all batches."""
    count = sum(1 for _ in again())
    if not count:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    cross, masses = None, plan.losses.mass(next(again()))[None]
    for parts in plan.groups(max(1, memory_bytes // count)):
        pairs = [weighted_rows(plan, batch, parts) for batch in again()]
        masses = torch.stack([mass for _, mass in pairs])
        cross = add_gramian(cross, torch.cat([rows for rows, _ in pairs]))
    assert cross is not None  # noqa: S101
    size = len(plan.losses.tasks)
    cross = cross.view(count, size, count, size)
    share = plan.losses.normalizer(masses).double()
    gramian = cross.sum(dim=(0, 2)) / torch.outer(share, share)
    return finished(plan.losses.tasks, gramian, masses, cross)


def _representation(plan: Plan, batches: Iterable[MiniBatch]) -> tuple[Tensor, Tensor]:
    """Nodes are independent columns: products of batches add up."""
    total, masses = None, []
    for batch in batches:
        mass = plan.losses.mass(batch)
        found = representation_gramian(plan.model, batch, plan.losses, plan.meter)
        weight = mass.double()
        found = torch.where(torch.outer(mass, mass) > 0, found * torch.outer(weight, weight), 0.0)
        total = found if total is None else total.add_(found)
        masses.append(mass)
    if total is None:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    stacked = torch.stack(masses)
    share = plan.losses.normalizer(stacked).double()
    return total / torch.outer(share, share), stacked


def _linear_end(plan: Plan, again: Passes) -> tuple[Tensor, Tensor] | None:
    """Closed form of a linear last layer under linear heads; None where there is none."""
    total, masses = None, []
    for batch in again():
        factors = linear_end_factors(plan.model, batch, plan.losses, plan.meter)
        if factors is None:
            return None
        mass = plan.losses.mass(batch)
        factors = torch.where((mass > 0)[:, None], factors * mass[:, None].to(factors.dtype), 0.0)
        total = factors if total is None else total.add_(factors)
        masses.append(mass)
    if total is None:
        return None
    stacked = torch.stack(masses)
    share = plan.losses.normalizer(stacked)
    heads = plan.model.heads
    assert isinstance(heads, LinearHeads)  # noqa: S101
    of_heads = add_gramian(None, heads.weight.detach()[list(plan.losses.tasks)])
    return add_gramian(None, total / share[:, None]) * of_heads, stacked


def finished(
    tasks: tuple[int, ...], gramian: Tensor, masses: Tensor, cross: Tensor | None = None
) -> TaskGramian:
    """Return the Gramian with what is known of every row, and NaN where nothing is."""
    norms = gramian.diagonal()
    broken = ~norms.isfinite()
    valid = ~broken & (norms > 0) & (masses.sum(dim=0) > 0)
    known = valid[:, None] & valid
    gramian = torch.where(known, (gramian + gramian.T) / 2, torch.nan)
    count = len(tasks) * len(masses)
    return TaskGramian(tasks, gramian, valid, masses, cross, count, broken)

r"""Task gradients summed up from the training steps themselves: no probe, no pass of its own.

A probe sees one batch, and after training the noise of one batch is larger than the conflict
(``experiments/affinity-fidelity``). The steps between two refreshes see many; what they leave for
nothing are the residuals R ``[B, T]`` (derivatives of all losses by the logits, one product of the
representations with the heads), the gates M ``[B, H]`` (which units of the last layer are on) and
the activations A ``[B, H]``. Two sums over the seeds of all steps are kept,

.. math:: S = R^\top M, \qquad S' = R^\top A, \qquad [T, H] \text{ each},

and with linear heads W and a frozen norm of scale :math:`\gamma` and slope s they hold

- the gradients by the last norm, exactly: :math:`W \circ S` by its shift,
  :math:`W \circ (S' - \beta S) / \gamma` by its scale;
- those by the last maps' row h: :math:`V_{th} E[x_b | M_{bh} = 1]` with
  :math:`V = s W \circ S`, where the inputs x of the seeds that switch a unit on are taken to be
  their mean;
- those by the norm below, the same way: V pushed through the last maps, whose inputs are linear
  in the scale and the shift of the hidden units.

``directions`` = k > 0 also keeps :math:`R^\top (M \circ p_k)` for the first principal
components p of the inputs and leaves only the rest to the mean: the block of the last maps is exact
where k is their width. Sums are linear in the batches; a step costs ``2 B T H`` flops for the
logits, ``2 B T H (2 + k)`` for the sums, and the last layer once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients._frozen import frozen
from gnn_mtl.gradients._task_gradients import TaskGradients, usable_rows
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import GCNEncoder, LabelModel, LinearHeads, MLPEncoder, SAGEEncoder, SIGNEncoder


class StreamedGradients:
    """Approximate gradients of all tasks, summed up while a model trains.

    ::

        with streamed.watch(batch):
            train_step(model, batch, tasks, optimizers)
        ...
        schedule.observe(streamed.gradients())
        streamed.reset()

    All tasks are measured, active or not, on every seed that observes them. Norms are frozen and
    dropout is left out, as a probe does it: the last layer is run again on what the layer below
    made before its dropout, and only dropout further below stays in (of encoders of one or two
    layers nothing; of SIGN and GIN, whose last map reads what it has been given, the last layer's
    own). Parameters, buffers, gradients and random state are not touched; nothing is random.

    Args:
        model: A model with linear heads, whose encoder ends in linear maps, a batch norm or none,
            and ReLU.
        directions: Principal directions of the last maps' inputs that are kept beside their mean.
        pos_weight: Weights of the tasks' positives ``[T]``.

    Raises:
        UsageError: If the model is another, or ``directions`` is negative.

    Memory:
        ``T H (2 + directions)`` numbers, and ``2 H I`` for the mean inputs (I their width).
    """

    def __init__(
        self, model: LabelModel, *, directions: int = 0, pos_weight: Tensor | None = None
    ) -> None:
        if directions < 0:
            raise UsageError(f"`directions` should not be negative. Found {directions}.")
        self.model, self.directions, self.pos_weight = model, directions, pos_weight
        self._norm, self._below = _ends(model)
        self._linears = model.encoder.final_linears()
        self._dtype = next(model.heads.parameters()).dtype
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new window begins."""
        self.batches = 0
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def watch(self, batch: MiniBatch) -> Iterator[None]:
        """Add what the first forward pass in the block leaves; it must be of that batch."""
        taken: dict[nn.Module, Tensor] = {}
        closed = False

        def take(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if not closed:
                taken[module] = arguments[0].detach()

        def done(*_: object) -> None:
            nonlocal closed
            if not closed:
                closed = True
                with torch.no_grad(), torch.autocast(batch.x.device.type, enabled=False):
                    self._add(batch, {m: x.to(self._dtype) for m, x in taken.items()})

        read = self._linears if self._below is None else [self._below]
        hooks = [module.register_forward_pre_hook(take) for module in read]
        hooks.append(self.model.encoder.register_forward_hook(done))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def measure(self, batch: MiniBatch) -> None:
        """Add a batch by a forward pass of its own, with dropout and norms frozen."""
        with frozen(self.model), torch.no_grad(), self.watch(batch):
            self.model.encoder(batch)

    @torch.no_grad()
    def gradients(self, tasks: Sequence[int] | None = None) -> TaskGradients:
        """Return one row per task, from the sums and the weights as they are now.

        Rows approximate the gradient of the mean loss over all watched seeds. With directions they
        begin with the last maps' parameters as ``encoder.final_parameters()`` has them; without,
        with H numbers that have the same inner products.

        Args:
            tasks: Tasks to return, in this order; default all.

        Raises:
            UsageError: If nothing was watched since the last reset.

        Cost: ``2 T H I`` flops.
        """
        if not self.batches:
            raise UsageError("There is nothing to read: watch() a step or measure() a batch first.")
        sums, heads = self._sums, self.model.heads
        assert isinstance(heads, LinearHeads)  # noqa: S101
        weight = heads.weight.detach()
        gated = weight * sums["gates"]
        slope, shift, scale = _frozen_norm(self._norm)
        push = torch.cat([sums["gates"][:, None], sums["along"]], dim=1) * (weight * slope)[:, None]
        pieces = [self._last_maps(push)]
        if shift is not None:
            pieces += [gated, (weight * sums["active"] - shift * gated) / scale]
        if self._below is not None:
            pieces += self._under(push)
        count = sums["mass"]
        rows = torch.cat(pieces, dim=1) / count.clamp(min=1)[:, None]
        ids = tuple(range(len(rows))) if tasks is None else tuple(int(t) for t in tasks)
        rows, count = rows[list(ids)], count[list(ids)]
        return TaskGradients(ids, rows, usable_rows(rows) & (count > 0), len(ids))

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs: plain values and tensors."""
        sums = {name: value.clone() for name, value in self._sums.items()}
        return {"directions": self.directions, "batches": self.batches, "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict` of an object with the same arguments.

        Raises:
            UsageError: If the state is of other sums.
        """
        if state.get("directions") != self.directions or "sums" not in state:
            raise UsageError(
                f"Expected the state of sums along {self.directions} directions. "
                f"Found {state.get('directions')}."
            )
        device = next(self.model.parameters()).device
        self._sums = {
            name: value.detach().clone().to(device) for name, value in state["sums"].items()
        }
        self.batches = int(state["batches"])

    def _add(self, batch: MiniBatch, taken: Mapping[nn.Module, Tensor]) -> None:
        if self._below is None:
            below = None
            inputs = [taken[linear] for linear in self._linears]
            top = sum(m(x) for m, x in zip(self._linears, inputs, strict=True))
        else:
            below = torch.relu(_frozen(self._below, taken[self._below]))
            inputs, top = self._last_layer(below, batch)
        active = torch.relu(_frozen(self._norm, top))
        gates = (active > 0).to(active)
        read = torch.cat(inputs, dim=1)
        residual = _residual(self.model.heads(active), batch, self.pos_weight)
        if not self.batches:
            gated = [] if below is None else self._last_layer((below > 0).to(below), batch)[0]
            self._begin(gates, read, torch.cat([read, *gated], dim=1))
        features = [gates, active]
        if self.directions:
            along = (read - self._sums["mean"][: read.shape[1]]) @ self._sums["basis"]
            features.append((along[:, :, None] * gates[:, None]).flatten(1))
        found = residual.T @ torch.cat(features, dim=1)
        width = gates.shape[1]
        new = {
            "gates": found[:, :width],
            "active": found[:, width : 2 * width],
            "along": found[:, 2 * width :].unflatten(1, (-1, width)),
            "mass": batch.observed.sum(dim=0).to(found),
        }
        for name, value in new.items():
            self._sums[name] = self._sums[name] + value if self.batches else value.clone()
        self.batches += 1

    def _begin(self, gates: Tensor, inputs: Tensor, parts: Tensor) -> None:
        """Take the directions and each unit's mean inputs from the first batch of a window."""
        width = inputs.shape[1]
        mean = parts.mean(dim=0)
        centred = parts - mean
        share = gates / gates.sum(dim=0).clamp(min=1)
        rest = share.T @ centred
        basis, back = inputs.new_zeros((width, 0)), inputs.new_zeros((0, parts.shape[1]))
        if self.directions:
            _, vectors = torch.linalg.eigh(centred[:, :width].T @ centred[:, :width])
            basis = vectors.flip(1)[:, : self.directions]
            along = centred[:, :width] @ basis
            spread = along.square().sum(dim=0)
            back = (along.T @ centred) / torch.where(spread > 0, spread, 1.0)[:, None]
            back[:, :width] = basis.T
            rest = rest - (share.T @ along) @ back
        self._sums = {"mean": mean, "rest": rest, "basis": basis, "back": back}

    def _last_layer(self, hidden: Tensor, batch: MiniBatch) -> tuple[list[Tensor], Tensor]:
        """What the last maps read and make if the layer below gives ``hidden``."""
        encoder = self.model.encoder
        if isinstance(encoder, MLPEncoder):
            return [hidden], self._linears[0](hidden)
        assert isinstance(encoder, SAGEEncoder | GCNEncoder)  # noqa: S101
        read: dict[nn.Module, Tensor] = {}

        def take(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            read[module] = arguments[0]

        hooks = [linear.register_forward_pre_hook(take) for linear in self._linears]
        try:
            block = batch.blocks[-1]
            made = encoder.convs[-1](hidden, hidden[: block.num_dst], block)
        finally:
            for hook in hooks:
                hook.remove()
        return [read[linear] for linear in self._linears], made

    def _last_maps(self, push: Tensor) -> Tensor:
        """Gradients by the last maps from ``push`` ``[T, 1 + k, H]``."""
        sums = self._sums
        basis = sums["basis"]
        means = (sums["mean"] + sums["rest"])[:, : len(basis)]  # [H, I]
        biases = [linear.bias is not None for linear in self._linears]
        if not basis.shape[1]:
            return push[:, 0] * (means.square().sum(dim=1) + sum(biases)).sqrt()
        full = push[:, 0, :, None] * means + torch.einsum("tkh,ik->thi", push[:, 1:], basis)
        pieces = []
        widths = [linear.in_features for linear in self._linears]
        for part, has_bias in zip(full.split(widths, dim=2), biases, strict=True):
            pieces.append(part.flatten(1))
            if has_bias:
                pieces.append(push[:, 0])
        return torch.cat(pieces, dim=1)

    def _under(self, push: Tensor) -> list[Tensor]:
        """Gradients by the scale and shift of the units below."""
        assert self._below is not None  # noqa: S101
        sums = self._sums
        maps = torch.cat([linear.weight.detach() for linear in self._linears], dim=1)  # [H, I]
        fixed = sums["mean"] + sums["rest"]
        found = []
        for part in (slice(0, maps.shape[1]), slice(maps.shape[1], None)):
            total = push[:, 0] @ (maps * fixed[:, part])
            for k, direction in enumerate(sums["back"][:, part]):
                total = total + (push[:, 1 + k] @ maps) * direction
            found.append(total.unflatten(1, (len(self._linears), -1)).sum(dim=1))
        by_activation, by_gate = found
        _, shift, scale = _frozen_norm(self._below)
        if shift is None:
            return [by_gate]
        return [by_gate, (by_activation - shift * by_gate) / scale]


def _ends(model: LabelModel) -> tuple[nn.Module, nn.Module | None]:
    """The last norm, and the one below the last maps where they read its units."""
    encoder = model.encoder
    norms: Any = getattr(encoder, "norms", ())
    if isinstance(encoder, SIGNEncoder):
        norms = [encoder.norm]
    if (
        type(model.heads) is not LinearHeads
        or not encoder.elementwise_after_final
        or not encoder.final_linears()
        or not len(norms)
    ):
        raise UsageError(
            "Streamed gradients need linear heads and an encoder that ends in linear maps, a batch "
            f"norm or none, and ReLU. Found {type(encoder).__name__} with "
            f"{type(model.heads).__name__}; use --train.probe last_layer."
        )
    reads_units = isinstance(encoder, SAGEEncoder | GCNEncoder | MLPEncoder) and len(norms) > 1
    return norms[-1], norms[-2] if reads_units else None


def _frozen_norm(norm: nn.Module) -> tuple[Tensor | float, Tensor | None, Tensor]:
    """Slope, shift and scale of a batch norm in evaluation mode; 1, None and 1 without one."""
    if not isinstance(norm, nn.BatchNorm1d) or norm.running_var is None:
        return 1.0, None, torch.ones(())
    slope = (norm.running_var + norm.eps).rsqrt()
    if not norm.affine:
        return slope, None, torch.ones(())
    scale = norm.weight.detach()
    return slope * scale, norm.bias.detach(), torch.where(scale == 0, torch.inf, scale)


def _frozen(norm: nn.Module, x: Tensor) -> Tensor:
    """The norm as in evaluation mode; it keeps its buffers."""
    if isinstance(norm, nn.BatchNorm1d):
        return nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    return x


def _residual(logits: Tensor, batch: MiniBatch, pos_weight: Tensor | None) -> Tensor:
    """Derivatives of the seeds' losses by the logits ``[B, T]``, 0 where not observed."""
    y = torch.where(batch.observed, batch.y, 0.0).to(logits.dtype)
    chance = torch.sigmoid(logits)
    if pos_weight is None:
        found = chance - y
    else:
        found = chance * (1 + (pos_weight.to(y) - 1) * y) - pos_weight.to(y) * y
    return torch.where(batch.observed, found, 0.0)

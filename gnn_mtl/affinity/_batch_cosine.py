"""The cosine affinity of a model over batches, with its standard errors and its noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl.gradients import ProbeMode, probe
from gnn_mtl.graph import MiniBatch
from gnn_mtl.linalg import cosine_of_gramian, cosine_of_rows
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity

SECTIONS = 8
SECTION_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class SectionGradients:
    """Gradients of every task summed over the nodes of each of a few sections of the batches.

    Sections share no batch, so their errors are independent.

    Attributes:
        sums: ``[D, T, P]``: gradients of each task's mean loss times its observed nodes.
        counts: Observed nodes of each task in each section, int64 ``[D, T]``.
        cost: What they took.
    """

    sums: Tensor
    counts: NDArray[np.int64]
    cost: CostMeter

    def cosine(self) -> Tensor:
        """Return the cosines of the gradients over all sections, float64 ``[T, T]``."""
        return cosine_of_rows(self._total())

    def standard_errors(self) -> NDArray[np.float64]:
        """Return the delete-one-section jackknife errors of :meth:`cosine`; NaN for one section."""
        number = len(self.sums)
        total = self._total()
        if number < 2:
            return np.full((total.shape[0],) * 2, np.nan)
        left = np.stack([cosine_of_rows(total - each).cpu().numpy() for each in self.sums])
        return np.sqrt((number - 1) * left.var(axis=0))

    def debiased_gramian(self) -> Tensor:
        r"""Return inner products of mean gradients without the noise, float64 ``[T, T]``.

        Only products of different sections enter, whose errors are independent
        (:math:`\sum_{d\ne e}\langle S_{di}, S_{ej}\rangle` over
        :math:`\sum_{d\ne e} n_{di} n_{ej}`), so every cell is unbiased, the diagonal too:
        split-half products (SON-GOKU's recovery needs them) over every
        split. A diagonal may come out negative: that task's signal is below its noise. NaN where no
        two sections observe the pair, and everywhere for one section.
        """
        total = self._total().double()
        products = total @ total.T
        pairs = np.outer(self.counts.sum(0), self.counts.sum(0)).astype(np.float64)
        for each, count in zip(self.sums, self.counts, strict=True):
            products -= each.double() @ each.double().T
            pairs -= np.outer(count, count)
        weight = torch.from_numpy(np.where(pairs > 0, pairs, np.nan)).to(products)
        return products / weight

    def noise_share(self) -> NDArray[np.float64]:
        """Return the share of each task's squared gradient norm that is sampling noise, ``[T]``.

        0 is a gradient known exactly; at s the cosine of two such tasks comes out 1 - s times too
        small; above 1 (an estimate may be) the norm is all noise. NaN for one section.
        """
        total = (
            self._total().double()
            / torch.from_numpy(self.counts.sum(0)).clamp(min=1).to(self.sums.device)[:, None]
        )
        norms = (total * total).sum(dim=1).cpu().numpy()
        signal = self.debiased_gramian().diagonal().cpu().numpy()
        return 1.0 - np.divide(signal, norms, out=np.full_like(norms, np.nan), where=norms > 0)

    def _total(self) -> Tensor:
        return self.sums.sum(dim=0)


def section_gradients(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    mode: ProbeMode = "last_layer",
    sections: int = SECTIONS,
    pos_weight: Tensor | None = None,
    num_layers: int = 1,
    sketch_dim: int | None = None,
    scale: Mapping[Tensor, Tensor] | None = None,
) -> SectionGradients:
    """Measure every task's gradient on each of a few independent sections of the batches.

    Args:
        model: The model; left bitwise as it is.
        batches: Mini-batches, dealt to the sections in turn; fewer batches, fewer sections.
        mode: See :func:`gnn_mtl.gradients.probe`.
        sections: Sections D, at most; less where D x T x P numbers would take over 512 MB, but no
            less than 2.
        pos_weight: Weights of the tasks' positives ``[T]``.
        num_layers: See :func:`gnn_mtl.gradients.probe`, as the next two.
        sketch_dim: Width of a sketch.
        scale: Multiplies the gradients entry by entry (:func:`gnn_mtl.gradients.adam_scale`).

    Raises:
        UsageError: If there is no batch, ``sections`` is below 1, or as ``probe``.
    """
    if sections < 1:
        raise UsageError(f"`sections` should be at least 1. Found {sections}.")
    sums: list[Tensor] = []
    counts: list[Tensor] = []
    meter = CostMeter()
    for number, batch in enumerate([batches] if isinstance(batches, MiniBatch) else batches):
        found = probe(
            model, batch, mode=mode, pos_weight=pos_weight, num_layers=num_layers,
            sketch_dim=sketch_dim, scale=scale, meter=meter,
        )  # fmt: skip
        observed = batch.observed.sum(dim=0)
        weighted = torch.where(observed[:, None] > 0, found.jacobian * observed[:, None], 0.0)
        if number == 0:
            fit = SECTION_BYTES // max(1, weighted.numel() * weighted.element_size())
            sections = min(sections, max(2, fit))
        if number < sections:
            sums.append(weighted)
            counts.append(observed)
        else:
            sums[number % sections] += weighted
            counts[number % sections] = counts[number % sections] + observed
    if not sums:
        raise UsageError("`batches` should hold at least one batch. Found none.")
    return SectionGradients(torch.stack(sums), torch.stack(counts).cpu().numpy(), meter)


def cosine_affinity(
    model: LabelModel,
    batches: Iterable[MiniBatch],
    *,
    mode: ProbeMode = "last_layer",
    debias: bool = False,
    sections: int = SECTIONS,
    pos_weight: Tensor | None = None,
    num_layers: int = 1,
    sketch_dim: int | None = None,
    scale: Mapping[Tensor, Tensor] | None = None,
    label_names: tuple[str, ...] | None = None,
) -> Affinity:
    """Return the cosines of the tasks' gradients, of mean losses over all batches as one.

    Args:
        model: The model; left bitwise as it is.
        batches: Mini-batches; more nodes, less noise.
        mode: Which gradients, see :func:`gnn_mtl.gradients.probe`.
        debias: Take the noise out of norms and products
            (:meth:`SectionGradients.debiased_gramian`); needs two batches. Tasks whose signal is
            below their noise are unknown then.
        sections: Independent sections behind errors, noise and ``debias``; 1 leaves them out and
            holds one matrix T x P only.
        pos_weight: Weights of the tasks' positives ``[T]``.
        num_layers: See :func:`gnn_mtl.gradients.probe`, as the next two.
        sketch_dim: Width of a sketch.
        scale: Multiplies the gradients entry by entry (:func:`gnn_mtl.gradients.adam_scale`): the
            cosines of the optimizer's steps, momentum aside, instead of the slopes'.
        label_names: One name a task.

    Returns:
        A symmetric affinity with unit ``"cosine"``. ``counts``: observed nodes of the less observed
        task of each pair; ``stderr``: jackknife over the sections; ``details["noise_share"]``: see
        :meth:`SectionGradients.noise_share`, None where not measured.

    Raises:
        UsageError: If there is no batch, an option is out of range, or ``debias`` has one batch.
    """
    found = section_gradients(
        model, batches, mode=mode, sections=sections, pos_weight=pos_weight,
        num_layers=num_layers, sketch_dim=sketch_dim, scale=scale,
    )  # fmt: skip
    several = len(found.counts) > 1
    if debias and not several:
        raise UsageError("`debias` needs at least two batches and sections. Found one.")
    cosine = cosine_of_gramian(found.debiased_gramian()) if debias else found.cosine()
    nodes = found.counts.sum(axis=0)
    noise = found.noise_share() if several else np.full(len(nodes), np.nan)
    return Affinity(
        cosine.cpu().numpy(), "gradient_cosine", "cosine", True,
        np.minimum.outer(nodes, nodes), found.standard_errors() if several else None, label_names,
        {
            "gradients": mode, "cost": found.cost.to_dict(), "debiased": debias,
            "noise_share": [None if np.isnan(x) else round(float(x), 4) for x in noise],
        },
    )  # fmt: skip

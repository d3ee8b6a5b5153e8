r"""Grad-TAG: how tasks do in every subset, predicted from one network without training another.

Li, Sharma & Zhang (KDD 2024, arXiv 2409.06091): linearise the trained network in a random subspace
of its weights, fit each subset's logistic regression there, read off the validation scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gnn_mtl._core.cost import CostMeter
from gnn_mtl._core.errors import UsageError
from gnn_mtl._core.seeding import derive_seed
from gnn_mtl.affinity._gradtag_audit import METRICS, LinearisationAudit, forward_scores, fresh
from gnn_mtl.affinity._gradtag_base import GradTagBase, Mode, collect_base
from gnn_mtl.affinity._gradtag_checks import distrusted, with_labels
from gnn_mtl.affinity._gradtag_lambda import START, match_lambda, trusted_lambda
from gnn_mtl.affinity._group_gains import check_masks
from gnn_mtl.affinity._higher_order import Normalize, subset_affinity
from gnn_mtl.affinity._newton_step import Weighting
from gnn_mtl.affinity._subset_design import default_subsets, draw_subsets, pair_coverage
from gnn_mtl.gradients import ParameterFilter
from gnn_mtl.graph import MiniBatch
from gnn_mtl.nn import LabelModel
from gnn_mtl.tasks import Affinity, SubsetTable

Scoring = Literal["linear", "forward"]
SOURCES = {"statistics": "one_step", "pairs": "linearised"}
LAMBDAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def gradtag_table(
    models: LabelModel | Sequence[LabelModel],
    train: Iterable[MiniBatch],
    valid: Iterable[MiniBatch],
    masks: ArrayLike | None = None,
    *,
    dim: int = 200,
    lam: float | None = None,
    mode: Mode = "statistics",
    weighting: Weighting = "tasks",
    scoring: Scoring = "linear",
    metric: str = "loss",
    parameters: ParameterFilter = "shared",
    negatives: float | None = None,
    pos_weight: Tensor | None = None,
    trained: SubsetTable | None = None,
    lambdas: Sequence[float] = LAMBDAS,
    audits: int = 16,
    tolerance: float = 0.1,
    retrain: Callable[[NDArray[np.bool_]], SubsetTable] | None = None,
    chunk_size: int = 16,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    label_names: tuple[str, ...] | None = None,
) -> SubsetTable:
    r"""Predict every task's validation score in every subset that holds it.

    Args:
        models: The base model, trained on all tasks; or several, from different seeds: scores are
            then means, with standard errors.
        train: Batches of training nodes, each node once; streamed once a model.
        valid: Batches of validation nodes, alike.
        masks: Members of each subset, bool ``[m, T]``; default a balanced design
            (:func:`default_subsets`).
        dim: Random directions d.
        lam: Penalty :math:`\lambda` on the scale of mean losses. None: chosen by ``trained``, or
            else the least of .1, 1, 10, ... at which the linearisation holds.
        mode: ``"statistics"``: one Newton step and second-order losses from sums, T d^2 numbers
            whatever the number of nodes. ``"pairs"``: features of (node, task) pairs are kept, the
            logistic regressions solved to the end, losses taken at the linearised logits.
        weighting: See :func:`fit_subsets`.
        scoring: ``"linear"``: as the mode says. ``"forward"``: by the network itself at each
            subset's weights, one pass over ``valid`` a subset.
        metric: ``"loss"``; with ``scoring="forward"`` also ``"ap"``, ``"auroc"``, ``"f1"``.
        parameters: What is projected and moved: ``"shared"``, ``"all"`` or a predicate on names.
        negatives: With ``mode="pairs"``: negatives kept per positive, weighted for the others;
            default all.
        pos_weight: Weights ``[T]`` of the tasks' positives in the fits, as in training.
        trained: Scores of some subsets really trained (10 to 20 will do), to choose ``lam`` by rank
            correlation, each task's mean taken off.
        lambdas: Penalties tried then.
        audits: Subsets, from the shortest to the longest u, whose logits are compared with the
            network's own on a batch; 0 leaves that out, and then ``lam`` starts and stays at .1.
        tolerance: Error of the linearisation (:class:`LinearisationAudit`) above which scores of a
            task, or of a subset and all longer ones, become NaN, named in a warning.
        retrain: Called with the masks of subsets that hold such scores; returns their real ones
            (:class:`gnn_mtl.runs.SubsetOracle` does).
        chunk_size: Directions pushed through the network at once.
        dtype: Of the network's arithmetic in the features, say ``torch.bfloat16``.
        seed: Seed of subsets and directions.
        label_names: One name a task.

    Returns:
        A table with ``source`` ``"one_step"`` or ``"linearised"``; ``baseline`` is the base model
        itself. Tasks without a training label are left out of the subsets, with a warning that
        names them. ``details``: lambda and how it was chosen, coverage of the pairs, the audit with
        lengths :math:`|P u| / |\theta^*|` (that of all tasks at once is about 0 where the base
        model is trained to the end), cost.

    Raises:
        UsageError: If there is no model or batch, or an option is out of range.

    Cost: d forward-mode passes over the nodes, about 2 d forwards; then a d x d system a subset.
    """
    several = [models] if isinstance(models, LabelModel) else list(models)
    _check(several, scoring, metric, audits, tolerance)
    if (lam is not None and not lam > 0) or weighting not in get_args(Weighting):
        raise UsageError(
            f"`lam` should be positive and `weighting` one of {get_args(Weighting)}. Found {lam} "
            f"and {weighting!r}."
        )
    num_tasks = several[0].num_tasks
    members = check_masks(subset_masks(num_tasks, seed=seed) if masks is None else masks, num_tasks)
    meter = CostMeter()
    train_batches, valid_batches = fresh(train), fresh(valid)
    bases = [
        collect_base(
            model, train_batches, valid_batches, dim, mode=mode, weighting=weighting,
            parameters=parameters, negatives=negatives, pos_weight=pos_weight,
            seed=derive_seed(seed, "directions", number), chunk_size=chunk_size, dtype=dtype,
            meter=meter,
        )
        for number, model in enumerate(several)
    ]  # fmt: skip
    members = with_labels(members, bases[0].labelled, label_names)
    choice: dict[str, object] = {"by": "given" if lam is not None else "default"}
    if lam is None and trained is not None:
        lam, choice = match_lambda(bases, trained, lambdas)
    elif lam is None and audits:
        lam, choice = trusted_lambda(bases, members[_spread(len(members), audits)], tolerance)
    lam = START if lam is None else float(lam)

    def scores(base: GradTagBase, u: Tensor, subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
        if scoring == "linear":
            return -base.losses(u, subsets)
        return forward_scores(
            base.model, valid_batches, u, subsets, metric=metric, seed=base.seed,
            parameters=base.parameters,
        )  # fmt: skip

    found, starts, audit = [], [], []
    failed = np.zeros(members.shape, dtype=np.bool_)
    everyone = np.ones((1, num_tasks), dtype=np.bool_)
    for base in bases:
        u = base.fit(members, lam)
        found.append(scores(base, u, members))
        starts.append(scores(base, torch.zeros_like(u[:, :1]), everyone)[0])
        if audits:
            lengths = u.norm(dim=0).cpu().numpy()
            rows = np.argsort(lengths, kind="stable")[_spread(len(members), audits)]
            both = base.audit(torch.cat([u[:, rows], base.fit(everyone, lam)], dim=1))
            checked = LinearisationAudit(both.error[:-1], both.control[:-1], both.step[:-1])
            failed |= checked.failed(lengths, rows, members, tolerance)
            audit.append(checked.facts(members[rows], step_of_all_tasks=both.step[-1]))
    stack = np.stack(found)
    stderr = stack.std(axis=0, ddof=1) / math.sqrt(len(stack)) if len(stack) > 1 else None
    details = {
        "method": "gradtag", "dim": dim, "lam": lam, "lam_choice": choice, "mode": mode,
        "weighting": weighting, "scored": scoring, "models": len(bases),
        "parameters": parameters if isinstance(parameters, str) else "predicate",
        "coverage": coverage_facts(members), "audit": audit, "cost": meter.to_dict(),
    }  # fmt: skip
    table = SubsetTable(
        members, stack.mean(axis=0), SOURCES[mode], metric, "valid", seed, stderr,
        np.mean(starts, axis=0), label_names, details,
    )  # fmt: skip
    return distrusted(table, failed & table.known, tolerance, retrain)


def gradtag_affinity(
    model: LabelModel | Sequence[LabelModel],
    batches: Iterable[MiniBatch],
    *,
    valid: Iterable[MiniBatch] | None = None,
    subset_size: int | None = None,
    num_subsets: int | None = None,
    normalize: Normalize = "zscore",
    dim: int = 200,
    lam: float | None = None,
    mode: Mode = "statistics",
    weighting: Weighting = "tasks",
    parameters: ParameterFilter = "shared",
    seed: int = 0,
    label_names: tuple[str, ...] | None = None,
) -> Affinity:
    """Return the higher-order affinity of the tasks as Grad-TAG predicts it.

    Args:
        model: The base model, or several.
        batches: Batches of training nodes.
        valid: Batches of validation nodes; needed, and taken from the loader's graph by
            :func:`estimate_affinity`.
        subset_size: Tasks of a subset; default sqrt(T).
        num_subsets: Number of subsets; default as many as bring every pair together 20 times.
        normalize: See :func:`subset_affinity`.
        dim: See :func:`gradtag_table`, as the others.
        lam: Penalty.
        mode: ``"statistics"`` or ``"pairs"``.
        weighting: ``"tasks"`` or ``"pairs"``.
        parameters: What moves.
        seed: Seed of subsets and directions.
        label_names: One name a task.

    Raises:
        UsageError: If ``valid`` is missing, or as :func:`gradtag_table`.
    """
    if valid is None:
        raise UsageError(
            "Grad-TAG fits on training nodes and scores on validation nodes. Pass `valid`, batches "
            "of the latter."
        )
    first = model if isinstance(model, LabelModel) else model[0]
    masks = subset_masks(first.num_tasks, subset_size, num_subsets, seed=seed)
    table = gradtag_table(
        model, batches, valid, masks, dim=dim, lam=lam, mode=mode, weighting=weighting,
        parameters=parameters, seed=seed, label_names=label_names,
    )  # fmt: skip
    return replace(subset_affinity(table, normalize=normalize), method="gradtag")


def subset_masks(
    num_tasks: int, size: int | None = None, number: int | None = None, *, seed: int = 0
) -> NDArray[np.bool_]:
    """Return a balanced design ``[m, T]``; what is None takes its default for that many tasks."""
    usual = default_subsets(num_tasks, size)
    return draw_subsets(num_tasks, usual[0], usual[1] if number is None else number, seed=seed)


def coverage_facts(masks: NDArray[np.bool_]) -> dict[str, object]:
    """Return how often pairs are together in the subsets, as plain values."""
    found = pair_coverage(masks)
    return {
        "fewest": found.fewest, "mean": round(found.mean, 3), "most": found.most,
        "missing": found.missing, "uniform_missing": found.uniform_missing,
    }  # fmt: skip


def _check(
    models: list[LabelModel], scoring: Scoring, metric: str, audits: int, tolerance: float
) -> None:
    if not models or len({model.num_tasks for model in models}) > 1:
        raise UsageError(
            "Grad-TAG needs one base model at least, and all of the same tasks. Found "
            f"{len(models)} of {sorted({model.num_tasks for model in models})} tasks."
        )
    if scoring not in get_args(Scoring) or metric not in METRICS:
        raise UsageError(
            f"`scoring` should be one of {get_args(Scoring)} and `metric` of {METRICS}. Found "
            f"{scoring!r} and {metric!r}."
        )
    if scoring == "linear" and metric != "loss":
        raise UsageError(
            f"Sums of features give losses. To score by {metric!r}, pass scoring='forward'."
        )
    if audits < 0 or not tolerance > 0:
        raise UsageError(
            f"`audits` should not be negative and `tolerance` positive. Found {audits} and "
            f"{tolerance}."
        )


def _spread(number: int, wanted: int) -> NDArray[np.int64]:
    """At most ``wanted`` places in ``range(number)``, from the first to the last."""
    return np.unique(np.linspace(0, number - 1, min(number, wanted)).astype(np.int64))

"""Options of ``gnn-mtl affinity`` by subsets of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Written:
    """What every method writes."""

    normalize: Literal["zscore", "relative", "none"] = "zscore"
    """How scores are made comparable over subsets: by each task's mean and spread, as gains over
    the baseline, or not at all."""
    min_count: int = 1
    """Subsets a pair has to be in for its affinity to be known."""
    out: Path = Path("affinity.npz")
    """File to write."""


@dataclass(frozen=True, kw_only=True)
class Design(Written):
    """What methods that score subsets share."""

    dataset: str | None = None
    """Instead of a run: a dataset by name or path, with the default model."""
    epochs: int = 10
    """Epochs, with --dataset: of the base model (gradtag), of every subset (trained)."""
    subset_size: int | None = None
    """Tasks of a subset; default the root of the number of tasks."""
    num_subsets: int | None = None
    """Number of subsets; default as many as bring every pair together 20 times."""
    table: Path | None = None
    """File for the scores of the subsets, which another affinity or surrogate may be made of;
    default OUT with .subsets.npz. If it is there with the same settings, it is reused."""
    seed: int = 0
    """Seed of the subsets, of the directions, and of the model that --dataset trains."""
    root: str | None = None
    """Folder of datasets; default: the user's cache."""
    device: str = "auto"
    """Where models are trained and measured: auto, cpu, cuda."""


@dataclass(frozen=True, kw_only=True)
class GradTagOptions(Design):
    """Options of --method gradtag."""

    run: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Finished run folders: the base model; of several, from different seeds, the mean is taken."""
    dim: int = 200
    """Random directions in the space of the weights."""
    lam: float | None = None
    """Penalty of the fits; default: chosen by --trained, or so that the linearisation holds."""
    trained: Path | None = None
    """Table of 10 to 20 really trained subsets, to choose the penalty by."""
    mode: Literal["statistics", "pairs"] = "statistics"
    """One Newton step from sums, or logistic regressions on stored features."""
    negatives: float | None = None
    """With --mode pairs: negatives kept per positive; default all."""
    weighting: Literal["tasks", "pairs"] = "tasks"
    """A subset's loss is the mean over its tasks, or over its labelled cells."""
    scoring: Literal["linear", "forward"] = "linear"
    """Scores by the linearised network, or by the network at every subset's weights."""
    metric: Literal["loss", "ap", "auroc", "f1"] = "loss"
    """Validation score; other than loss with --scoring forward."""
    parameters: Literal["shared", "all"] = "shared"
    """Weights that move: the encoder's, or the heads' too."""
    audits: int = 16
    """Subsets whose predicted logits are compared with the network's."""
    tolerance: float = 0.1
    """Error of the linearisation above which scores become unknown."""
    retrain: bool = False
    """Train the subsets that hold such scores, by the configuration of the run."""
    nodes: int | None = None
    """Training nodes, and as many validation nodes, to measure on; default all."""


@dataclass(frozen=True, kw_only=True)
class TrainedOptions(Design):
    """Options of --method trained."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """A finished run folder, whose configuration every subset is trained by."""
    finetune: bool = False
    """Start from the run's weights instead of fresh ones."""
    seeds: str = "0"
    """Seeds every subset is trained with, e.g. 0,1,2."""
    metric: Literal["loss", "ap", "auroc", "f1"] = "loss"
    """Validation score."""
    train_share: float = 1.0
    """Share of the training nodes to train on."""
    baseline: bool = False
    """Also train every task alone, for --normalize relative."""
    workers: int = 1
    """Processes; an interrupted call goes on with the same command."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(Written):
    """Options of --method higher_order, pairwise and surrogate."""

    table: Annotated[Path, tyro.conf.Positional]
    """Table of subsets and their scores."""
    kernel: bool = False
    """With surrogate: ridge regression with a kernel; its predictions for --subset-size and
    --num-subsets are averaged. Default: the weights of a linear one."""
    subset_size: int | None = None
    """With --kernel: tasks of the subsets predicted; default the root of the number of tasks."""
    num_subsets: int | None = None
    """With --kernel: number of them."""

"""TorchJD's aggregators and scalarizers: the one door to that package."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation._base import Aggregator, RowAggregator, Weighting, as_rows
from gnn_mtl.aggregation._gramian_method import GradientOptions
from gnn_mtl.aggregation._norm import VANISHED, Norm
from gnn_mtl.aggregation._preference import by_task, check_preference
from gnn_mtl.aggregation._torchjd_methods import METHODS, build_method, parse_options

JDMethod = Literal[
    "aligned_mtl", "cagrad", "config", "constant", "cosmos", "dualproj", "excess_mtl", "fairgrad",
    "geometric_mean", "graddrop", "gradvac", "imtl_g", "krum", "mean", "mgda", "nash_mtl", "pbi",
    "pcd", "pcgrad", "random", "stch", "sum", "trimmed_mean", "upgrad",
]  # fmt: skip

REMEMBERED = 64
"""Sets of tasks whose state is kept; the set that has not come for longest is forgotten first."""


@dataclass(frozen=True, kw_only=True)
class TorchJD(GradientOptions):
    """Any aggregator or scalarizer of TorchJD 0.18 (extra jd), for few tasks or as a check.

    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232;
    https://torchjd.org, where each method and its options are documented. Many methods are also
    here under their own kind, with state by task id and fast at hundreds of tasks: prefer those,
    though up to about 50 tasks its DualProj and up to 100 its Aligned-MTL take some ms less.

    - from inner products alone: aligned_mtl, cagrad, constant, dualproj, fairgrad, gradvac, imtl_g,
      krum, mean, mgda, nash_mtl, pcd (its primary task is the first of the update), pcgrad, random,
      sum, upgrad;
    - from the gradients themselves: config, excess_mtl, graddrop, trimmed_mean;
    - from the losses: cosmos, geometric_mean, pbi, stch; ``norm`` says nothing here.

    Left out: MoDo and SDMGrad, which need the gradients of two or three independent batches at
    once; DWA, FAMO, IMTL-L and UW, which TorchJD ties to one fixed set of tasks, and which have a
    kind of their own here.

    TorchJD keeps state by position. Methods with a state (excess_mtl, gradvac, pcd, and any with
    ``smoothing``) therefore keep one for each set of tasks that is updated together, in that
    order, for the last 64 such sets: a joint run has one, a run with disjoint groups one a group,
    a run with random groups hardly any. That of excess_mtl is as large as its tasks' gradients.
    nash_mtl starts afresh at every call, and a task alone has weight 1. krum and trimmed_mean are
    the mean where tasks are too few for them. Random methods draw from the run's seed; torch's
    global random state does not move.
    """

    kind: ClassVar[str] = "torchjd"

    method: JDMethod = "upgrad"
    """Which method."""

    options: tuple[str, ...] = ()
    """Options of the method in TorchJD's names, each as name=value, for example c=0.4."""

    preference: tuple[float, ...] = ()
    """Importance of every label of the graph, positive, where the method takes one; none: all the
    same."""

    smoothing: float = 0.0
    """Share of the last weights in the next (CR-MOGM), for methods on inner products; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(JDMethod):
            raise UsageError(
                f"`method` should be one of {', '.join(get_args(JDMethod))}. Found {self.method!r}."
            )
        entry = METHODS[self.method]
        parse_options(self.method, self.options)
        if self.preference and not entry.vector:
            raise UsageError(
                f"{self.method} takes no `preference`. Methods that do: "
                f"{', '.join(name for name, other in METHODS.items() if other.vector)}."
            )
        check_preference(self.preference)
        if not 0 <= self.smoothing < 1:
            raise UsageError(f"`smoothing` should be in [0, 1). Found {self.smoothing}.")
        if self.smoothing and entry.form != "gramian":
            raise UsageError(
                f"`smoothing` averages weights from inner products. {self.method} has none; "
                "leave it at 0."
            )
        if entry.form == "rows" and self.norm == "tasks":
            raise UsageError(f"`norm` tasks is about weights, which {self.method} does not have.")

    @property
    def label(self) -> str:
        """The kind and the method."""
        return f"{self.kind}-{self.method}"

    def build(self, num_tasks: int, seed: int = 0) -> Aggregator:
        """Build the aggregator.

        Raises:
            MissingExtraError: If TorchJD, or a solver the method needs, is not installed.
            UsageError: If TorchJD refuses an option.
            ShapeError: If the preference has another length than there are tasks.
        """
        form = METHODS[self.method].form
        kinds = {"rows": TorchJDRows, "losses": TorchJDLosses}
        return kinds.get(form, TorchJDWeighting)(self, num_tasks, seed=seed)


class _Door:
    """Makes, keeps and calls TorchJD's objects."""

    def __init__(self, config: TorchJD, num_tasks: int) -> None:
        self.config, self.entry = config, METHODS[config.method]
        self.options = parse_options(config.method, config.options)
        self.preference = by_task("preference", config.preference, num_tasks)
        self.remembers = self.entry.remembers or config.smoothing > 0
        self.kept: dict[tuple[int, ...], nn.Module | dict[str, Any]] = {}
        self.make(torch.arange(num_tasks), self.preference)  # refuses early what cannot work

    def make(self, tasks: Tensor, given: Tensor) -> nn.Module:
        """A new object of TorchJD for these tasks, of the type and device of ``given``."""
        preference = self.preference[tasks]
        return build_method(
            self.config.method,
            self.options,
            (preference / preference.mean()).to(given),
            self.config.smoothing,
        )

    def too_few(self, size: int) -> bool:
        """Whether so many tasks leave krum or trimmed_mean nothing to choose from, or are one."""
        if self.config.method == "nash_mtl":  # its program has no form for a single number
            return size < 2
        spared = 3 + int(self.options.get("n_byzantine", 0)) if self.config.method == "krum" else 1
        selected = int(self.options.get("n_selected", 1))
        return size < max(spared, selected, 1 + 2 * int(self.options.get("trim_number", 0)))

    def object(self, tasks: Tensor, given: Tensor) -> nn.Module:
        """The object of these tasks, with its state."""
        if not self.remembers:
            return self.make(tasks, given)
        company = tuple(tasks.tolist())
        found = self.kept.pop(company, None)
        if not isinstance(found, nn.Module):
            module = self.make(tasks, given)
            if found is not None:
                self.call(module, given, 0)  # makes its buffers, of the right shape and device
                _set_memory(module, found, given.device)
            found = module
        self.kept[company] = found
        while len(self.kept) > REMEMBERED:
            del self.kept[next(iter(self.kept))]
        return found

    def call(self, module: nn.Module, given: Tensor, seed: int) -> Tensor:
        """Call an object with a random state of its own, and nothing but finite numbers out."""
        devices = [given.device] if given.is_cuda else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers warn of what is checked below
            torch.random.default_generator.manual_seed(seed)
            if given.is_cuda:
                with torch.cuda.device(given.device):
                    torch.cuda.manual_seed(seed)
            try:
                found = module(given)
            except Exception as error:  # each of its solvers has errors of its own
                raise UsageError(
                    f"TorchJD's {self.config.method} failed on {len(given)} tasks: {error}"
                ) from error
        if not bool(found.isfinite().all()):
            raise UsageError(
                f"TorchJD's {self.config.method} found no finite result for {len(given)} tasks. "
                "Use the method of the same name that is not TorchJD's, or another."
            )
        return found

    def state(self) -> dict[str, Any]:
        """The memory as tensors and JSON values."""
        values = {
            f"memory.{i}.{name}": value
            for i, kept in enumerate(self.kept.values())
            for name, value in _memory(kept).items()
        }
        companies = [list(company) for company in self.kept]
        return {"method": self.config.method, "memory": companies, **values}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`; objects are made when their tasks come."""
        if state.get("method") != self.config.method or "memory" not in state:
            raise UsageError(
                f"Expected the state of TorchJD's {self.config.method}. "
                f"Found {state.get('method')!r}."
            )
        self.kept = {
            tuple(company): {
                name.removeprefix(f"memory.{i}."): value
                for name, value in state.items()
                if name.startswith(f"memory.{i}.")
            }
            for i, company in enumerate(state["memory"])
        }


class _ThroughDoor(Aggregator):
    """What the aggregators below share: a door, and its memory in the state."""

    door: _Door

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: tensors and JSON values."""
        return {**super().state_dict(), **self.door.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; see :class:`Aggregator`."""
        super().load_state_dict(state)
        self.door.restore(state)

    def _ask(self, tasks: Tensor, given: Tensor) -> Tensor:
        seed = int(self._draw().integers(1 << 62))
        return self.door.call(self.door.object(tasks, given), given, seed)

    def __repr__(self) -> str:
        return f"{self.door.config!r}.build({self.num_tasks})"


class TorchJDWeighting(_ThroughDoor, Weighting):
    """A method of TorchJD on inner products.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Seed of random choices.
    """

    kind: ClassVar[str] = "torchjd"

    def __init__(self, config: TorchJD, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, norm=config.norm, seed=seed)
        self.door = _Door(config, num_tasks)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is not None  # noqa: S101
        if self.door.too_few(len(tasks)):
            return torch.full_like(losses, 1 / len(tasks))
        if self.door.entry.form == "root":
            values, vectors = torch.linalg.eigh(gramian)
            root = vectors * values.clamp(min=0).sqrt()
            seed = int(self._draw().integers(1 << 62))
            aggregator: Any = self.door.object(tasks, root)
            return self.door.call(aggregator.weighting, root, seed)
        size = gramian.diagonal().mean()
        if not self.door.entry.relative:
            return self._ask(tasks, gramian).double()
        alpha = float(self.door.options.get("alpha", 0.0))  # FairGrad's weights have a unit
        return self._ask(tasks, gramian / size).double() * size ** (-alpha / (1 + alpha))


class TorchJDLosses(_ThroughDoor, Weighting):
    """A scalarizer of TorchJD: weights are its derivatives by the losses.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Unused.
    """

    kind: ClassVar[str] = "torchjd"
    needs = "losses"
    acts_on = "losses"

    def __init__(self, config: TorchJD, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.door = _Door(config, num_tasks)

    def _weights(self, tasks: Tensor, losses: Tensor, gramian: Tensor | None) -> Tensor:  # noqa: ARG002
        with torch.enable_grad():
            given = torch.where(losses == 0, 1e-12, losses).requires_grad_()
            (found,) = torch.autograd.grad(self._ask(tasks, given), given)
        return found


class TorchJDRows(_ThroughDoor, RowAggregator):
    """A method of TorchJD on the gradients themselves; those that are zero take no part.

    Args:
        config: The options.
        num_tasks: Number of tasks T.
        seed: Seed of random choices.
    """

    kind: ClassVar[str] = "torchjd"

    def __init__(self, config: TorchJD, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks, seed=seed)
        self.door = _Door(config, num_tasks)

    def rows(self, jacobian: Tensor, *, tasks: Sequence[int] | None = None) -> Tensor:
        """Return rows that sum to what TorchJD returns: every task gets the same share."""
        jacobian = as_rows(jacobian).detach()
        ids = self._ids(tasks, len(jacobian))
        alive = jacobian.any(dim=1)
        rows = torch.zeros_like(jacobian)
        if bool(alive.any()):
            within = jacobian[alive].double()  # draws and state of TorchJD depend on the type
            few = self.door.too_few(len(within))
            found = within.mean(dim=0) if few else self._ask(ids[alive.cpu()], within)
            found = found * _stretch(found, within, self.door.config.norm) / len(within)
            rows[alive] = found.to(rows)
        self.calls += 1
        return rows


def _stretch(direction: Tensor, jacobian: Tensor, norm: Norm) -> float:
    """The factor that gives the direction the length ``norm`` asks for."""
    length = float(direction.norm())
    reach = float(jacobian.square().sum(dim=1).mean().sqrt())
    if norm == "native" or length <= VANISHED * reach:
        return 1.0
    return (float(jacobian.sum(dim=0).norm()) if norm == "sum" else 1.0) / length


def _memory(kept: nn.Module | dict[str, Any]) -> dict[str, Any]:
    """The state of an object: its buffers and its counters."""
    if isinstance(kept, dict):
        return kept
    memory: dict[str, Any] = {name: value.clone() for name, value in kept.named_buffers()}
    for path, part in kept.named_modules():
        if isinstance(vars(part).get("_n_steps"), int):
            memory[f"{path}._n_steps"] = vars(part)["_n_steps"]
    return memory


def _set_memory(module: nn.Module, memory: Mapping[str, Any], device: torch.device) -> None:
    """Give an object that has been called once the state of another."""
    for path, part in module.named_modules():
        for name in part._buffers:
            saved = memory.get(f"{path}.{name}".lstrip("."))
            setattr(part, name, None if saved is None else saved.clone().to(device))
        if isinstance(vars(part).get("_n_steps"), int):
            part._n_steps = memory[f"{path}._n_steps"]  # type: ignore[assignment]

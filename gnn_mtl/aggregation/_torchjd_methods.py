"""What TorchJD 0.18 has, under which options, and how its objects are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from gnn_mtl._core.errors import MissingExtraError, UsageError
from gnn_mtl._core.optional import require

Option = float | int | str
Form = Literal["gramian", "root", "rows", "losses"]
"""What a method is given: the Gramian; any matrix with that Gramian; the gradients; losses."""


@dataclass(frozen=True)
class Method:
    """One method of TorchJD.

    Attributes:
        name: Its class.
        form: What it is given.
        options: Names and defaults; a tuple lists what is allowed, its first entry the default.
        vector: Keyword that takes the preference, if any.
        shares: Whether that vector is to sum to 1; else its mean is 1.
        remembers: Whether it has a state.
        relative: Whether it is shown gradients of mean square 1, as TorchJD takes short ones for
            zero. Not where the scale is part of the state or of an option.
    """

    name: str
    form: Form = "gramian"
    options: Mapping[str, float | int | tuple[str, ...]] = field(default_factory=dict)
    vector: str | None = None
    shares: bool = True
    remembers: bool = False
    relative: bool = True


METHODS: dict[str, Method] = {
    "aligned_mtl": Method(
        "AlignedMTLWeighting", options={"scale_mode": ("min", "median", "rmse")},
        vector="pref_vector",
    ),
    "cagrad": Method("CAGradWeighting", options={"c": 0.5, "norm_eps": 1e-4}),
    "config": Method("ConFIG", "rows", vector="pref_vector", shares=False),
    "constant": Method("ConstantWeighting", vector="weights", shares=False),
    "cosmos": Method("COSMOS", "losses", {"lambda_": 1.0}, "weights"),
    "dualproj": Method("DualProjWeighting", vector="pref_vector"),
    "excess_mtl": Method(
        "ExcessMTL", "rows", {"robust_step_size": 1.0, "n_warmup_steps": 0}, remembers=True
    ),
    "fairgrad": Method("FairGradWeighting", options={"alpha": 1.0, "max_iters": 100}),
    "geometric_mean": Method("GeometricMean", "losses"),
    "graddrop": Method("GradDrop", "rows", {"leak": 0.0}),
    "gradvac": Method("GradVacWeighting", options={"beta": 0.5, "eps": 1e-8}, remembers=True),
    "imtl_g": Method("IMTLGWeighting"),
    "krum": Method("KrumWeighting", options={"n_byzantine": 0, "n_selected": 1}),
    "mean": Method("MeanWeighting"),
    "mgda": Method("MGDAWeighting", options={"epsilon": 1e-3, "max_iters": 100}),
    "nash_mtl": Method("NashMTL", "root", {"max_norm": 1.0, "optim_niter": 20}, relative=False),
    "pbi": Method("PBI", "losses", {"theta": 5.0}, "weights"),
    "pcd": Method(
        "PCDWeighting", options={"tau": 0.02, "beta": 0.999, "eps": 1e-8}, remembers=True,
        relative=False,
    ),
    "pcgrad": Method("PCGradWeighting"),
    "random": Method("RandomWeighting"),
    "stch": Method("STCH", "losses", {"mu": 0.1}, "weights"),
    "sum": Method("SumWeighting"),
    "trimmed_mean": Method("TrimmedMean", "rows", {"trim_number": 1}),
    "upgrad": Method("UPGradWeighting", vector="pref_vector"),
}  # fmt: skip


def parse_options(method: str, given: tuple[str, ...]) -> dict[str, Option]:
    """Return all options of a method, those ``given`` as ``"name=value"`` instead of defaults.

    Raises:
        UsageError: If an option is unknown, twice there, or its value does not parse.
    """
    known = METHODS[method].options
    options: dict[str, Option] = {
        name: default[0] if isinstance(default, tuple) else default
        for name, default in known.items()
    }
    seen = set()
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or name not in known or name in seen:
            raise UsageError(
                f"`options` of {method} should be `name=value` with each of these names at most "
                f"once: {', '.join(known) or '(it has none)'}. Found {text!r}."
            )
        seen.add(name)
        options[name] = _parse(name, value, known[name])
    return options


def _parse(name: str, value: str, default: float | tuple[str, ...]) -> Option:
    if isinstance(default, tuple):
        if value not in default:
            raise UsageError(f"`{name}` should be one of {', '.join(default)}. Found {value!r}.")
        return value
    try:
        return type(default)(value)
    except ValueError as error:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise UsageError(f"`{name}` should be {wanted}. Found {value!r}.") from error


def build_method(
    method: str, options: Mapping[str, Option], preference: Tensor, smoothing: float
) -> nn.Module:
    """Build TorchJD's object for as many tasks as ``preference`` has entries.

    Raises:
        MissingExtraError: If TorchJD, or a solver this method needs, is not installed.
        UsageError: If TorchJD refuses an option.
    """
    entry = METHODS[method]
    room = "torchjd.scalarization" if entry.form == "losses" else "torchjd.aggregation"
    module = require(room, extra="jd", purpose=f"TorchJD's {method}")
    arguments: dict[str, object] = dict(options)
    if entry.vector:
        arguments[entry.vector] = preference / (preference.sum() if entry.shares else 1)
    if method == "nash_mtl":
        arguments["n_tasks"] = len(preference)
    if method == "graddrop":
        arguments["leak"] = torch.full_like(preference, float(options["leak"]))
    try:
        built = getattr(module, entry.name)(**arguments)
        return module.CRMOGMWeighting(built, alpha=smoothing) if smoothing else built
    except ImportError as error:
        raise MissingExtraError(
            f"TorchJD's {method} needs a solver that is not installed: pip install 'gnn-mtl[jd]'"
        ) from error
    except ValueError as error:
        raise UsageError(f"TorchJD refuses these options of {method}: {error}") from error

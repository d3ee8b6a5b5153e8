"""``RunConfig``: everything that decides a run, as one frozen value with a plain JSON form."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from gnn_mtl._core.errors import ConfigError, UsageError
from gnn_mtl.aggregation import AGGREGATORS, AdaTask, AggregatorConfig, Sum
from gnn_mtl.nn import GCN, GIN, MLP, SAGE, SIGN, Adapters, GATv2, Linear, MLPHead
from gnn_mtl.schedulers import Coloring, Joint, Random, Selective, Separate, Single, Static
from gnn_mtl.training import Train

if TYPE_CHECKING:
    AnyAggregator = AggregatorConfig
else:
    AnyAggregator = Union[tuple(AGGREGATORS.values())]  # noqa: UP007 - flags need each one's fields

KINDS: dict[str, dict[str, type]] = {
    "scheduler": {
        c.kind: c for c in (Joint, Single, Separate, Random, Static, Coloring, Selective)
    },
    "aggregator": dict(AGGREGATORS),
    "encoder": {c.kind: c for c in (SAGE, GCN, GATv2, GIN, SIGN, MLP)},
    "head": {c.kind: c for c in (Linear, MLPHead, Adapters)},
}
"""The configurations each field of :class:`RunConfig` with several kinds may hold, by kind."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Which node features the model sees."""

    use: Literal["auto", "own", "structural", "both"] = "auto"
    """The graph's own, structural ones (no label is read), or both; auto: both."""
    method: Literal["auto", "spectral", "diffusion", "netmf", "verse", "deepwalk"] = "auto"
    """The structural embedding; auto: spectral up to 400,000 nodes, diffusion beyond; deepwalk
    needs the extra `embed`."""
    dim: int = 128
    """Columns of the structural embedding, at most one a node; the log degree comes on top."""
    labels: bool = False
    """Let the network read the training labels of other nodes as further input columns; those of
    the nodes being trained on or scored are hidden."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise UsageError(f"`dim` should be at least 1. Found {self.dim}.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run: two equal configurations give the same numbers on one machine.

    Example:
        >>> config = RunConfig(dataset="debian-tags", scheduler=Coloring(tau=0.1), seed=3)
        >>> RunConfig.from_dict(config.to_dict()) == config
        True
    """

    dataset: str = "debian-tags"
    """Name of a dataset (`gnn-mtl data list`) or path of one."""
    root: str | None = None
    """Folder of datasets; default: the user's cache."""
    name: str | None = None
    """Name of the method in tables; default: the scheduler's kind, and the aggregator's."""
    seed: int = 0
    """Seed of initial weights, batches, probes and dropout."""
    scheduler: Joint | Single | Separate | Random | Static | Coloring | Selective = field(
        default_factory=Joint
    )
    """Which tasks are supervised at every step."""
    aggregator: AnyAggregator = field(default_factory=Sum)
    """What their gradients, or losses, are combined to."""
    encoder: SAGE | GCN | GATv2 | GIN | SIGN | MLP = field(default_factory=SAGE)
    """The shared network."""
    head: Linear | MLPHead | Adapters = field(default_factory=Linear)
    """What stands on top of it for every task."""
    features: Features = field(default_factory=Features)
    """Which node features the model sees."""
    train: Train = field(default_factory=Train)
    """Budget, optimizer, model choice."""

    def __post_init__(self) -> None:
        for family in KINDS:
            _check_part(family, getattr(self, family))
        if isinstance(self.head, Adapters) and isinstance(self.scheduler, Single | Separate):
            raise UsageError(
                "Adapters hold all groups in one model. Found them in models of some of the tasks "
                f"({self.scheduler.kind}); choose another --head.kind or --scheduler.kind."
            )
        if isinstance(self.scheduler, Single) and not isinstance(self.aggregator, Sum):
            raise UsageError(
                "An aggregator needs several labels in a model. Found --aggregator.kind "
                f"{self.aggregator.kind} with --scheduler.kind single; leave one of them out."
            )
        if isinstance(self.aggregator, AdaTask) and self.aggregator.moments != "layer":
            for name, given in (
                ("group-moments", self.train.group_moments),
                ("grad-clip", self.train.grad_clip is not None),
            ):
                if given:
                    raise UsageError(
                        "AdaTask makes the steps of the shared parameters itself, from moments by "
                        f"label, so --train.{name} would do nothing. Found both; leave out "
                        f"--train.{name}, or say --aggregator.moments layer."
                    )

    @property
    def method(self) -> str:
        """Name of the method in tables."""
        if self.name or isinstance(self.aggregator, Sum):
            return self.name or str(self.scheduler.kind)
        return f"{self.scheduler.kind}+{self.aggregator.label}"

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values; kinds are spelt out."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, source: str = "configuration") -> RunConfig:
        """Build from plain values; missing ones take their defaults.

        Args:
            value: As :meth:`to_dict` returns, or part of it.
            source: Named in errors.

        Raises:
            ConfigError: On an unknown key (with the nearest known one), kind, or a wrong type.
        """
        return _build(cls, value, source, "")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunConfig:
        """Read a recipe (``.toml``) or the ``config.json`` of a run folder.

        Raises:
            ConfigError: If the file is missing, is neither, or holds unknown keys.
        """
        path = Path(path)
        if path.is_dir():
            path = path / "config.json"
        try:
            text = path.read_text(encoding="utf-8")
            value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} should be a recipe (.toml) or a run folder with config.json. "
                f"Found: {error}"
            ) from error
        if isinstance(value, dict) and {"seeds", "methods"} & value.keys():
            raise ConfigError(
                f"{path} is a comparison of methods and seeds. Run: gnn-mtl compare {path}"
            )
        return cls.from_dict(value, source=str(path))


def _plain(value: Any) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        kind = getattr(value, "kind", None)
        return plain if kind is None else {"kind": kind, **plain}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, value: Any, source: str, path: str) -> Any:  # noqa: ANN401
    """Build a configuration dataclass from plain values, checking every key and type."""
    where = path or "the top level"
    if not isinstance(value, Mapping):
        raise ConfigError(f"{source}: {where} should be a table of keys. Found {value!r}.")
    names = [f.name for f in dataclasses.fields(cls)]
    known = {}
    for key, item in value.items():
        if key == "kind" and hasattr(cls, "kind"):
            continue
        if key not in names:
            hint = _hint(path, key, value) if path in KINDS else _nearest(key, names)
            raise ConfigError(f"{source}: unknown key `{_join(path, key)}`.{hint}")
        known[key] = _convert(cls, key, item, source, _join(path, key))
    try:
        return _validated(cls, known, source, path)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {where}: {error}") from error


def _convert(cls: type, key: str, item: Any, source: str, path: str) -> Any:  # noqa: ANN401
    """A nested configuration where the field holds one, the plain value elsewhere."""
    if cls is not RunConfig:
        return item
    if key in KINDS:
        if not isinstance(item, Mapping):
            known = item if isinstance(item, str) and item in KINDS[key] else "..."
            raise ConfigError(
                f"{source}: `{path}` should be a table of keys. Found {item!r}; write "
                f'{key} = {{ kind = "{known}" }}.'
            )
        kind = item.get("kind", _default_kind(key))
        return _build(kind_class(key, kind, source), item, source, path)
    nested = {"features": Features, "train": Train}.get(key)
    return item if nested is None else _build(nested, item, source, path)


def kind_class(family: str, kind: str, source: str = "configuration") -> type:
    """Return the configuration class of a kind, e.g. ``("scheduler", "coloring")``.

    Raises:
        ConfigError: If the kind is unknown; lists those that exist.
    """
    classes = KINDS[family]
    if not isinstance(kind, str) or kind not in classes:
        more = (
            " `torchjd` reaches TorchJD's own by --aggregator.method and needs the extra jd: "
            "pip install 'gnn-mtl[jd]'."
        )
        if source.endswith(".json"):  # as a run wrote it
            more = (
                " If the run used an aggregator that is not part of the package, go on in Python: "
                "train(config, out, resume=True) with the configuration it was made with."
            )
        raise ConfigError(
            f"{source}: unknown {family} kind {kind!r}.{_perhaps(str(kind), list(classes))} "
            f"Known kinds: {', '.join(sorted(classes))}.{more if family == 'aggregator' else ''}"
        )
    return classes[kind]


def kinds_with(family: str, name: str) -> list[str]:
    """Return the kinds of a family whose configurations have a field of this name."""
    return [
        kind
        for kind, cls in KINDS[family].items()
        if name in {field.name for field in dataclasses.fields(cls)}
    ]


def _default_kind(family: str) -> str:
    """The kind where none is said."""
    (field,) = (f for f in dataclasses.fields(RunConfig) if f.name == family)
    return str(field.default_factory.kind)  # type: ignore[union-attr]


def _hint(family: str, key: str, given: Mapping[str, Any]) -> str:
    """What to do about a key that the kind chosen, or meant by choosing none, does not have."""
    kind = given.get("kind", _default_kind(family))
    said = f"kind {kind}" if "kind" in given else f"no `{family}.kind`, which means {kind}"
    names = [f.name for f in dataclasses.fields(KINDS[family][kind])]
    if near := _perhaps(key, names):
        return near
    if owners := kinds_with(family, key):
        return f" It belongs to {family}.kind {' or '.join(owners)}. Found {said}."
    everywhere = {f.name for cls in KINDS[family].values() for f in dataclasses.fields(cls)}
    keys = f"Known keys: {', '.join(names)}." if names else "It has no further keys."
    return f"{_perhaps(key, sorted(everywhere))} Found {said}. {keys}"


def _check_part(family: str, part: Any) -> None:  # noqa: ANN401
    """Raise UsageError unless it is a configuration: no name, no class, nothing that is built."""
    known = KINDS[family]
    configured = dataclasses.is_dataclass(part) and not isinstance(part, type)
    if configured and (family != "aggregator" or isinstance(part, AggregatorConfig)):
        if not isinstance(getattr(part, "kind", None), str):
            name = type(part).__name__
            raise UsageError(
                f"{name} has no `kind`, its name in records. Write in the class: kind = "
                f'"{name.lower()}".'
            )
        return
    if isinstance(part, str):
        name = known[part].__name__ if part in known else next(iter(known.values())).__name__
    elif isinstance(part, type):
        name = part.__name__
    else:
        kind = getattr(part, "kind", None)
        name = (
            known[str(kind)].__name__ if str(kind) in known else next(iter(known.values())).__name__
        )
    raise UsageError(
        f"`{family}` should be a configuration, such as {family}={name}(). Found {part!r}."
    )


def _validated(cls: type, known: dict[str, Any], source: str, path: str) -> Any:  # noqa: ANN401
    """Check types strictly through pydantic, field by field, and build the object."""
    from typing import get_type_hints

    from pydantic import TypeAdapter, ValidationError

    hints = get_type_hints(cls)
    checked = {}
    for key, item in known.items():
        if dataclasses.is_dataclass(item):
            checked[key] = item
            continue
        try:
            checked[key] = TypeAdapter(hints[key]).validate_json(json.dumps(item), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"{source}: `{_join(path, key)}` is {item!r}: {first['msg']}."
            ) from error
    return cls(**checked)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _nearest(key: str, names: list[str]) -> str:
    return _perhaps(key, names) or f" Known keys: {', '.join(names)}."


def _perhaps(key: str, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, n=1)
    return f" Perhaps you meant `{near[0]}`." if near else ""

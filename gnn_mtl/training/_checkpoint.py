"""Checkpoints: one safetensors file holds everything a resume needs; no pickle.

Tensors (weights, optimizer moments, scheduler averages, random state) are stored by name; all plain
values are JSON in the file's header. It is renamed into place in one step, so a killed job leaves
the previous checkpoint whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gnn_mtl._core.errors import FileFormatError
from gnn_mtl._core.files import atomic_path

FORMAT = "gnn-mtl/checkpoint"
FORMAT_VERSION = 1
_TENSOR = "__tensor__"


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's parameters and buffers as safetensors."""
    save_tensors(path, model.state_dict())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as :func:`save_weights` writes a model's."""
    _save(path, dict(tensors), {"format": FORMAT, "version": FORMAT_VERSION})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what :func:`save_weights` or :func:`save_tensors` wrote.

    Raises:
        FileFormatError: If the file is damaged.
    """
    return _load(path)[0]


def load_weights(path: Path, model: nn.Module) -> None:
    """Read what :func:`save_weights` wrote into the model.

    Raises:
        FileFormatError: If the file is damaged or of another model.
    """
    tensors, _ = _load(path)
    _load_model(path, tensors, model)


def save_state(
    path: Path, model: nn.Module, tensors: Mapping[str, Mapping[str, Any]], values: dict[str, Any]
) -> None:
    """Write a complete training state.

    Args:
        path: The file.
        model: Its parameters and buffers are stored under ``model``.
        tensors: Named parts of the state; each maps names to tensors or plain nested values.
        values: Plain JSON values: counters, best score, cost.
    """
    flat: dict[str, Tensor] = {f"model/{k}": v for k, v in model.state_dict().items()}
    plain: dict[str, Any] = {}
    for part, content in tensors.items():
        plain[part] = _strip(content, part, flat)
    header = {"format": FORMAT, "version": FORMAT_VERSION, "values": values, "parts": plain}
    flat["rng"] = torch.get_rng_state()
    device = _device(model)
    if device.type == "cuda":
        flat["rng.cuda"] = torch.cuda.get_rng_state(device)
    _save(path, flat, header)


def load_state(path: Path, model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a training state; restores the model and torch's random state on its device.

    Returns:
        The named parts with their tensors back in place, and the plain values.

    Raises:
        FileFormatError: If the file is damaged, of another version, or of another model.
    """
    tensors, header = _load(path)
    if "parts" not in header:
        raise FileFormatError(
            f"{path} should be a training state. Found weights only; resume needs last.state."
        )
    weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
    _load_model(path, weights, model)
    torch.set_rng_state(tensors["rng"])
    device = _device(model)
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return _restore(header["parts"], tensors), header["values"]


def checkpoint_values(path: Path) -> dict[str, Any]:
    """Return the plain values of a training state, without restoring anything."""
    return _load(path)[1]["values"]


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    """Move the tensors of a nested value out and leave their names."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return {str(k): _strip(v, f"{path}/{k}", tensors) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strip(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {k: _restore(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_restore(v, tensors) for v in value]
    return value


def _save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(header)
    with atomic_path(path) as temporary:
        try:
            save_file(owned, temporary, metadata={"gnn_mtl": text, "digest": _digest(owned, text)})
        except SafetensorError as error:  # what the system refused comes wrapped
            raise OSError(str(error)) from error


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """A checksum of the whole content, as safetensors has none."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata["gnn_mtl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT or header["version"] > FORMAT_VERSION:
            raise ValueError(f"format {header['format']!r}, version {header['version']}")
        if metadata["digest"] != _digest(tensors, metadata["gnn_mtl"]):
            raise ValueError("its content does not match its checksum")
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FileFormatError(
            f"{path} should be a checkpoint of this package (version <= {FORMAT_VERSION}). "
            f"Found a damaged or foreign file: {error}. Use another checkpoint."
        ) from error
    return tensors, header


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _load_model(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise FileFormatError(
            f"{path} should hold the weights of this model. Found other ones: {error}"
        ) from error

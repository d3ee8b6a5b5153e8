"""Checkpoints come back bit for bit, or with a typed error."""

import errno

import numpy as np
import pytest
import safetensors.torch
import torch

from gnn_mtl._core.errors import FileFormatError, StorageError
from gnn_mtl.training import (
    checkpoint_values,
    load_state,
    load_weights,
    save_state,
    save_weights,
)

PARTS = {
    "optimizers": {"heads.steps": torch.arange(5), "shared.0.step": torch.tensor(3.0)},
    "scheduler": {
        "kind": "coloring", "window": None, "groups": [[0, 1], [2]], "empty": {}, "none": [],
        "ema": {"average": torch.randn(3, 4), "counts": (1, 2), "half": torch.ones(2).bfloat16()},
    },
}  # fmt: skip
VALUES = {"at": {"step": 7, "best_score": None}, "cost": {"seconds": 1.5}, "name": "tab\tö"}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def state(tmp_path, new_model):
    """(path of a state, the model in it)."""
    model = new_model()
    save_state(tmp_path / "last.state", model, PARTS, VALUES)
    return tmp_path / "last.state", model


def test_weights_round_trip(tmp_path, new_model, assert_same_weights):
    model, other = new_model(0), new_model(1)
    assert_same_weights(model, other, equal=False)
    save_weights(tmp_path / "w.safetensors", model)
    load_weights(tmp_path / "w.safetensors", other)
    assert_same_weights(model, other)
    plain = safetensors.torch.load_file(tmp_path / "w.safetensors")
    assert plain.keys() == model.state_dict().keys()


def test_states_round_trip(state, new_model, assert_same_weights):
    path, model = state
    torch.manual_seed(5)
    torch.rand(3)
    save_state(path, model, PARTS, VALUES)
    expected = torch.rand(4)
    torch.manual_seed(6)
    other = new_model(1)
    parts, values = load_state(path, other)
    assert_same_weights(model, other)
    assert same(parts, PARTS)
    assert values == VALUES == checkpoint_values(path)
    assert torch.equal(torch.rand(4), expected)  # the random state goes on


@pytest.mark.gpu
def test_the_random_state_of_cuda_goes_on(tmp_path, new_model):
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    model = new_model().cuda()
    save_state(tmp_path / "last.state", model, {}, {})
    expected = torch.rand(4, device="cuda")
    load_state(tmp_path / "last.state", model)
    assert torch.equal(torch.rand(4, device="cuda"), expected)


@pytest.mark.parametrize("kept", [0, 3, 8, 0.05, 0.5, 0.99])
def test_truncated_files_are_refused(state, new_model, kept):
    path, _ = state
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(FileFormatError, match=r"last\.state"):
        load_state(path, new_model())


def test_every_flipped_byte_is_found(state, new_model):
    path, model = state
    content = path.read_bytes()
    positions = {*range(20), *range(0, len(content), 97), len(content) - 1}
    for position in sorted(positions):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            parts, values = load_state(path, model)
        except FileFormatError:
            continue
        # a flip in padding or in the order of names may be harmless, but then nothing is changed
        assert same(parts, PARTS), position
        assert values == VALUES, position


def test_changed_weights_are_found(tmp_path, new_model):
    model = new_model()
    path = tmp_path / "w.safetensors"
    save_weights(path, model)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = safetensors.torch.load_file(path)
    tensors["heads.bias"][0] += 1
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    with pytest.raises(FileFormatError, match="checksum"):
        load_weights(path, model)


@pytest.mark.parametrize(
    "metadata",
    [
        None, {"gnn_mtl": "{"}, {"gnn_mtl": "[]"}, {"gnn_mtl": '{"format": "other", "version": 1}'},
        {"gnn_mtl": '{"format": "gnn-mtl/checkpoint", "version": 99}'},
        {"gnn_mtl": '{"format": "gnn-mtl/checkpoint", "version": "1"}'},
    ],
)  # fmt: skip
def test_foreign_files_are_refused(tmp_path, new_model, metadata):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(FileFormatError, match="checkpoint of this package"):
        load_weights(path, new_model())


def test_files_of_other_models_are_refused(tmp_path, new_model, state):
    path, _ = state
    with pytest.raises(FileFormatError, match="weights of this model"):
        load_state(path, new_model(num_tasks=6))
    with pytest.raises(FileFormatError, match="weights of this model"):
        load_weights(path, new_model())  # a state is no weights file
    save_weights(tmp_path / "w.safetensors", new_model())
    with pytest.raises(FileFormatError, match="weights only"):
        load_state(tmp_path / "w.safetensors", new_model())
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent.state", new_model())


def test_a_full_disk_leaves_the_previous_checkpoint(state, monkeypatch, new_model):
    path, _ = state
    content = path.read_bytes()

    def full(tensors, file, metadata):
        np.zeros(10).tofile(file)  # half-written
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gnn_mtl.training._checkpoint.save_file", full)
    with pytest.raises(StorageError, match="No space left"):
        save_state(path, new_model(3), PARTS, VALUES)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["last.state"]

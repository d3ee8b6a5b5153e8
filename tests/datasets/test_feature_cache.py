"""Features on disk: found by content, checked when read, made once."""

import json
import multiprocessing
import os

import numpy as np
import pytest

from gnn_mtl._core.errors import StorageError, UsageError
from gnn_mtl.datasets import _feature_cache as room
from gnn_mtl.datasets import cached_features, planted, structural_features


@pytest.fixture(scope="module")
def graph():
    return planted(200, num_tasks=3, num_groups=1, num_communities=4, mixing=0.1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path))
    return tmp_path / "features"


@pytest.fixture
def made(monkeypatch):
    """Count what is computed."""
    calls = []

    def watch(*args, **options):
        calls.append(options)
        return structural_features(*args, **options)

    monkeypatch.setattr(room, "structural_features", watch)
    return calls


def only_file(folder):
    (file,) = folder.glob("*.npy")
    return file


def test_made_once_and_equal(graph, folder, made):
    expected = structural_features(graph, dim=5, method="spectral")
    for _ in range(2):
        found = cached_features(graph, dim=5)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.float32
    assert len(made) == 1
    np.testing.assert_array_equal(np.load(only_file(folder)), expected)


def test_memory_is_mapped_and_the_file_is_safe(graph, folder):
    found = cached_features(graph, dim=5)
    bottom = found
    while isinstance(bottom.base, np.ndarray):
        bottom = bottom.base
    assert isinstance(bottom, np.memmap)
    before = found[0, 0]
    found[0, 0] = 99
    assert cached_features(graph, dim=5)[0, 0] == before


def test_the_key_is_edges_and_every_argument(graph, folder, made):
    """Labels, splits and own features do not matter; edges, arguments and code do."""
    cached_features(graph, dim=4)
    cached_features(graph.select_tasks([1]).with_features(np.zeros((200, 2))), dim=4)
    cached_features(graph.csc, dim=4, method="spectral")
    assert len(made) == 1
    changes = ({"dim": 5}, {"method": "diffusion"}, {"method": "netmf"}, {"degrees": False},
               {"standardise": False}, {"seed": 1})  # fmt: skip
    for number, change in enumerate(changes, start=2):
        x = cached_features(graph, **({"dim": 4} | change))
        np.testing.assert_array_equal(x, structural_features(graph, **({"dim": 4} | change)))
        assert len(made) == number
    other = planted(200, num_tasks=3, num_groups=1, num_communities=4, mixing=0.1, seed=1)
    cached_features(other, dim=4)
    assert len(made) == len(changes) + 2
    assert len(list(folder.glob("*.json"))) == len(made)


def test_another_code_version_is_another_key(graph, made, monkeypatch):
    cached_features(graph, dim=4)
    monkeypatch.setattr(room, "code_version", lambda method: 77)
    cached_features(graph, dim=4)
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "json", "keys", "no json", "no array"])
def test_damage_is_found_and_mended(graph, folder, made, damage, caplog):
    expected = cached_features(graph, dim=4).copy()
    file = only_file(folder)
    if damage == "flip":
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "json":
        file.with_suffix(".json").write_text("{")
    elif damage == "keys":
        file.with_suffix(".json").write_text("[]")
    elif damage == "no json":
        file.with_suffix(".json").unlink()
    else:
        file.unlink()
    np.testing.assert_array_equal(cached_features(graph, dim=4), expected)
    assert len(made) == 2
    assert ("damaged" in caplog.text) == (not damage.startswith("no "))
    cached_features(graph, dim=4)
    assert len(made) == 2


def test_what_is_written_beside_it(graph, folder):
    cached_features(graph, dim=4, seed=3)
    file = only_file(folder)
    described = json.loads(file.with_suffix(".json").read_text())
    assert described["format"] == "gnn-mtl/features"
    assert described["version"] == 1
    assert (described["method"], described["dim"], described["seed"]) == ("spectral", 4, 3)
    assert described["bytes"] == file.stat().st_size
    assert not [name for name in os.listdir(folder) if name.startswith(f".{file.name}.")
                and not name.endswith(".lock")]  # fmt: skip


def test_a_folder_that_cannot_be_written(graph, tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("GNN_MTL_DATA", str(blocked))
    x = cached_features(graph, dim=4)
    np.testing.assert_array_equal(x, structural_features(graph, dim=4))
    assert "not kept" in caplog.text


def test_a_full_disk(graph, folder, made, monkeypatch, caplog):
    def full(*_):
        raise StorageError("no space")

    monkeypatch.setattr(room, "_write", full)
    x = cached_features(graph, dim=4)
    np.testing.assert_array_equal(x, structural_features(graph, dim=4))
    assert len(made) == 1
    assert "no space" in caplog.text


@pytest.mark.parametrize("arguments", [{"dim": 0}, {"dim": 201}, {"method": "magic"}])
def test_arguments_out_of_range(graph, folder, arguments):
    with pytest.raises(UsageError):
        cached_features(graph, **arguments)
    assert not list(folder.glob("*.npy"))


def _ask(queue):
    graph = planted(200, num_tasks=3, num_groups=1, num_communities=4, mixing=0.1)
    calls = []

    def watch(*args, **options):
        calls.append(1)
        return structural_features(*args, **options)

    room.structural_features = watch
    x = cached_features(graph, dim=6)
    queue.put((len(calls), float(np.abs(x).sum())))


@pytest.mark.slow
def test_one_process_computes_while_the_others_wait():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_ask, args=(queue,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(calls for calls, _ in answers) == 1
    assert len({total for _, total in answers}) == 1

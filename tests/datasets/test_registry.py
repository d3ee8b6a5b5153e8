"""Names and paths."""

import subprocess
import sys

import pytest

from gnn_mtl._core.errors import DatasetNotFoundError, FileFormatError, UsageError
from gnn_mtl.datasets import list_datasets, load_dataset, planted, save_folder, save_npz


def test_names_are_listed():
    assert {"debian-tags", "planted"} <= set(list_datasets())
    for name in ("debian-tags", "planted"):
        assert load_dataset(name).name == name


def test_planted_takes_arguments():
    text = "planted:num_nodes=300,num_tasks=6,num_groups=2,mixing=0.4,prevalence=0.1/0.4,split=task"
    wanted = planted(
        300, num_tasks=6, num_groups=2, mixing=0.4, prevalence=(0.1, 0.4), split="task"
    )
    assert load_dataset(text).fingerprint() == wanted.fingerprint()
    with pytest.raises(UsageError, match=r"num_node=3.*Did you mean num_nodes"):
        load_dataset("planted:num_node=3")
    with pytest.raises(UsageError, match=r"`num_nodes` should be a number.*'many'"):
        load_dataset("planted:num_nodes=many")
    with pytest.raises(UsageError, match="name=value"):
        load_dataset("planted:300")


@pytest.mark.parametrize("name", ["debian_tags", "no/such/file.npz", "plantd", ""])
def test_unknown_names(name):
    with pytest.raises(DatasetNotFoundError, match=r"debian-tags, planted.*neither"):
        load_dataset(name)


def test_near_names_are_offered():
    with pytest.raises(DatasetNotFoundError, match="Did you mean debian-tags"):
        load_dataset("debian-tag")
    with pytest.raises(FileNotFoundError):
        load_dataset("zzz")


def test_paths_and_roots(tmp_path):
    graph = planted(100, num_tasks=3, num_groups=1)
    save_npz(graph, tmp_path / "mine.npz")
    save_folder(graph, tmp_path / "big")
    save_npz(graph, tmp_path / "nested" / "nested.npz")
    for place in (tmp_path / "mine.npz", str(tmp_path / "big"), tmp_path / "nested"):
        assert load_dataset(place).fingerprint() == graph.fingerprint()
    for name in ("mine.npz", "big", "nested"):
        assert load_dataset(name, root=tmp_path).fingerprint() == graph.fingerprint()
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  mine.npz\n")
    with pytest.raises(FileFormatError, match="SHA-256"):
        load_dataset(tmp_path / "mine.npz")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileFormatError, match=r"meta\.json"):
        load_dataset(tmp_path / "other")


def test_arguments_that_nobody_takes_are_refused(tmp_path):
    save_folder(planted(100, num_tasks=3, num_groups=1), tmp_path / "pos")
    for name in ("pos:split=task", f"{tmp_path}/pos:split=task", "debian-tags:split=task"):
        with pytest.raises(UsageError, match=r"without arguments\. Found 'split=task'"):
            load_dataset(name, tmp_path)


def test_the_room_does_not_need_pyg():
    code = (
        "import sys, gnn_mtl.datasets as d; d.planted(50, num_tasks=2, num_groups=1);"
        "sys.exit('torch_geometric' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

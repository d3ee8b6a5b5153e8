"""OGB's sets from the command line, on miniatures in the real raw format."""

import importlib.util
from pathlib import Path

import pytest

from gnn_mtl.cli import main
from gnn_mtl.datasets import load_folder
from gnn_mtl.records import read_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = Path(__file__).parents[1] / "miniatures" / "make_ogb.py"
    spec = importlib.util.spec_from_file_location("make_ogb", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("ogb")
    module.make_all(str(folder))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_DATA", str(tmp_path / "cache"))


def test_train_on_proteins_needs_nothing_but_its_name(root, tmp_path, monkeypatch):
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")
    out = tmp_path / "run"
    arguments = ["--dataset", "ogbn-proteins", "--root", str(root), "--max-steps", "2"]
    assert main(["train", *arguments, "--out", str(out), "--no-download"]) == 0
    assert read_run(out).manifest.dataset["num_tasks"] == 112


def test_without_the_files_it_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GNN_MTL_NO_DOWNLOAD", "1")
    assert main(["train", "--dataset", "ogbn-proteins", "--root", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "https://snap.stanford.edu/ogb/data/nodeproppred/proteins.zip" in said
    assert "curl" in said
    assert main(["data", "fetch", "ogbn-protein"]) == 2
    assert "ogbn-proteins" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.LabelWarning")
def test_import_an_ogb_folder(root, tmp_path):
    out = tmp_path / "arxiv"
    assert main(["data", "import", str(root / "ogbn_arxiv"), "--out", str(out)]) == 0
    assert load_folder(out).num_tasks == 40
    assert main(["data", "verify", str(out)]) == 0

"""``gnn-mtl affinity`` and ``gnn-mtl group``: every method, from a dataset or a run."""

import numpy as np
import pytest

from gnn_mtl.affinity import LABEL_METHODS, MODEL_METHODS, label_cooccurrence
from gnn_mtl.cli._group import method_options
from gnn_mtl.datasets import load_dataset
from gnn_mtl.grouping import METHODS, group_tasks
from gnn_mtl.records import read_run
from gnn_mtl.tasks import Affinity, Grouping


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_label_methods_need_no_model(method, cli, stored, here):
    said = cli("affinity", "--dataset", stored, "--method", method, "--out", "a.npz")
    assert said.code == 0, said.err
    assert sorted(path.name for path in here.iterdir()) == ["a.npz"]
    found = Affinity.load("a.npz")
    measure = {"cooccurrence": "phi"}.get(method, method)
    expected = label_cooccurrence(load_dataset(str(stored)), measure)
    np.testing.assert_array_equal(found.values, expected.values)
    assert "6 tasks, 15 known pairs: median" in said.out


def test_from_a_dataset_a_base_model_is_trained_once(cli, stored, here):
    flags = ["affinity", "--dataset", stored, "--epochs", "1", "--device", "cpu"]
    said = cli(*flags, "--method", "tag", "--out", "tag.npz")
    assert said.code == 0, said.err
    assert "30 known ordered pairs: median relative loss" in said.out
    (folder,) = (here / "runs" / "opposed").iterdir()
    assert read_run(folder).done
    written = (folder / "DONE").stat().st_mtime_ns
    said = cli(*flags, "--method", "last_layer", "--debias", "--out", "cosine.npz")
    assert said.code == 0, said.err
    assert "trained before" in said.out
    assert (folder / "DONE").stat().st_mtime_ns == written
    assert "noise:" in said.out  # told from eight batches, though a step would take all nodes
    tag, cosine = Affinity.load("tag.npz"), Affinity.load("cosine.npz")
    assert not tag.symmetric
    assert cosine.details["debiased"] is True
    assert cosine.stderr is not None
    assert tag.details["run"].endswith(folder.name)

    said = cli("affinity", "--run", folder, "--method", "tag_linear", "--out", "linear.npz")
    assert said.code == 0, said.err
    linear = Affinity.load("linear.npz")
    np.testing.assert_allclose(linear.values, tag.values, rtol=0.2, atol=1e-5)
    said = cli("affinity", folder, "--method", "tag", "--step", "relative", "--lr", "0.02")
    assert said.code == 0, said.err

    # the printed next line works, and names the dataset
    said = cli("group", "tag.npz", "--rule", "quantile", "--edge-share", "0.3")
    assert said.code == 0, said.err
    assert f"gnn-mtl train --groups groups.json --dataset {stored}" in said.out


def test_affinity_refuses(cli, stored, here):
    for argv, words in [
        ([], "one of the two"),
        (["run", "--dataset", stored], "one of the two"),
        (["--dataset", stored, "--method", "tga"], "last_layer"),
        (["--dataset", stored, "--nodes", "0"], "--nodes"),
        (["--dataset", stored, "--method", "lift", "--epochs", "0"], "--epochs"),
    ]:
        said = cli("affinity", *argv)
        assert said.code == 2
        assert words in said.err + said.out
    assert cli("affinity", "nowhere").code in (2, 3)


def test_flags_of_other_methods_are_refused(cli, train, here):
    assert train("--out", "run", "--max-steps", "2").code == 0
    assert "--step and --lr belong" in cli("affinity", "run", "--lr", "0.1").err
    said = cli("affinity", "run", "--method", "tag", "--debias")
    assert said.code == 2
    assert "--debias" in said.err


def test_affinity_help_lists_every_method(cli):
    said = cli("affinity", "--help")
    assert said.code == 0
    text = "".join(said.out.split())
    for method in (*MODEL_METHODS, *LABEL_METHODS):
        assert method in text


@pytest.fixture
def measured(here):
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (6, 6))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1.0)
    affinity = Affinity(values, "example", label_names=tuple("abcdef"))
    affinity.save(here / "a.npz")
    return affinity


@pytest.mark.parametrize("method", METHODS)
def test_every_grouping_method(method, cli, measured):
    options = {}
    if "num_groups" in method_options(method):
        options["num_groups"] = 3
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    said = cli("group", "a.npz", "--method", method, *flags)
    assert said.code == 0, said.err
    assert Grouping.load("groups.json") == group_tasks(measured, method, **options)
    assert "gnn-mtl train --groups groups.json --dataset NAME|PATH" in said.out
    said = cli("group", "--method", method, "--help")
    assert said.code == 0
    for name in method_options(method):
        assert f"--{name.replace('_', '-')}" in said.out


def test_options_of_the_colouring_itself(cli, measured):
    said = cli("group", "a.npz", "--coloring", "tabu", "--iterations", "5", "--seed", "1")
    assert said.code == 0, said.err
    assert cli("group", "a.npz", "--method", "tabu", "--iterations", "5").code == 0
    said = cli("group", "a.npz", "--max-group-size", "2", "--out", "small.json")
    assert said.code == 0
    assert max(Grouping.load("small.json").sizes) <= 2


def test_group_refuses(cli, measured):
    said = cli("group", "a.npz", "--method", "tubu")
    assert said.code == 2
    assert "Perhaps you meant tabu" in said.err
    said = cli("group", "a.npz", "--num-groups", "2")
    assert said.code == 2
    assert "--method sdp, " in said.err
    assert ", random." in said.err
    assert "finds the number of groups itself" in said.err
    said = cli("group", "a.npz", "--method", "affinity_propagation", "--tau", "0.1")
    assert said.code == 2
    assert "--method coloring" in said.err
    assert cli("group", "a.npz", "--tau", "3").code == 2
    assert cli("group", "nowhere.npz").code == 3

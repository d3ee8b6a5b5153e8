"""``gnn-mtl affinity`` by subsets: predicted, trained, or read from their table."""

import json
import warnings

import numpy as np
import pytest

from gnn_mtl.affinity import SubsetSurrogate, pair_affinity, subset_affinity
from gnn_mtl.datasets import load_dataset
from gnn_mtl.tasks import Affinity, Grouping, SubsetTable

QUICK = ("--dim", "6", "--lam", "1", "--subset-size", "3")


@pytest.fixture
def base(train, here):
    assert train("--out", "run", "--max-steps", "4").code == 0
    return "run"


def test_from_a_run_to_groups(base, cli, stored, here):
    argv = ["affinity", "--run", base, "--method", "gradtag", *QUICK, "--out", "a.npz"]
    said = cli(*argv)
    assert said.code == 0, said.err
    assert "20 of 3 tasks, every pair in 4 to 4" in said.out
    assert "penalty:  1 (given)" in said.out
    assert "audit:    logits off by" in said.out
    assert "next:     gnn-mtl group a.npz --method sdp" in said.out
    table, found = SubsetTable.load("a.subsets.npz"), Affinity.load("a.npz")
    np.testing.assert_array_equal(found.values, subset_affinity(table).values)
    assert found.method == "gradtag"
    assert found.details["source"] == str(stored)
    assert found.label_names == load_dataset(str(stored)).label_names
    assert table.details["settings"]["dim"] == 6
    assert json.loads(json.dumps(table.details)) == table.details

    said = cli("group", "a.npz", "--method", "sdp", "--num-groups", "2")
    assert said.code == 0, said.err
    assert len(Grouping.load("groups.json").groups) == 2
    assert f"--groups groups.json --dataset {stored}" in said.out

    # the same settings read the table, whatever is made of it; others predict it anew
    written = (here / "a.subsets.npz").stat().st_mtime_ns
    said = cli(*argv, "--normalize", "relative")
    assert said.code == 0, said.err
    assert "there already, with these settings" in said.out
    assert (here / "a.subsets.npz").stat().st_mtime_ns == written
    assert Affinity.load("a.npz").unit == "relative_gain"
    said = cli(*argv, "--seed", "1")
    assert "there already" not in said.out
    assert SubsetTable.load("a.subsets.npz").seed == 1


def test_a_table_becomes_an_affinity(base, cli, here):
    assert cli("affinity", base, "--method", "gradtag", *QUICK, "--table", "t.npz").code == 0
    table = SubsetTable.load("t.npz")
    said = cli(
        "affinity", "t.npz", "--method", "higher_order", "--min-count", "2", "--out", "b.npz"
    )
    assert said.code == 0, said.err
    expected = subset_affinity(table, min_count=2)
    np.testing.assert_array_equal(Affinity.load("b.npz").values, expected.values)
    said = cli("affinity", "t.npz", "--method", "surrogate", "--out", "c.npz")
    assert said.code == 0, said.err
    assert "of the variation over held-out subsets" in said.out
    expected = SubsetSurrogate().fit(table).affinity()
    np.testing.assert_array_equal(Affinity.load("c.npz").values, expected.values)
    said = cli("affinity", "t.npz", "--method", "surrogate", "--kernel", "--subset-size", "2")
    assert said.code == 0, said.err
    assert Affinity.load("affinity.npz").details["scores"] == "surrogate:kernel"
    said = cli("affinity", "t.npz", "--method", "pairwise")
    assert said.code == 2
    assert "subsets of two" in said.err
    pairs = [
        "affinity",
        base,
        "--method",
        "gradtag",
        *QUICK,
        "--subset-size",
        "2",
        "--table",
        "p.npz",
    ]
    assert cli(*pairs).code == 0
    assert cli("affinity", "p.npz", "--method", "pairwise", "--out", "d.npz").code == 0
    expected = pair_affinity(SubsetTable.load("p.npz"), normalize="zscore")
    np.testing.assert_array_equal(Affinity.load("d.npz").values, expected.values)


def test_from_a_dataset_with_every_option(cli, stored, here):
    argv = ["affinity", "--dataset", stored, "--epochs", "1", "--device", "cpu"]
    said = cli(
        *argv, "--method", "gradtag", "--dim", "4", "--subset-size", "2", "--num-subsets", "15",
        "--mode", "pairs", "--negatives", "2", "--weighting", "pairs", "--parameters", "all",
        "--scoring", "forward", "--metric", "ap", "--nodes", "40", "--audits", "4", "--lam", "300",
    )  # fmt: skip
    assert said.code == 0, said.err
    table = SubsetTable.load("affinity.subsets.npz")
    assert (table.source, table.metric, table.num_subsets) == ("linearised", "ap", 15)
    assert table.details["parameters"] == "all"
    assert table.details["audit"][0]["subsets"] == 4
    assert 40 <= table.details["cost"]["nodes"] <= 2 * (40 + 32)


def test_trained_subsets_and_the_penalty_by_them(base, cli, here):
    argv = ["affinity", base, "--method", "trained", "--subset-size", "3", "--num-subsets", "6"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = cli(*argv, "--table", "real.npz", "--out", "r.npz")
    assert said.code == 0, said.err
    table = SubsetTable.load("real.npz")
    assert table.source == "trained"
    assert table.num_subsets == 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = cli(*argv, "--table", "real.npz", "--out", "r.npz")
    assert "there already, with these settings" in said.out
    for others in (("--seeds", "1"), ("--metric", "ap")):
        said = cli(*argv, "--table", "real.npz", *others)
        assert said.code == 2
        assert "not overwritten" in said.err
    said = cli(
        "affinity", base, "--method", "gradtag", "--dim", "6", "--subset-size", "3",
        "--trained", "real.npz",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert "(trained subsets)" in said.out


def test_trained_subsets_are_reused_on_another_machine(cli, stored, here):
    argv = (
        "affinity", "--dataset", stored, "--method", "trained", "--subset-size", "3",
        "--num-subsets", "2", "--table", "t.npz",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli(*argv, "--epochs", "1", "--device", "cpu").code == 0
        said = cli(*argv, "--epochs", "1", "--device", "auto")
        assert said.code == 0, said.err
        assert "there already, with these settings" in said.out
        said = cli(*argv, "--epochs", "2", "--device", "cpu")
    assert said.code == 2
    assert "not overwritten" in said.err
    assert set(SubsetTable.load("t.npz").details["settings"]["config"]) == {
        "dataset", "encoder", "head", "features", "train",
    }  # fmt: skip


def test_a_run_with_adapters_is_a_base_model_too(cli, train, here):
    Grouping.of([[0, 2, 4], [1, 3, 5]], 6).save("groups.json")
    adapters = ("--head.kind", "adapters", "--head.file", "groups.json")
    assert train(*adapters, "--out", "adapted", "--max-steps", "4").code == 0
    gradtag = ("affinity", "adapted", "--method", "gradtag", *QUICK)
    said = cli(*gradtag)
    assert said.code == 0, said.err
    assert SubsetTable.load("affinity.subsets.npz").known.any()
    said = cli(*gradtag, "--retrain", "--out", "no.npz")
    assert said.code == 2
    assert "models of subsets cannot have them" in said.err
    assert not list(here.glob("no.*"))


def test_subsets_that_cannot_be_predicted_are_trained(base, cli, here):
    argv = ["affinity", base, "--method", "gradtag", "--dim", "6", "--subset-size", "3"]
    said = cli(*argv, "--lam", "1e-5", "--tolerance", "1e-6", "--audits", "4", "--out", "a.npz")
    assert said.code == 0, said.err
    assert "are unknown (NaN)" in said.err
    assert not SubsetTable.load("a.subsets.npz").known.any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = cli(
            *argv, "--lam", "1e-5", "--tolerance", "1e-6", "--audits", "4", "--num-subsets", "5",
            "--retrain", "--out", "b.npz",
        )  # fmt: skip
    assert said.code == 0, said.err
    table = SubsetTable.load("b.subsets.npz")
    assert table.source == "one_step+trained"
    assert (table.known == table.masks).all()
    said = cli(*argv, "--lam", "1", "--trained", "b.subsets.npz", "--out", "c.npz")
    assert said.code == 2
    assert "holds predictions (one_step+trained)" in said.err
    assert not list(here.glob("c.*"))


def test_the_mean_of_two_base_models(train, cli, here):
    for seed in "01":
        assert train("--out", f"run{seed}", "--max-steps", "3", "--seed", seed).code == 0
    said = cli("affinity", "run0", "run1", "--method", "gradtag", *QUICK)
    assert said.code == 0, said.err
    assert SubsetTable.load("affinity.subsets.npz").stderr is not None


def test_help_and_refusals(base, cli, stored, here):
    said = cli("affinity", "--help")
    for method in ("gradtag", "trained", "higher_order", "pairwise", "surrogate"):
        assert method in said.out
    for method, flag in [("gradtag", "--lam"), ("trained", "--workers"), ("surrogate", "--kernel")]:
        said = cli("affinity", "--method", method, "--help")
        assert said.code == 0
        assert flag in said.out
    (here / "other.npz").write_bytes(b"something else")
    for argv, words in [
        (["--method", "gradtag"], "one of the two"),
        ([base, "--dataset", stored, "--method", "gradtag"], "one of the two"),
        (["--method", "trained"], "one of the two"),
        (["--dataset", stored, "--method", "trained", "--finetune"], "--finetune"),
        ([base, "--method", "gradtag", "--table", "other.npz"], "choose another"),
        ([base, "--method", "gradtag", "--dim", "0"], "--dim"),
        ([base, "--method", "gradtag", "--nodes", "0"], "--nodes"),
        ([base, "--method", "gradtag", "--subset-size", "7"], "`size`"),
    ]:
        said = cli("affinity", *argv)
        assert said.code == 2, argv
        assert words in said.err + said.out, argv
    assert cli("affinity", "other.npz", "--method", "higher_order").code == 3
    assert cli("affinity", "nowhere.npz", "--method", "higher_order").code == 3
    assert cli("affinity", "nowhere", "--method", "gradtag").code == 2
    (here / base / "checkpoints" / "best.safetensors").unlink()
    said = cli("affinity", base, "--method", "gradtag")
    assert said.code == 3
    assert "of one trained model" in said.err


def test_what_would_be_for_nothing_is_said_at_once(base, cli, here):
    gradtag = ("affinity", base, "--method", "gradtag", *QUICK)
    assert cli(*gradtag, "--table", "t.npz").code == 0
    for argv, words in [
        ((*gradtag, "--trained", "t.npz", "--table", "u.npz"), "holds predictions (one_step)"),
        ((*gradtag, "--negatives", "3"), "--mode pairs"),
        (("affinity", base, "--method", "trained", "--normalize", "relative"), "--baseline"),
        (("affinity", "t.npz", "--method", "surrogate", "--num-subsets", "9"), "--kernel"),
        (("affinity", "t.npz", "--method", "pairwise"), "--subset-size 2"),
    ]:
        said = cli(*argv, "--out", "no.npz")
        assert said.code == 2, argv
        assert words in said.err, argv
    assert not list(here.glob("no.*"))


def test_no_command_is_proposed_that_cannot_work(base, cli, here):
    assert cli("affinity", base, "--method", "gradtag", *QUICK, "--table", "t.npz").code == 0
    said = cli("affinity", "t.npz", "--method", "higher_order", "--min-count", "100")
    assert said.code == 0
    assert "gnn-mtl group" not in said.out
    assert "nothing is known to group by" in said.out
    table = SubsetTable.load("t.npz")
    SubsetTable(table.masks, np.where(table.masks, 1.0, np.nan), "trained").save("flat.npz")
    said = cli("affinity", "flat.npz", "--method", "surrogate")
    assert said.code == 0
    assert "do not vary" in said.out
    assert "nan" not in said.out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = cli(
            "affinity", base, "--method", "gradtag", *QUICK, "--num-subsets", "2", "--out", "f.npz"
        )
    assert said.code == 0
    assert "nan" not in said.out

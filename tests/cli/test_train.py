"""``gnn-mtl train``: flags, recipes, run folders, guards."""

import json
import resource

import pytest

from gnn_mtl.nn import GIN, MLPHead
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig
from gnn_mtl.runs import train as train_run
from gnn_mtl.schedulers import Coloring, Random, Static
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import Train

T = 6


def test_flags_make_the_configuration(train, here, stored):
    said = train(
        "--scheduler.kind", "coloring", "--scheduler.tau", "0.05", "--encoder.kind=gin",
        "--head.kind", "mlp", "--head.hidden-channels", "5", "--seed", "3", "--name", "mine",
        "--max-steps", "5", "--lr", "0.02", "--deterministic", "--encoder.hidden-channels", "7",
        "--out", "run",
    )  # fmt: skip
    assert said.code == 0, said.err
    config = RunConfig.load("run")
    assert config.scheduler == Coloring(tau=0.05)
    assert (config.encoder, config.head) == (GIN(hidden_channels=7), MLPHead(hidden_channels=5))
    assert (config.dataset, config.seed, config.name) == (str(stored), 3, "mine")
    expected = Train(
        epochs=4, batch_size=48, device="cpu", num_neighbors=(4,), eval_every=2, num_workers=0,
        log_every=1, probe_batch_size=96, max_steps=5, lr=0.02, deterministic=True,
        checkpoint_seconds=0,
    )  # fmt: skip
    assert config.train == expected
    assert "mine" in said.out
    assert "gnn-mtl report run" in said.out
    assert read_run("run", finished=True).summary.cost["steps"] == 5


def test_the_same_as_the_library(train, here, cli):
    train("--out", "one", "--scheduler.kind", "random", "--scheduler.num-groups", "2")
    config = RunConfig.load("one")
    assert config.scheduler == Random(num_groups=2)
    two = train_run(config, "two")
    assert read_run("one").summary.test == two.summary.test


def test_a_recipe_and_flags_on_top(cli, stored, here):
    (here / "recipe.toml").write_text(
        f'dataset = "{stored}"\nname = "mine"\n[train]\nmax_steps = 3\nbatch_size = 48\n'
        "[encoder]\nhidden_channels = 8\n[scheduler]\nkind = 'random'\nnum_groups = 2\n"
    )
    said = cli("train", "recipe.toml", "--seed", "4", "--scheduler.num-groups", "3")
    assert said.code == 0
    config = RunConfig.load("runs/opposed/mine-seed4")
    assert config.scheduler == Random(num_groups=3)
    assert config.train.max_steps == 3
    again = cli("train", "runs/opposed/mine-seed4", "--out", "again")
    assert again.code == 0
    assert read_run("again").summary.test == read_run("runs/opposed/mine-seed4").summary.test
    other = cli("train", "recipe.toml", "--scheduler.kind", "coloring", "--out", "other")
    assert other.code == 0
    assert RunConfig.load("other").scheduler == Coloring()


@pytest.mark.parametrize("text", ["[train]\nepoch = 3", "[scheduler]\nkind = 'colouring'"])
def test_a_bad_recipe(text, cli, here):
    (here / "recipe.toml").write_text(text)
    said = cli("train", "recipe.toml")
    assert said.code == 2
    assert "recipe.toml" in said.err
    assert "Perhaps you meant" in said.err


def test_seeds(train, here):
    said = train("--seeds", "0,2", "--max-steps", "2", "--out", "runs")
    assert said.code == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["joint-seed0", "joint-seed2"]
    assert "±" in said.out
    made = {p: p.stat().st_mtime_ns for p in (here / "runs").rglob("DONE")}
    assert train("--seeds", "0-2", "--max-steps", "2", "--out", "runs").code == 0
    assert len(list((here / "runs").rglob("DONE"))) == 3
    assert {p: p.stat().st_mtime_ns for p in made} == made


def test_groups_from_a_file(train, here, cli):
    grouping = Grouping.of([[0, 1], [2, 3], [4, 5]], T)
    grouping.save("groups.json")
    assert train("--groups", "groups.json", "--out", "run").code == 0
    assert read_run("run").refreshes[0].groups == grouping.groups
    assert RunConfig.load("run").scheduler == Static(groups=grouping.groups)
    flags = ["--scheduler.kind", "static", "--scheduler.file", "groups.json"]
    assert train(*flags, "--scheduler.scale", "mean", "--out", "spelt").code == 0
    assert RunConfig.load("spelt").scheduler == Static(groups=grouping.groups, scale="mean")
    assert cli("train", "run", "--scheduler.kind", "static", "--out", "again").code == 0
    assert read_run("again").summary.test == read_run("run").summary.test
    Grouping.of([[0, 1]], 2).save("few.json")
    said = train("--groups", "few.json", "--out", "few")
    assert said.code == 2
    assert "6 tasks" in said.err


def test_finished_folders_are_kept(train, here):
    assert train("--out", "run").code == 0
    before = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    for flags in ([], ["--resume"]):
        said = train("--out", "run", *flags)
        assert said.code == 3
        assert "finished" in said.err
    after = {path: path.read_bytes() for path in (here / "run").rglob("*") if path.is_file()}
    assert after == before


def test_a_folder_of_something_else_is_left_alone(train, here):
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("years of work")
    said = train("--out", "run")
    assert said.code == 2
    assert "thesis.tex" in said.err
    assert [path.name for path in (here / "run").iterdir()] == ["thesis.tex"]


def test_nothing_to_resume(train, here):
    said = train("--out", "run", "--resume")
    assert said.code == 3
    assert "no run to resume" in said.err
    assert not (here / "run").exists()


def test_a_run_that_loses_its_losses_stops_with_a_checkpoint(train, here):
    said = train("--lr", "1e30", "--out", "run")
    assert said.code == 4
    assert "warning: The loss of 6 task(s) is not finite" in said.err
    assert "Lower --train.lr" in said.err
    names = {path.name for path in (here / "run" / "checkpoints").iterdir()}
    assert {"last.safetensors", "last.state"} <= names
    record = read_run("run")
    assert not record.done
    assert record.summary is None
    assert json.loads((here / "run" / "config.json").read_text())["train"]["lr"] == 1e30


def test_a_full_disk_stops_a_run_that_can_go_on(train, cli, here):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        said = train("--out", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.code == 3
    assert "File too large" in said.err
    assert [path for path in (here / "run").rglob(".*") if path.name != ".lock"] == []
    assert not read_run("run").done
    assert cli("train", "run", "--resume").code == 0


def test_one_label(cli, here):
    cli("data", "make", "planted", "--out", "g.npz", "--num-tasks", "1", "--num-groups", "1",
        "--num-nodes", "200")  # fmt: skip
    flags = ["--encoder.hidden-channels", "8", "--max-steps", "2"]
    assert cli("train", "--dataset", "g.npz", "--out", "run", *flags).code == 0
    said = cli("affinity", "run")
    assert said.code == 0
    assert "1 tasks, 0 known pairs\n" in said.out
    assert cli("group", "affinity.npz").code == 0
    assert json.loads((here / "groups.json").read_text())["groups"] == [[0]]


@pytest.mark.parametrize(
    ("aggregator", "why"),
    [
        ("sum", "Expected finite gradients. Found 10 steps in a row"),
        ("upgrad", "Expected finite gradients. Found 10 steps in a row"),
        ("famo", "Expected finite gradients. Found 10 steps in a row"),
        ("adatask", "Expected finite losses"),  # its steps are finite however long gradients are
    ],
)
def test_a_run_whose_gradients_diverge_stops_with_a_checkpoint(aggregator, why, train, here):
    """At this rate the losses are finite and the length of the shared gradient is not."""
    said = train(
        "--lr", "1e11", "--train.warmup-steps", "0", "--encoder.norm", "none",
        "--encoder.dropout", "0", "--aggregator.kind", aggregator, "--out", "run",
    )  # fmt: skip
    assert said.code == 4, said.err
    assert why in said.err
    assert "'group0_task0'" in said.err
    assert (here / "run" / "checkpoints" / "last.state").exists()
    assert not read_run("run").done

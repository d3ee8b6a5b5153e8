"""Methods × seeds: finished runs are kept, interrupted ones resumed, others refused."""

import dataclasses

import pytest

from gnn_mtl._core.errors import ConfigError, RecordError
from gnn_mtl.nn import SAGE
from gnn_mtl.records import read_run
from gnn_mtl.runs import RunConfig, Sweep, run_one, run_sweep
from gnn_mtl.schedulers import Coloring, Joint, Random
from gnn_mtl.training import Train

RECIPE = """
dataset = "debian-tags"
seeds = [3, 1]

[train]
epochs = 7
lr = 0.1

[encoder]
kind = "sage"
hidden_channels = 16

[scheduler]
kind = "coloring"
tau = 0.1
refresh_period = 9

[[methods]]
name = "joint"
scheduler = { kind = "joint" }

[[methods]]
name = "slower"
scheduler = { kind = "coloring", refresh_period = 99 }
train = { lr = 0.01 }

[[methods]]
name = "plain"
"""


@pytest.fixture
def recipe(tmp_path):
    """Return a function from the text of a recipe to its path."""

    def write(text):
        (tmp_path / "recipe.toml").write_text(text)
        return tmp_path / "recipe.toml"

    return write


@pytest.fixture
def no_training(monkeypatch):
    """Fail if anything is trained."""
    for name in ("train", "train_shallow"):
        monkeypatch.setattr(f"gnn_mtl.runs._sweep.{name}", lambda *a, **k: pytest.fail("trained"))


# recipes


def test_methods_differ_from_what_is_common(recipe):
    sweep = Sweep.load(recipe(RECIPE))
    common = {
        "dataset": "debian-tags", "train": Train(epochs=7, lr=0.1),
        "encoder": SAGE(hidden_channels=16),
    }  # fmt: skip
    assert sweep.seeds == (3, 1)
    assert sweep.methods == (
        RunConfig(name="joint", scheduler=Joint(), **common),
        RunConfig(
            name="slower", scheduler=Coloring(tau=0.1, refresh_period=99),
            **(common | {"train": Train(epochs=7, lr=0.01)}),
        ),
        RunConfig(name="plain", scheduler=Coloring(tau=0.1, refresh_period=9), **common),
    )  # fmt: skip
    runs = sweep.runs()
    assert [(run.method, run.seed) for run in runs] == [
        (name, seed) for name in ("joint", "slower", "plain") for seed in (3, 1)
    ]
    assert dataclasses.replace(runs[1], seed=0) == sweep.methods[0]


def test_one_method_and_three_seeds_without_saying_so(recipe):
    assert Sweep.load(recipe("")) == Sweep(methods=(RunConfig(),), seeds=(0, 1, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = 3", "`seeds`.*3"),
        ("seeds = []", "`seeds`"),
        ('seeds = ["1"]', "`seeds`"),
        ("seeds = [true]", "`seeds`"),
        ("methods = 3", "`methods`.*3"),
        ("methods = []", "`methods`"),
        ("methods = [1]", "`methods`"),
        ("[methods]\nname = 'a'", "`methods`"),
        ("[[methods]]\nsede = 1", "unknown key `sede`.*`seed`"),
        ("[train]\nepoch = 1", "unknown key `train.epoch`"),
        ("[[methods]]\nscheduler = 3", "`scheduler`"),
        ("[[methods]]\n[[methods]]", "own `name`.*joint.*joint"),
        ("seed =", "recipe"),
    ],
)
def test_a_bad_recipe(text, said, recipe):
    path = recipe(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Sweep.load(path)
    assert str(caught.value).startswith(str(path))


def test_no_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        Sweep.load(tmp_path / "none.toml")


# running


@pytest.fixture
def configs(quick):
    """Two methods, one of them shallow, on two seeds."""
    short = quick(train={"max_steps": 4})
    methods = (
        dataclasses.replace(short, name="random", scheduler=Random(num_groups=2)),
        dataclasses.replace(short, name="spectral_lr"),
    )
    return Sweep(methods=methods, seeds=(0, 1)).runs()


def test_finished_runs_are_kept(configs, tmp_path, monkeypatch):
    records = run_sweep(configs, tmp_path)
    assert [record.path.name for record in records] == [
        "random-seed0", "random-seed1", "spectral_lr-seed0", "spectral_lr-seed1",
    ]  # fmt: skip
    assert [(r.method, r.seed, r.done) for r in records] == [
        (name, seed, True) for name in ("random", "spectral_lr") for seed in (0, 1)
    ]
    for name in ("train", "train_shallow"):
        monkeypatch.setattr(f"gnn_mtl.runs._sweep.{name}", lambda *a, **k: pytest.fail("trained"))
    again = run_sweep(configs[::-1], tmp_path)
    assert [r.summary.test for r in again] == [r.summary.test for r in records[::-1]]


@pytest.mark.parametrize("method", [0, 2], ids=["random", "spectral_lr"])
@pytest.mark.parametrize("done", [True, False])
def test_a_folder_of_another_configuration_is_refused(method, done, configs, tmp_path):
    config = configs[method]
    folder = run_one(config, tmp_path / "run").path
    if not done:
        (folder / "DONE").unlink()
    other = dataclasses.replace(config, dataset="debian-tags")
    with pytest.raises(RecordError, match=r"another configuration \(differs in dataset\)"):
        run_one(other, folder)
    assert read_run(folder).config["dataset"] == config.dataset
    assert (folder / "DONE").exists() == done


def test_interrupted_runs_go_on(configs, tmp_path, at_step, assert_same_run, monkeypatch):
    run_sweep(configs, tmp_path / "straight")

    def crash(*arguments, **options):
        raise RuntimeError("the power went")

    at_step(3, crash)
    with pytest.raises(RuntimeError, match="power"):
        run_sweep(configs, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr("gnn_mtl.runs._shallow.fit_logistic", crash)
        with pytest.raises(RuntimeError, match="power"):
            run_sweep(configs, tmp_path / "stopped")
    done = {folder.name: read_run(folder).done for folder in (tmp_path / "stopped").iterdir()}
    assert done == {"random-seed0": True, "random-seed1": True, "spectral_lr-seed0": False}
    for record in run_sweep(configs, tmp_path / "stopped"):
        assert_same_run(tmp_path / "straight" / record.path.name, record.path)


def test_two_runs_of_one_folder(configs, tmp_path):
    twins = [configs[0], dataclasses.replace(configs[0], train=Train(epochs=9))]
    with pytest.raises(ConfigError, match="own method name and seed"):
        run_sweep(twins, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_at_a_time_give_the_numbers_of_one(configs, tmp_path, assert_same_run, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_sweep(configs, tmp_path / "one")
    for record in run_sweep(configs, tmp_path / "two", jobs=2):
        assert_same_run(tmp_path / "one" / record.path.name, record.path)


@pytest.mark.slow
def test_errors_come_back_from_other_processes(configs, tmp_path):
    bad = [dataclasses.replace(config, dataset="debian-tag") for config in configs[:1]]
    with pytest.raises(ValueError, match="Did you mean debian-tags"):
        run_sweep(bad, tmp_path, jobs=2)

"""Every aggregator under every schedule, from a configuration to a run folder."""

import json
import math
from dataclasses import dataclass

import pytest

from gnn_mtl._core.errors import ConfigError, InterruptedRunError, ShapeError, UsageError
from gnn_mtl._core.optional import is_installed
from gnn_mtl.aggregation import (
    AGGREGATORS,
    FAMO,
    AdaTask,
    GramianMethod,
    NashMTL,
    ParetoMTL,
    PCGrad,
    Sum,
    UPGrad,
)
from gnn_mtl.cli._run_flags import parse_run_config
from gnn_mtl.nn import Adapters, GATv2, MLPHead
from gnn_mtl.runs import Features, RunConfig, train
from gnn_mtl.runs._build import build_hooks
from gnn_mtl.schedulers import Coloring, Joint, Random, Selective, Separate, Single
from gnn_mtl.tasks import Grouping
from gnn_mtl.training import AggregatorHooks

SCHEDULERS = {
    "joint": Joint(),
    "coloring": Coloring(tau=-0.1, refresh_period=4),
    "random": Random(num_groups=2, refresh_period=4),
    "selective": Selective(),
}


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [
        (kind, scheduler)
        for kind in sorted(set(AGGREGATORS) - {"sum"})
        for scheduler in SCHEDULERS
        if scheduler in ("joint", "coloring") or kind in ("adatask", "famo", "upgrad", "gradvac")
    ],
)
def test_any_schedule_with_any_aggregator(kind, scheduler, quick, graph, tmp_path):
    if kind == "torchjd" and not is_installed("torchjd"):
        pytest.skip("TorchJD is an extra")
    config = quick(scheduler=SCHEDULERS[scheduler], aggregator=AGGREGATORS[kind]())
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert config.method == f"{scheduler}+{'torchjd-upgrad' if kind == 'torchjd' else kind}"
    run = train(config, tmp_path / "run", graph=graph)
    cost = run.summary.cost
    assert math.isfinite(run.summary.test["ap"])
    assert cost["skipped_losses"] == cost["skipped_updates"] == 0
    measures = build_hooks(config, graph).gramian_mode(0) is not None
    if scheduler == "joint":
        assert cost["probe_label_gradients"] == (cost["label_gradients"] if measures else 0)
        assert cost["backwards"] == cost["steps"] * (
            1 + (kind == "adatask") * (graph.num_tasks - 1)
        )


def test_the_sum_is_no_aggregator(quick, graph, tmp_path):
    """The default leaves every bit as it was, and an older run without the key goes on."""
    assert build_hooks(quick(), graph) is None
    assert quick().aggregator == Sum()
    assert quick().method == "joint"
    config = quick().to_dict()
    del config["aggregator"]
    assert RunConfig.from_dict(config) == quick()


def test_the_gramian_and_how_often_are_options_of_the_training(quick, graph, tmp_path):
    config = quick(aggregator=UPGrad(), train={"gramian": "full", "gramian_every": 4})
    hooks = build_hooks(config, graph)
    assert isinstance(hooks, AggregatorHooks)
    assert (hooks.mode, hooks.every) == ("full", 4)
    cost = train(config, tmp_path / "run", graph=graph).summary.cost
    assert cost["probe_label_gradients"] == cost["label_gradients"] / 4


def test_a_preference_is_of_the_graphs_labels(quick, graph, tmp_path):
    preference = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    config = quick(aggregator=UPGrad(preference=preference))
    assert build_hooks(config, graph).aggregator.preference.tolist() == list(preference)
    assert build_hooks(config, graph, (4, 1)).aggregator.preference.tolist() == [5.0, 2.0]
    short = quick(aggregator=UPGrad(preference=(1.0, 2.0)))
    for tasks in (None, (0, 1)):
        with pytest.raises(ShapeError, match="one number a task, 6"):
            build_hooks(short, graph, tasks)
    with pytest.raises(ShapeError):
        train(short, tmp_path / "run", graph=graph)
    assert not (tmp_path / "run").exists()


def test_models_of_groups_each_have_their_own(quick, graph, tmp_path):
    plan = Separate(groups=((0, 1, 2), (3, 4, 5)))
    runs = [
        train(quick(scheduler=plan, aggregator=one), tmp_path / one.kind, graph=graph)
        for one in (Sum(), NashMTL())
    ]
    assert runs[0].summary.test != runs[1].summary.test
    assert runs[1].summary.cost["probe_label_gradients"] > 0


def test_a_model_of_one_label_has_nothing_to_aggregate(quick):
    with pytest.raises(UsageError, match="several labels"):
        quick(scheduler=Single(), aggregator=PCGrad())


@pytest.mark.parametrize("kind", ["upgrad", "gradnorm", "famo", "adatask"])
@pytest.mark.parametrize(
    "change",
    [
        {"features": Features(dim=4, labels=True)},
        {"head": MLPHead(hidden_channels=4)},
        {"head": Adapters(groups=((0, 1, 2), (3, 4, 5)))},
        {"encoder": GATv2(hidden_channels=8)},
        {"train": {"autocast": "bf16", "pos_weight": "sqrt", "grad_clip": 0.5}},
    ],
)
def test_with_other_inputs_heads_and_encoders(kind, change, quick, graph, tmp_path):
    aggregator = AGGREGATORS[kind]()
    if kind == "adatask" and "train" in change:  # exact steps are not clipped
        aggregator = AdaTask(moments="layer")
    config = quick(scheduler=SCHEDULERS["random"], aggregator=aggregator, **change)
    run = train(config, tmp_path / "run", graph=graph)
    assert math.isfinite(run.summary.test["ap"])
    assert run.summary.cost["skipped_losses"] == run.summary.cost["skipped_updates"] == 0


def test_an_unknown_one_is_named_with_those_that_exist(quick):
    for wrong in ("pcgard", "moco"):
        with pytest.raises(ConfigError) as error:
            RunConfig.from_dict({"aggregator": {"kind": wrong}})
        assert all(kind in str(error.value) for kind in AGGREGATORS)
        assert "gnn-mtl[jd]" in str(error.value)
    with pytest.raises(ConfigError, match="Perhaps you meant `pcgrad`"):
        RunConfig.from_dict({"aggregator": {"kind": "pcgard"}})
    with pytest.raises(ConfigError, match=r"aggregator\.alhpa"):
        RunConfig.from_dict({"aggregator": {"kind": "gradops", "alhpa": 1}})


@pytest.mark.parametrize("aggregator", [FAMO(), AdaTask(), PCGrad()], ids=lambda a: a.kind)
def test_an_interrupted_run_goes_on_bit_for_bit(
    aggregator, quick, straight, tmp_path, at_step, terminate, assert_same_run
):
    config = quick(scheduler=SCHEDULERS["coloring"], aggregator=aggregator)
    at_step(5, terminate)
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "cut")
    train(config, tmp_path / "cut", resume=True)
    assert_same_run(straight(config), tmp_path / "cut")


def test_objectives_from_a_file_are_in_the_record(quick, graph, tmp_path):
    Grouping.of([[0, 1, 5], [2, 3, 4]], graph.num_tasks).save(tmp_path / "groups.json")
    default = quick(aggregator=ParetoMTL(groups=((0,), (1, 2, 3, 4, 5)), index=2))
    flags = ["--aggregator.file", str(tmp_path / "groups.json")]
    for start, more in ((quick(), ["--aggregator.kind", "pareto_mtl"]), (default, [])):
        config = parse_run_config([*more, *flags], start, "train")
        assert config.to_dict()["aggregator"]["groups"] == [[0, 1, 5], [2, 3, 4]]
        assert config.to_dict()["aggregator"]["file"] is None
        assert config.aggregator.index == start.to_dict()["aggregator"].get("index", 0)
    (tmp_path / "groups.json").unlink()
    run = train(config, tmp_path / "run", graph=graph)
    assert RunConfig.load(run.path) == config


def test_weights_that_are_not_finite_name_the_aggregator(quick, graph, tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Unsound(GramianMethod):
        kind = "unsound"

        def solve(self, gramian, **_):
            return gramian.diagonal() * math.nan

    with pytest.raises(UsageError, match="unsound returned weights that are not finite"):
        train(quick(aggregator=Unsound()), tmp_path / "run", graph=graph)


def test_an_own_aggregator_goes_on_in_python(quick, graph, tmp_path, at_step, terminate):
    @dataclass(frozen=True, kw_only=True)
    class Own(GramianMethod):
        kind = "own"

        def solve(self, gramian, **_):
            return gramian.diagonal() ** -0.5

    config = quick(aggregator=Own())
    at_step(5, terminate)
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "run", graph=graph)
    with pytest.raises(ConfigError, match=r"not part of the package.*resume=True"):
        RunConfig.load(tmp_path / "run")
    assert math.isfinite(
        train(config, tmp_path / "run", graph=graph, resume=True).summary.test["ap"]
    )

"""The door to TorchJD: every method, options, state, randomness, and the missing extra."""

import importlib.util
import sys
from dataclasses import fields
from typing import get_args

import pytest
import torch

from gnn_mtl._core.errors import MissingExtraError, ShapeError, UsageError
from gnn_mtl.aggregation import TorchJD
from gnn_mtl.aggregation._torchjd import JDMethod
from gnn_mtl.aggregation._torchjd_methods import METHODS

jd = pytest.importorskip("torchjd.aggregation")

ALL = list(get_args(JDMethod))
STATEFUL = [name for name in ALL if METHODS[name].remembers]
RANDOM = ["graddrop", "gradvac", "pcgrad", "random"]
TASKS = [1, 3, 2, 7, 5]
LOSSES = torch.tensor([0.5, 0.2, 0.9, 0.4, 0.3])


def rows(seed, tasks=5, width=11):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(tasks, width, generator=draw, dtype=torch.float64)


def build(method, num_tasks=8, seed=0, norm="native", **options):
    return TorchJD(method=method, norm=norm, **options).build(num_tasks, seed)


def test_the_table_and_the_flag_name_the_same_methods():
    assert ALL == list(METHODS) == sorted(METHODS)


def test_everything_torchjd_has_is_here_or_left_out_on_purpose():
    scalarization = importlib.import_module("torchjd.scalarization")
    bases = {"Aggregator", "GramianWeightedAggregator", "Scalarizer", "WeightedAggregator"}
    there = {
        name.removesuffix("Weighting")
        for name in {*jd.__all__, *scalarization.__all__} - bases - {"Weighting"}
    }
    here = {method.name.removesuffix("Weighting") for method in METHODS.values()}
    left_out = {"CRMOGM", "MoDo", "SDMGrad", "DWA", "FAMO", "IMTLL", "UW"}
    assert there == here | left_out
    assert "MoDo and SDMGrad" in TorchJD.__doc__


REFERENCES = {
    "aligned_mtl": lambda: jd.AlignedMTL(),
    "cagrad": lambda: jd.CAGrad(c=0.5),
    "config": lambda: jd.ConFIG(),
    "dualproj": lambda: jd.DualProj(),
    "excess_mtl": lambda: jd.ExcessMTL(),
    "fairgrad": lambda: jd.FairGrad(alpha=1.0),
    "imtl_g": lambda: jd.IMTLG(),
    "krum": lambda: jd.Krum(n_byzantine=0),
    "mean": lambda: jd.Mean(),
    "mgda": lambda: jd.MGDA(),
    "nash_mtl": lambda: jd.NashMTL(n_tasks=5),
    "pcd": lambda: jd.PCD(),
    "sum": lambda: jd.Sum(),
    "trimmed_mean": lambda: jd.TrimmedMean(trim_number=1),
    "upgrad": lambda: jd.UPGrad(),
}


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@pytest.mark.parametrize("method", REFERENCES)
def test_the_direction_is_torchjds(method):
    theirs = REFERENCES[method]()(rows(1))
    assert torch.allclose(build(method)(rows(1), tasks=TASKS), theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["gradvac", "pcgrad"])
def test_random_methods_without_conflict_are_the_sum(method):
    alike = rows(1).abs()
    assert torch.allclose(build(method)(alike), alike.sum(dim=0))


@pytest.mark.parametrize("method", ["cosmos", "geometric_mean", "pbi", "stch"])
def test_scalarizers_give_the_gradient_of_their_loss(method):
    scalarization = importlib.import_module("torchjd.scalarization")
    ones = torch.ones(5, dtype=torch.float64)
    made = {
        "cosmos": lambda: scalarization.COSMOS(1.0, ones / 5),
        "geometric_mean": lambda: scalarization.GeometricMean(),
        "pbi": lambda: scalarization.PBI(5.0, ones / 5),
        "stch": lambda: scalarization.STCH(0.1, ones / 5),
    }[method]()
    aggregator = build(method)
    assert (aggregator.needs, aggregator.acts_on) == ("losses", "losses")
    found = aggregator.weights(losses=LOSSES, tasks=TASKS)
    step, base = 1e-6, LOSSES.double()
    for i in range(5):  # central differences
        e = torch.zeros(5, dtype=torch.float64)
        e[i] = step
        slope = (made(base + e) - made(base - e)) / (2 * step)
        assert float(found[i]) == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


def test_the_preference_goes_by_task_id():
    preference = tuple(float(1 + i) for i in range(8))
    wanted = torch.tensor([preference[i] for i in TASKS], dtype=torch.float64)
    theirs = jd.UPGrad(pref_vector=wanted / wanted.sum())(rows(1))
    found = build("upgrad", preference=preference)(rows(1), tasks=TASKS)
    assert torch.allclose(found, theirs)
    constant = build("constant", preference=preference)(rows(1), tasks=TASKS)
    assert torch.allclose(constant, wanted / wanted.mean() @ rows(1))


def test_options_reach_torchjd():
    theirs = jd.CAGrad(c=0.1)(rows(1))
    assert torch.allclose(build("cagrad", options=("c=0.1",))(rows(1)), theirs, rtol=1e-6)
    theirs = jd.AlignedMTL(scale_mode="rmse")(rows(1))
    assert torch.allclose(build("aligned_mtl", options=("scale_mode=rmse",))(rows(1)), theirs)
    theirs = jd.TrimmedMean(trim_number=2)(rows(1))
    assert torch.allclose(build("trimmed_mean", options=("trim_number = 2",))(rows(1)), theirs)
    leaky = build("graddrop", options=("leak=1.0",))(rows(1))
    assert torch.allclose(leaky, rows(1).sum(dim=0))


@pytest.mark.parametrize("method", ["upgrad", "dualproj", "cagrad"])
def test_short_gradients_are_not_taken_for_none(method):
    one, other = build(method)(rows(1)), build(method)(1e-6 * rows(1))
    assert torch.allclose(one, 1e6 * other, rtol=1e-5)


@pytest.mark.parametrize("method", ALL)
def test_runs_resume_and_global_randomness_stays(method):
    one, other = build(method, seed=3), build(method, seed=3)
    state = torch.get_rng_state()
    for seed in range(2):
        one(rows(seed), tasks=TASKS, losses=LOSSES)
        one(rows(seed, 4), tasks=[6, 4, 0, 1], losses=LOSSES[:4])
    other.load_state_dict(one.state_dict())
    for seed in range(3, 5):
        for tasks in (TASKS, [6, 4, 0, 1]):
            given = rows(seed, len(tasks)), LOSSES[: len(tasks)]
            a = one(given[0], tasks=tasks, losses=given[1])
            b = other(given[0], tasks=tasks, losses=given[1])
            assert bool(a.isfinite().all())
            assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", RANDOM)
def test_random_methods_follow_the_seed(method):
    found = [build(method, seed=seed)(rows(2)) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    aggregator = build(method, seed=1)
    aggregator(rows(2))
    torch.manual_seed(77)  # the global state does not matter either
    repeated = build(method, seed=1)
    repeated(rows(2))
    assert torch.equal(aggregator(rows(3)), repeated(rows(3)))


@pytest.mark.parametrize("method", STATEFUL)
def test_state_is_kept_for_each_set_of_tasks(method):
    both, alone = build(method), build(method)
    for seed in range(3):
        both(rows(seed), tasks=TASKS)
        both(rows(seed + 10, 2), tasks=[0, 4])
        if method == "gradvac":  # the same calls, so the same permutations
            alone.calls = both.calls - 2
        alone(rows(seed), tasks=TASKS)
        assert both.calls == 2 * seed + 2
    alone.calls = both.calls
    fresh = build(method)
    fresh.calls = both.calls
    found, kept = (each(rows(9), tasks=TASKS) for each in (both, alone))
    assert torch.equal(found, kept)
    assert not torch.allclose(found, fresh(rows(9), tasks=TASKS))


def test_the_set_that_has_not_come_for_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr("gnn_mtl.aggregation._torchjd.REMEMBERED", 2)
    aggregator = build("pcd")
    for tasks in ([0, 1], [2, 3], [0, 1], [4, 5]):
        aggregator(rows(1, 2), tasks=tasks)
    assert list(aggregator.door.kept) == [(0, 1), (4, 5)]


def test_a_warm_up_survives_a_resume():
    options = {"options": ("n_warmup_steps=2",)}
    one, other = build("excess_mtl", **options), build("excess_mtl", **options)
    for seed in range(3):
        one(rows(seed))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(rows(4)), other(rows(4)))


def test_smoothing_averages_the_weights():
    plain, smooth = build("mgda"), build("mgda", smoothing=0.75)
    grams = [rows(seed) @ rows(seed).T for seed in (1, 2)]
    first, second = (plain.weights(gramian) for gramian in grams)
    assert torch.allclose(smooth.weights(grams[0]), first)
    assert torch.allclose(smooth.weights(grams[1]), 0.75 * first + 0.25 * second)
    again = build("mgda", smoothing=0.75)
    again.load_state_dict(smooth.state_dict())
    assert torch.equal(again.weights(grams[0]), smooth.weights(grams[0]))


@pytest.mark.parametrize("method", ["config", "trimmed_mean", "graddrop", "excess_mtl"])
def test_methods_on_gradients_leave_zero_ones_out_and_keep_the_type(method):
    given = rows(1).float()
    padded = torch.cat([given, torch.zeros(1, 11)])
    one, other = build(method), build(method)
    found = one.rows(padded, tasks=[0, 1, 2, 3, 4, 5])
    assert found.dtype == torch.float32
    assert build(method).rows(given.bfloat16()).dtype == torch.bfloat16
    assert not found[5].any()
    assert torch.equal(found[:5], other.rows(given, tasks=[0, 1, 2, 3, 4]))
    assert not build(method).rows(torch.zeros(2, 4)).any()


@pytest.mark.parametrize("norm", ["sum", "unit"])
@pytest.mark.parametrize("method", ["config", "trimmed_mean", "upgrad"])
def test_the_norm_holds_for_rows_and_weights(method, norm):
    wanted = float(rows(1).sum(dim=0).norm()) if norm == "sum" else 1.0
    assert float(build(method, norm=norm)(rows(1)).norm()) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("method", "options", "least"),
    [
        ("krum", (), 3),
        ("krum", ("n_byzantine=1",), 4),
        ("krum", ("n_selected=5",), 5),
        ("trimmed_mean", (), 3),
        ("trimmed_mean", ("trim_number=2",), 5),
    ],
)
def test_too_few_tasks_to_choose_from_are_averaged(method, options, least):
    for tasks in range(1, least):
        found = build(method, options=options)(rows(1, tasks))
        assert torch.allclose(found, rows(1, tasks).mean(dim=0))
    if least < 5:  # all five selected are the mean too
        enough = build(method, options=options)(rows(1, least))
        assert not torch.allclose(enough, rows(1, least).mean(dim=0))


def test_nash_of_a_task_alone_is_that_task():
    assert build("nash_mtl").weights(torch.tensor([[4.0]])).tolist() == [1.0]


def test_what_torchjd_cannot_do_is_a_usage_error():
    with pytest.raises(UsageError, match="geometric_mean failed"):
        build("geometric_mean").weights(losses=torch.tensor([0.5, -1.0]))
    with pytest.raises(UsageError, match="no finite result for 2 tasks"):
        build("cosmos", options=("lambda_=inf",)).weights(losses=torch.tensor([0.5, 1.0]))
    assert bool(build("geometric_mean").weights(losses=torch.tensor([0.0, 1.0])).isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradops"}, "`method` should be one of aligned_mtl, cagrad"),
        ({"method": "cagrad", "options": ("d=1",)}, "c, norm_eps"),
        ({"method": "cagrad", "options": ("c",)}, "`name=value`"),
        ({"method": "cagrad", "options": ("c=1", "c=2")}, "at most once"),
        ({"method": "cagrad", "options": ("c=much",)}, "`c` should be a number"),
        ({"method": "krum", "options": ("n_selected=1.5",)}, "a whole number"),
        ({"method": "aligned_mtl", "options": ("scale_mode=max",)}, "min, median, rmse"),
        ({"method": "mean", "options": ("c=1",)}, r"\(it has none\)"),
        ({"method": "mgda", "preference": (1.0,)}, "takes no `preference`"),
        ({"method": "upgrad", "preference": (1.0, 0.0)}, "positive"),
        ({"method": "upgrad", "smoothing": 1.0}, r"in \[0, 1\)"),
        ({"method": "config", "smoothing": 0.5}, "leave it at 0"),
        ({"method": "config", "norm": "tasks"}, "about weights"),
        ({"method": "upgrad", "norm": "long"}, "`norm`"),
    ],
)
def test_the_configuration_is_checked(options, message):
    with pytest.raises(UsageError, match=message):
        TorchJD(**options)


def test_what_only_torchjd_can_check_is_checked_when_built():
    with pytest.raises(UsageError, match="TorchJD refuses these options of cagrad"):
        build("cagrad", options=("c=-1",))
    with pytest.raises(ShapeError, match="one number a task"):
        build("upgrad", preference=(1.0, 2.0))


def test_the_state_of_another_method_is_refused():
    with pytest.raises(UsageError, match="state of TorchJD's mgda"):
        build("mgda").load_state_dict(build("upgrad").state_dict())


def test_every_field_says_what_it_is():
    assert TorchJD().to_dict()["kind"] == "torchjd"
    assert {field.name for field in fields(TorchJD)} == {
        "norm", "method", "options", "preference", "smoothing"
    }  # fmt: skip


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    config = TorchJD(method="upgrad")
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(MissingExtraError, match=r"needs `torchjd`.*pip install 'gnn-mtl\[jd\]'"):
        config.build(3)


def test_without_a_solver_the_error_says_how_to_install_it(monkeypatch):
    def without(*_, **__):
        raise ImportError("no quadprog")

    monkeypatch.setattr(jd, "UPGradWeighting", without)
    with pytest.raises(MissingExtraError, match=r"a solver.*pip install 'gnn-mtl\[jd\]'"):
        TorchJD(method="upgrad").build(3)


def test_the_room_is_imported_without_torchjd(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchjd"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("_torchjd_methods", "_torchjd"):
        spec = importlib.util.find_spec(f"gnn_mtl.aggregation.{name}")
        fresh = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)
    assert fresh.TorchJD(method="cagrad", options=("c=0.4",)).to_dict()["method"] == "cagrad"

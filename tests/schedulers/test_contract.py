"""What every ``TaskScheduler`` promises."""

import copy
import itertools
import json
import warnings

import pytest
import safetensors.torch
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.schedulers import (
    Coloring,
    ColoringScheduler,
    Joint,
    JointScheduler,
    Random,
    RandomGroupsScheduler,
    Selective,
    SelectiveScheduler,
    Static,
    StaticScheduler,
)
from gnn_mtl.tasks import Grouping

T = 6
BUILDERS = {
    "joint": lambda: JointScheduler(T),
    "static": lambda: StaticScheduler(T, Grouping.of([[0, 1], [2, 3, 4], [5]], T), order=(2, 0, 1)),
    "overlapping": lambda: StaticScheduler(T, Grouping.of([[0, 1, 5], [1, 2, 3, 4]], T)),
    "random": lambda: RandomGroupsScheduler(T, sizes=(3, 2, 1), refresh_period=5, seed=3),
    "random once": lambda: RandomGroupsScheduler(T, sizes=(3, 3), refresh_period=None),
    "matched": lambda: RandomGroupsScheduler(
        T, follow=[(0, (6,)), (4, (2, 2, 2)), (11, (5, 1, 2))], refresh_period=4
    ),
    "coloring": lambda: ColoringScheduler(T, refresh_period=7, tau=0.1),
    "coloring singles": lambda: ColoringScheduler(T, refresh_period=3, tau=-1.0),
    "coloring annealed": lambda: ColoringScheduler(
        T, refresh_period=4, tau=0.05, ema_beta=0.5, tau_schedule="log", warmup_steps=6,
        anneal_steps=20, coloring="dsatur", min_coverage=2, reweight=True, order="random",
        scale="mean", seed=5,
    ),
    "coloring warm": lambda: ColoringScheduler(
        T, refresh_period=3, max_refresh_period=12, low_churn=0.3, high_churn=0.6, tau=0.0,
        ema_beta=0.5, rule="density", edge_share=0.4, hysteresis=0.05, coloring="tabu",
        coloring_iterations=50, warm_start=True, ema_of="sketch", sketch_dim=3,
    ),
    "coloring capped": lambda: ColoringScheduler(
        T, refresh_period=4, tau=0.1, ema_beta=0.0, rule="knn", num_neighbors=2,
        coloring="equitable", max_group_size=2, fill=True, ema_of="gramian",
    ),
    "coloring merged": lambda: ColoringScheduler(
        T, refresh_period=4, rule="quantile", edge_share=0.9, max_colors=2, warmup_steps=5,
        ema_beta=0.5, coloring="iterated_greedy", seed=2,
    ),
    "coloring active": lambda: ColoringScheduler(
        T, refresh_period=4, tau=0.1, ema_source="active", ema_beta=0.5, warm_start=True,
        hysteresis=0.02, max_refresh_period=8,
    ),
    "coloring both": lambda: ColoringScheduler(
        T, refresh_period=4, tau=0.1, ema_source="both", ema_of="sketch", sketch_dim=3,
        warmup_steps=5, use="all_groups_per_batch",
    ),
    "static outer": lambda: StaticScheduler(
        T, Grouping.of([[0, 1], [2, 3, 4], [5]], T), use="inner_outer", outer_lr=0.3, seed=1
    ),
    "static all": lambda: StaticScheduler(
        T, Grouping.of([[0, 1, 5], [1, 2, 3, 4]], T), use="all_groups_per_batch", reweight=True,
        scale="mean",
    ),
    "random weights": lambda: RandomGroupsScheduler(
        T, sizes=(3, 2, 1), refresh_period=5, seed=3, use="group_weights"
    ),
    "coloring all": lambda: ColoringScheduler(
        T, refresh_period=5, tau=0.1, use="all_groups_per_batch", seed=4
    ),
    "selective": lambda: SelectiveScheduler(
        T, warmup_steps=6, regroup_period=4, warmup_group_size=2, ema_beta=0.5, seed=3
    ),
    "selective singles": lambda: SelectiveScheduler(
        T, warmup_steps=3, regroup_period=5, warmup_groups="singletons", credit_last=False
    ),
    "selective turns": lambda: SelectiveScheduler(
        T, warmup_steps=8, regroup_period=2, use="one_group_per_batch", warmup_group_size=3
    ),
}  # fmt: skip
pytestmark = [
    pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.CoverageWarning"),
    pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning"),
]


@pytest.fixture(params=BUILDERS)
def build(request):
    return BUILDERS[request.param]


def test_active_tasks_are_sorted_ids_and_every_task_has_its_turn(build, drive):
    active = drive(build(), 60)
    assert all(list(tasks) == sorted(set(tasks)) for tasks in active)
    assert all(set(tasks) <= set(range(T)) and tasks for tasks in active)
    for start in range(0, 45, 5):
        assert {task for tasks in active[start : start + 15] for task in tasks} == set(range(T))


def test_the_same_arguments_give_the_same_schedule(build, drive):
    assert drive(build(), 40) == drive(build(), 40)


def test_global_random_states_are_not_touched(build, drive):
    before = torch.random.get_rng_state()
    drive(build(), 30)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_repr_builds_it_again(build, drive):
    schedule = build()
    again = eval(repr(schedule))  # noqa: S307
    assert repr(again) == repr(schedule)
    assert drive(again, 30) == drive(schedule, 30)


def test_peek_says_what_comes_and_changes_nothing(build, drive):
    schedule = build()
    for _ in range(30):
        if schedule.needs_probe():
            assert schedule.peek(5) == []
            drive(schedule, 1)
            continue
        state = copy.deepcopy(schedule.state_dict())
        ahead = schedule.peek(4)
        assert schedule.peek(2) == ahead[:2]
        assert schedule.peek(0) == []
        assert 1 <= len(ahead) <= 4
        assert schedule.state_dict().keys() == state.keys()
        assert schedule.step == state["step"]
        twin = copy.deepcopy(schedule)
        for tasks in ahead:
            assert twin.active_tasks() == tasks
        assert schedule.active_tasks() == ahead[0]
    with pytest.raises(UsageError, match="number of steps"):
        schedule.peek(-1)


def test_peek_at_the_start_of_a_window_reports_nothing():
    schedule = BUILDERS["random"]()
    assert len(schedule.peek(20)) == 5
    assert schedule.pop_reports() == []


def test_a_given_step_must_be_the_next(build, drive):
    schedule = build()
    drive(schedule, 3)
    assert schedule.step == 3
    for wrong in (2, 4):
        with pytest.raises(UsageError, match="at step 3"):
            schedule.active_tasks(wrong)
        with pytest.raises(UsageError, match="at step 3"):
            schedule.needs_probe(wrong)
    while schedule.needs_probe(schedule.step):
        drive(schedule, 1)
    schedule.active_tasks(schedule.step)


def _through_files(state):
    """Return the state as JSON and safetensors bring it back."""
    tensors = {}

    def plain(value, path):
        if isinstance(value, torch.Tensor):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, dict):
            return {key: plain(item, f"{path}/{key}") for key, item in value.items()}
        return value

    def whole(value):
        if isinstance(value, dict):
            return loaded[value["tensor"]] if "tensor" in value else {
                key: whole(item) for key, item in value.items()
            }  # fmt: skip
        return value

    text = json.dumps(plain(state, "state"))
    loaded = safetensors.torch.load(safetensors.torch.save(tensors))
    return whole(json.loads(text))


def _decisions(schedule, steps, drive):
    """Return everything that a run sees of a schedule."""
    seen = []
    for _ in range(steps):
        seen.append((drive(schedule, 1)[0], schedule.task_weights()))
        seen += [json.dumps(report.to_record()) for report in schedule.pop_reports()]
    return seen


def test_resumes_bit_identical_from_every_step_through_files(build, drive):
    reference = build()
    states = []
    seen = []
    for _ in range(26):
        states.append(_through_files(reference.state_dict()))
        seen.append(_decisions(reference, 1, drive))
    end = _through_files(reference.state_dict())
    for step, state in enumerate(states):
        resumed = build()
        resumed.load_state_dict(state)
        assert resumed.step == step
        assert _decisions(resumed, 26 - step, drive) == [x for part in seen[step:] for x in part]
        assert _plain(_through_files(resumed.state_dict())) == _plain(end)


def test_weights_survive_resuming_between_steps(build, drive):
    schedule = build()
    for _ in range(20):
        drive(schedule, 1)
        fresh = build()
        fresh.load_state_dict(schedule.state_dict())
        assert fresh.task_weights() == schedule.task_weights()


def test_a_state_is_a_copy(build, drive):
    schedule = build()
    drive(schedule, 9)
    state = schedule.state_dict()
    kept = copy.deepcopy(state)
    drive(schedule, 9)
    assert json.dumps(_plain(state)) == json.dumps(_plain(kept))


def _plain(state):
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def test_states_of_others_and_damaged_ones_change_nothing(build, drive):
    schedule = build()
    drive(schedule, 5)
    good = schedule.state_dict()
    damaged = [
        {**good, "kind": "other"},
        {**good, "num_tasks": T + 1},
        {**good, "last_active": [0]},
        {**good, "window": {**good["window"], "groups": [[0, 1]]}},
        {**good, "window": {**good["window"], "groups": [list(range(T + 1))]}},
        {},
        *({key: good[key] for key in good if key != gone} for gone in good),
    ]
    for state in damaged:
        with pytest.raises(UsageError):
            schedule.load_state_dict(state)
        assert json.dumps(_plain(schedule.state_dict())) == json.dumps(_plain(good))


def test_one_report_for_every_window_in_the_order_of_the_schedule(build, drive):
    schedule = build()
    active, reports = [], []
    for _ in range(40):
        active += drive(schedule, 1)
        reports += schedule.pop_reports()
    assert schedule.pop_reports() == []
    assert reports[0].step == 0
    assert reports[0].churn is None
    for report, following in itertools.pairwise(reports):
        assert report.step + report.num_steps == following.step
        assert 0.0 <= following.churn <= 1.0
    for report in reports:
        stop = 40 if report.num_steps is None else min(40, report.step + report.num_steps)
        for step in range(report.step, stop):
            if schedule.use == "one_group_per_batch":
                assert active[step] == report.groups[(step - report.step) % report.num_colors]
            assert set(active[step]) <= {task for group in report.groups for task in group}
        record = json.loads(json.dumps(report.to_record(), allow_nan=False))
        assert record["kind"] == "refresh"
        assert record["num_colors"] == len(record["groups"])


def test_waits_of_a_report_are_steps_without_the_task(build, drive):
    schedule = build()
    active = []
    for _ in range(40):
        active += drive(schedule, 1)
        for report in schedule.pop_reports():
            last = [
                max((s for s in range(report.step) if task in active[s]), default=-1)
                for task in range(T)
            ]
            waits = [report.step - 1 - step for step in last]
            assert (report.max_wait, report.mean_wait) == (max(waits), sum(waits) / T)


def test_observe_without_need_is_refused(build, drive, observed):
    schedule = build()
    drive(schedule, 2)
    with pytest.raises(UsageError, match="observe"):
        schedule.observe(observed(torch.ones(T, 2)))


def test_weights_before_the_first_step_are_refused(build):
    with pytest.raises(UsageError, match="call active_tasks"):
        build().task_weights()


@pytest.mark.parametrize("scale", ["sum", "mean", "tasks_over_active"])
@pytest.mark.parametrize("reweight", [False, True])
def test_weights(scale, reweight):
    grouping = Grouping.of([[0, 1, 2], [2, 3]], 4)
    schedule = StaticScheduler(4, grouping, scale=scale, reweight=reweight)
    for tasks in ((0, 1, 2), (2, 3)):
        assert schedule.active_tasks() == tasks
        factor = {"sum": 1, "mean": 1 / len(tasks), "tasks_over_active": 4 / len(tasks)}[scale]
        repeats = [2 if reweight and task == 2 else 1 for task in tasks]
        assert schedule.task_weights() == pytest.approx([factor / n for n in repeats])


def test_one_reweighted_cycle_counts_every_task_once():
    schedule = StaticScheduler(6, Grouping.of([[0, 1, 5], [1, 2, 3, 4], [1]], 6), reweight=True)
    total = dict.fromkeys(range(6), 0.0)
    for _ in range(3):
        for task, weight in zip(schedule.active_tasks(), schedule.task_weights(), strict=True):
            total[task] += weight
    assert total == pytest.approx(dict.fromkeys(range(6), 1.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: JointScheduler(1),
        lambda: StaticScheduler(1, Grouping.of([[0]], 1)),
        lambda: RandomGroupsScheduler(1, sizes=(1,)),
        lambda: ColoringScheduler(1),
        lambda: ColoringScheduler(1, tau=-1.0),
        lambda: ColoringScheduler(1, rule="quantile", max_colors=1, coloring="tabu"),
        lambda: ColoringScheduler(1, use="all_groups_per_batch"),
        lambda: SelectiveScheduler(1),
    ],
)
def test_one_task_works_without_probes_or_warnings(make, drive):
    schedule = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(70):
            assert schedule.needs_probe() == ()
            assert drive(schedule, 1) == [(0,)]


@pytest.mark.parametrize(
    "make",
    [
        JointScheduler,
        ColoringScheduler,
        SelectiveScheduler,
        lambda n: RandomGroupsScheduler(n, sizes=(1,)),
    ],
)
def test_no_task_is_refused(make):
    with pytest.raises(UsageError, match="at least one task"):
        make(0)


@pytest.mark.parametrize(
    "config", [Joint(), Random(), Coloring(), Static(groups=((0, 1, 2, 3),)), Selective()]
)
def test_configs_are_json_values_and_build_what_they_say(config):
    values = json.loads(json.dumps(config.to_dict()))
    kind = values.pop("kind")
    assert type(config)(**values) == config
    schedule = config.build(4, seed=7)
    assert schedule.kind == kind == config.kind
    assert schedule.num_tasks == 4
    assert hash(config) == hash(type(config)(**values))


@pytest.mark.parametrize("config", [Joint, Random, Coloring, Static, Selective])
def test_unknown_keys_are_refused(config):
    with pytest.raises(TypeError, match="base_method"):
        config(base_method="pcgrad")
    with pytest.raises(TypeError, match="base_method"):
        ColoringScheduler(3, base_method="pcgrad")


def test_wrong_scale():
    for make in (
        lambda: JointScheduler(2, scale="max"),
        lambda: Joint(scale="max"),
        lambda: Coloring(scale="max"),
        lambda: Random(scale="max"),
        lambda: Static(groups=((0,),), scale="max"),
    ):
        with pytest.raises(UsageError, match="scale"):
            make()

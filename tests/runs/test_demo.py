"""The demo, on a small graph: every number comes from the run folders it names."""

import json

import numpy as np
import pytest

from gnn_mtl._core.errors import UsageError
from gnn_mtl.affinity import subset_affinity
from gnn_mtl.nn import SAGE
from gnn_mtl.records import read_run
from gnn_mtl.reports import studies
from gnn_mtl.runs import _demo, run_demo
from gnn_mtl.runs._demo import recorded_affinities, several_colors, stratified_labels
from gnn_mtl.tasks import Affinity, Grouping, SubsetTable

METHODS = (
    "joint", "coloring_default", "coloring_multi", "random", "joint_half", "gradtag",
    "gradtag_random", "spectral_lr", "single",
)  # fmt: skip
GROUPED = ("gradtag", "gradtag_random")
SHORTER = ("joint_half", *GROUPED)
SEEDS = (0, 1)

pytestmark = pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")


@pytest.fixture(scope="module")
def demo(graph, tmp_path_factory):
    """A demo of ten steps a model, in a folder where an earlier demo was."""
    out, said = tmp_path_factory.mktemp("demo"), []
    (out / "runs" / "joint-seed0" / "old").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_demo, "load_dataset", lambda name: graph)
        patch.setattr(_demo, "STEPS", (10, 10))
        patch.setattr(_demo, "SEEDS", SEEDS)
        patch.setattr(_demo, "SINGLE_LABELS", 2)
        patch.setattr(_demo, "SEVERAL", 2)
        patch.setattr(_demo, "NUM_GROUPS", 2)
        patch.setattr(_demo, "DIRECTIONS", 8)
        patch.setattr(_demo, "ENCODER", SAGE(hidden_channels=8, num_layers=1))
        made = run_demo(out, say=said.append, budget_s=1.0)
    return out, made, said


def test_the_folder(demo):
    out, made, _ = demo
    names = sorted(folder.name for folder in (out / "runs").iterdir())
    assert names == sorted(f"{method}-seed{seed}" for method in METHODS for seed in SEEDS)
    assert [(r.method, r.seed) for r in made.records] == [(m, s) for m in METHODS for s in SEEDS]
    assert all(read_run(out / "runs" / name, finished=True).done for name in names)


def test_every_number_is_the_mean_over_the_runs_it_names(demo):
    out, made, _ = demo
    summary = json.loads((out / "summary.json").read_text())
    assert summary == made.summary
    assert tuple(summary) == METHODS
    for method, entry in summary.items():
        assert entry.keys() >= {
            "test_ap", "test_auroc", "seconds", "steps", "label_gradients", "seeds",
        }  # fmt: skip
        assert entry["seeds"] == list(SEEDS)
        assert entry["runs"] == [f"runs/{method}-seed{seed}" for seed in SEEDS]
        runs = [json.loads((out / run / "summary.json").read_text()) for run in entry["runs"]]
        for name in ("ap", "auroc"):
            scores = [run["test"][name] for run in runs]
            assert entry[f"test_{name}"] == pytest.approx(np.mean(scores))
            assert entry[f"test_{name}_std"] == pytest.approx(np.std(scores, ddof=1))
        for name in ("seconds", "steps", "label_gradients"):
            assert entry[name] == pytest.approx(np.mean([run["cost"][name] for run in runs]))
        assert all(run["tasks"] == entry["tasks"] for run in runs)


def test_equal_terms(demo, graph):
    _, made, _ = demo
    by_method = {m: [r for r in made.records if r.method == m] for m in METHODS}
    assert made.steps == 10
    networks = [m for m in METHODS if m not in (*SHORTER, "spectral_lr", "single")]
    for method in networks:
        for record in by_method[method]:
            assert record.summary.cost["steps"] == made.steps
            assert record.config["train"] == by_method["joint"][0].config["train"]
            assert record.config["encoder"] == by_method["joint"][0].config["encoder"]
    assert by_method["coloring_default"][0].config["scheduler"]["tau"] == 0.25
    for record in by_method["single"]:
        assert record.summary.tasks == stratified_labels(graph, 2)
        assert record.summary.cost["steps"] == 2 * made.steps
    for leader, control in zip(by_method["coloring_multi"], by_method["random"], strict=True):
        sizes = [
            [(refresh.step, [len(g) for g in refresh.groups]) for refresh in run.refreshes]
            for run in (leader, control)
        ]
        assert sizes[0] == sizes[1]
        assert max(len(groups) for _, groups in sizes[0]) >= 2
        assert leader.seed == control.seed
        costs = [run.summary.cost["label_gradients"] for run in (leader, control)]
        assert costs[0] == costs[1]


def test_models_of_groups_share_the_budget(demo):
    out, made, _ = demo
    groups = Grouping.load(out / "gradtag.json").groups
    table = SubsetTable.load(out / "gradtag.subsets.npz")
    assert table.source == "one_step"
    np.testing.assert_array_equal(
        subset_affinity(table).values, Affinity.load(out / "gradtag.npz").values
    )
    for seed in SEEDS:
        ours, control = (
            next(r for r in made.records if (r.method, r.seed) == (m, seed)) for m in GROUPED
        )
        assert ours.config["scheduler"]["groups"] == [list(group) for group in groups]
        drawn = control.config["scheduler"]["groups"]
        assert sorted(map(len, drawn)) == sorted(map(len, groups))
        assert ours.summary.cost["steps"] == control.summary.cost["steps"]
        assert ours.config["train"] == control.config["train"]
        for run in (ours, control):
            assert run.config["scheduler"]["base"] == str(out / "runs" / f"joint_half-seed{seed}")


def test_the_second_tau_gives_several_colours(demo, monkeypatch):
    monkeypatch.setattr(_demo, "SEVERAL", 2)
    _, made, said = demo
    (record,) = [r for r in made.records if r.method == "coloring_default" and r.seed == 0]
    affinities = recorded_affinities(record)
    assert len(affinities) == len(record.refreshes) > 0
    tau = several_colors(affinities)
    multi = [r for r in made.records if r.method == "coloring_multi"]
    assert all(r.config["scheduler"]["tau"] == tau for r in multi)
    assert f"tau = {tau} " in "\n".join(said)


def test_what_is_said(demo, graph):
    _, made, said = demo
    text = "\n".join(said)
    assert f"{graph.num_nodes} packages" in said[0]
    assert f"= {made.steps} steps" in said[0]
    for task in stratified_labels(graph, 2):
        assert graph.label_names[task] in text
    for record in made.records:
        assert f"seed {record.seed}: test AP {record.summary.test['ap']:.4f}" in text


def conflict(*pairs, strength=-0.3, tasks=4):
    values = np.eye(tasks)
    for a, b in pairs:
        values[a, b] = values[b, a] = strength
    return Affinity(values, "example")


TRIANGLE = ((0, 1), (1, 2), (0, 2))


@pytest.mark.parametrize(
    ("affinities", "tau"),
    [
        ([conflict(*TRIANGLE)], 0.2),
        ([conflict(*TRIANGLE, strength=-0.16)], 0.15),
        ([conflict(*TRIANGLE, strength=-0.01)], 0.0),
        ([conflict(*TRIANGLE)] * 2 + [conflict()], 0.2),
        ([conflict(*TRIANGLE)] + [conflict((0, 1))] * 2, 0.0),
        ([conflict((0, 1), (1, 2), (2, 3))], 0.0),
        ([], 0.0),
    ],
    ids=["strong", "weak", "weaker", "most", "too few", "two colours", "none recorded"],
)
def test_several_colors(affinities, tau):
    """The largest tau at which the median refresh has three colours; else the smallest there is."""
    assert several_colors(affinities) == tau


def test_stratified_labels(graph):
    positives = graph.positives("train")
    for number in (1, 2, 3, 6, 99):
        chosen = stratified_labels(graph, number)
        assert list(chosen) == sorted(set(chosen))
        assert len(chosen) == min(number, 6)
        if number > 1:
            assert positives[list(chosen)].min() == positives.min()
            assert positives[list(chosen)].max() == positives.max()
    order = np.argsort(positives, kind="stable")
    assert set(stratified_labels(graph, 3)) <= {*order[[0, 5]], *order[2:4]}


def test_a_folder_with_other_runs_is_left_alone(tmp_path):
    precious = tmp_path / "runs" / "precious"
    precious.mkdir(parents=True)
    with pytest.raises(UsageError, match="precious"):
        run_demo(tmp_path, say=print)
    assert precious.is_dir()


def test_the_report_takes_every_method_as_one(demo):
    _, made, _ = demo
    (study,) = studies(made.records)
    assert {method.label for method in study.methods} == set(METHODS)
    assert all(len(method.runs) == len(SEEDS) for method in study.methods)
    assert study.joint.label == "joint"
    assert study.find("gradtag_random").kind == "random"
    assert study.find("gradtag").is_candidate

"""Tables, comparisons and verdicts against the numbers in the JSON files they come from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gnn_mtl._core.errors import RecordError, UsageError
from gnn_mtl.metrics import compare_paired
from gnn_mtl.records import find_runs, read_run
from gnn_mtl.reports import (
    common_label_table,
    compare_runs,
    comparison_table,
    render_table,
    rich_table,
    score_table,
    studies,
    verdict,
)  # fmt: skip


def load(*folders):
    return [read_run(path) for path in find_runs(folders)]


def summaries(folder, method):
    files = sorted((folder / method).glob("*/summary.json"))
    return [json.loads(file.read_text()) for file in files]


def per_label(folder, method, metric="ap"):
    rows = [one["per_label"][metric] for one in summaries(folder, method)]
    return np.array(rows, dtype=float)


def row(table, method):
    return next(one for one in table.rows if one.method == method)


def test_scores_are_those_of_the_summaries(study):
    table = score_table(load(study))
    assert [one.method for one in table.rows][-1] == "single"
    for method in ("joint", "coloring_multi"):
        for key in ("ap", "auroc", "f1", "f1_top_k", "f1_true_k"):
            values = [one["test"][key] for one in summaries(study, method)]
            cell = row(table, method).cells[f"test.{key}"]
            assert cell.values == tuple(values)
            assert cell.summary.mean == pytest.approx(np.mean(values))
            assert cell.summary.std == pytest.approx(np.std(values, ddof=1))
            assert [run.path.name for run in cell.runs] == ["seed-0", "seed-1", "seed-2"]
    assert row(table, "joint").cells["cost.label_gradients"].values == (26400.0,) * 3
    assert [column.key for column in table.columns if column.oracle] == ["test.f1_true_k"]
    assert row(table, "single").remark == "11 of 66 labels"
    assert row(table, "coloring_default").remark == "always one group: equals joint"
    assert any("single covers 11 of 66 labels" in note for note in table.notes)


def test_best_test_score_first(study):
    full = [one for one in score_table(load(study)).rows if one.method != "single"]
    means = [one.cells["test.ap"].summary.mean for one in full]
    assert means == sorted(means, reverse=True)


def test_text_forms(study):
    table = score_table(load(study))
    values = [100 * one["test"]["ap"] for one in summaries(study, "joint")]
    number = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    text = render_table(table)
    assert number in next(line for line in text.splitlines() if line.startswith("joint"))
    assert "F1 true-k (oracle)" in text
    lines = render_table(table, "markdown").splitlines()
    cells = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in cells}) == 1
    assert len(cells) == 2 + 6
    assert any(line.startswith("| joint") and f" {number} |" in line for line in cells)
    console = Console(width=240, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(table))
    console.file.close()
    assert number in console.export_text()
    with pytest.raises(UsageError, match="'latex'"):
        render_table(table, "latex")


def test_no_spread_for_one_seed(tmp_path, write_run):
    write_run(tmp_path / "a", name="joint", kind="joint", seed=0)
    table = score_table(load(tmp_path))
    text = render_table(table)
    assert "±" not in text
    assert "one seed has no spread" in text


def test_ogb_wants_ten_seeds(tmp_path, write_run):
    write_run(tmp_path / "a", name="joint", kind="joint", seed=0, dataset="ogbn-proteins")
    assert any("10 seeds" in note for note in score_table(load(tmp_path)).notes)


def test_missing_scores_are_dashes(tmp_path, write_run):
    write_run(tmp_path / "a", name="joint", kind="joint", seed=0)
    write_run(tmp_path / "b", name="short", kind="shallow", seed=0,
              summary_changes={"test": {"ap": 0.25}, "cost": {}, "valid": {}})  # fmt: skip
    line = next(x for x in render_table(score_table(load(tmp_path))).splitlines() if "short" in x)
    assert line.split() == ["short", "25.00", *"––––––––"]


def test_same_labels_for_every_method(study):
    found = studies(load(study))[0]
    single = found.find("single")
    table = common_label_table(found, single)
    sample = list(single.tasks)
    expected = per_label(study, "joint")[:, sample].mean(axis=1)
    assert row(table, "joint").cells["ap"].values == pytest.approx(tuple(expected))
    assert "11 labels" in table.title
    assert found.label_names[sample[0]] in table.notes[0]


def test_comparison_equals_the_paired_tests(study):
    comparison = compare_runs(load(study))
    for metric in ("ap", "auroc"):
        scores = {}
        for method in ("joint", "spectral_lr", "random", "coloring_default", "coloring_multi"):
            scores[method] = per_label(study, method, metric)
        expected = compare_paired(scores, "joint")
        for method, test in expected.items():
            found = comparison.find(method).tests[metric]
            assert found.delta == test.delta
            assert found.p_bootstrap == test.p_bootstrap
            assert (found.wins, found.losses, found.num_labels) == (test.wins, test.losses, 65)
            assert found.p_holm >= test.p_holm  # single-task is one comparison more
    one = comparison.find("single")
    assert len(one.tasks) == 11
    assert one.tests["ap"].num_labels == 11
    assert any("Over 11 of 66 labels" in note and "single" in note for note in comparison.notes)


def test_relative_change_is_over_the_single_task_labels(study):
    comparison = compare_runs(load(study))
    single = per_label(study, "single").mean(axis=0)
    ours = per_label(study, "random").mean(axis=0)
    expected = np.nanmean((ours - single) / single)
    assert comparison.find("random").delta_p == pytest.approx(expected)
    assert comparison.find("single").delta_p is None


def test_runs_are_paired_by_seed(tmp_path, write_run):
    for seed in (0, 1, 2):
        write_run(tmp_path / f"j{seed}", name="joint", kind="joint", seed=seed)
    for seed in (2, 1, 7):
        write_run(tmp_path / f"c{seed}", name="mine", kind="coloring", tau=0.1, seed=seed,
                  affinities=False)  # fmt: skip
    write_run(tmp_path / "other", name="other", kind="random", seed=9)
    comparison = compare_runs(load(tmp_path))
    one = comparison.find("mine")
    assert one.seeds == (1, 2)
    ours = [json.loads((tmp_path / f"c{s}/summary.json").read_text()) for s in (1, 2)]
    theirs = [json.loads((tmp_path / f"j{s}/summary.json").read_text()) for s in (1, 2)]
    expected = np.nanmean(
        [np.array(a["per_label"]["ap"], float) - np.array(b["per_label"]["ap"], float)
         for a, b in zip(ours, theirs, strict=True)]
    )  # fmt: skip
    assert one.tests["ap"].delta == pytest.approx(expected)
    assert comparison.find("other") is None
    assert any("other shares no seed" in note for note in comparison.notes)
    assert "mine" in render_table(comparison_table(comparison), "markdown")


def test_another_reference(study):
    comparison = compare_runs(load(study), "random")
    assert comparison.reference.label == "random"
    assert comparison.find("joint").tests["ap"].delta > 0
    with pytest.raises(UsageError, match="'absent'"):
        compare_runs(load(study), "absent")


def test_configurations_of_one_name_are_told_apart(tmp_path, write_run):
    for seed in (0, 1):
        for tau in (0.1, 0.25):
            write_run(tmp_path / f"{tau}-{seed}", name="coloring", kind="coloring", tau=tau,
                      seed=seed, affinities=False)  # fmt: skip
    labels = [method.label for method in studies(load(tmp_path))[0].methods]
    assert labels == ["coloring (tau=0.1)", "coloring (tau=0.25)"]


def test_what_tells_configurations_apart_is_said_and_no_more(tmp_path, write_run):
    heads = ({"kind": "linear"}, {"kind": "adapters", "groups": [[0, 1], [2]], "overlap": "refuse"})
    for head in heads:
        write_run(tmp_path / head["kind"], name="joint", kind="joint", seed=0, affinities=False,
                  config_changes={"head": head})  # fmt: skip
    study = studies(load(tmp_path))[0]
    labels = {method.label for method in study.methods}
    assert labels == {"joint (head=linear)", "joint (head=adapters)"}
    assert study.joint.label == "joint (head=linear)"  # adapters are compared with it
    assert [method.is_candidate for method in study.methods] == [False, True]
    assert not study.methods[1].is_trivial


def test_what_cannot_be_reported(tmp_path, write_run):
    write_run(tmp_path / "open" / "a", name="joint", kind="joint", seed=0, done=False)
    with pytest.raises(RecordError, match="Found 1 unfinished"):
        studies(load(tmp_path / "open"))
    write_run(tmp_path / "twice" / "a", name="joint", kind="joint", seed=0)
    shutil.copytree(tmp_path / "twice" / "a", tmp_path / "twice" / "b")
    with pytest.raises(RecordError, match=r"same method \(joint\) and seed \(0\)"):
        studies(load(tmp_path / "twice"))
    write_run(tmp_path / "other" / "a", name="joint", kind="joint", seed=1,
              label_names=[f"t{i}" for i in range(66)])  # fmt: skip
    with pytest.raises(RecordError, match="labels differ"):
        studies(load(tmp_path / "twice" / "a", tmp_path / "other"))
    write_run(tmp_path / "far" / "a", name="joint", kind="joint", seed=1, dataset="elsewhere")
    runs = load(tmp_path / "twice" / "a", tmp_path / "far")
    assert [study.dataset for study in studies(runs)] == ["debian-tags", "elsewhere"]
    with pytest.raises(UsageError, match="one graph"):
        score_table(runs)


def test_unfinished_runs_are_named(tmp_path, write_run):
    write_run(tmp_path / "a", name="joint", kind="joint", seed=0)
    write_run(tmp_path / "b", name="joint", kind="joint", seed=1, done=False)
    (found,) = studies(load(tmp_path))
    assert found.methods[0].seeds == (0,)
    assert "1 unfinished run left out" in found.notes[0]
    assert str(tmp_path / "b") in found.notes[0]


GROUPS = [[*range(33)], [*range(33, 66)]]


@pytest.mark.parametrize(
    ("gain", "outcome", "words"),
    [
        (0.05, "better", "mine beat joint"),
        (-0.05, "worse", "mine did worse than joint"),
        (0.0, "same", "mine did not beat joint"),
    ],
)
def test_verdict_says_what_the_tests_say(tmp_path, write_run, gain, outcome, words):
    for seed in range(3):
        write_run(tmp_path / f"j{seed}", name="joint", kind="joint", seed=seed)
        write_run(tmp_path / f"c{seed}", name="mine", kind="static", seed=seed, gain=gain,
                  groups=GROUPS, share=0.5)  # fmt: skip
        write_run(tmp_path / f"r{seed}", name="dice", kind="random", seed=seed, groups=GROUPS,
                  share=0.5)  # fmt: skip
    (found,) = studies(load(tmp_path))
    judged = verdict(found)
    test = judged.comparison.find("mine").tests["ap"]
    assert judged.outcome == outcome
    assert judged.headline.startswith(words)
    assert f"{100 * test.delta:+.2f}".replace("-", "\N{MINUS SIGN}") in judged.headline
    assert (test.p_holm < 0.05) == (outcome != "same")
    details = " ".join(judged.details)
    assert "3 seeds" in details
    assert "65 labels" in details
    assert "50 % of its label-gradients" in details
    assert "dice" in details


def test_verdict_chooses_by_validation_not_by_test(tmp_path, write_run):
    write_run(tmp_path / "j", name="joint", kind="joint", seed=0)
    good_test = {"valid": {"ap": 0.1, "auroc": 0.5, "f1": 0.1}}
    write_run(tmp_path / "a", name="lucky", kind="static", seed=0, gain=0.2, groups=GROUPS,
              summary_changes=good_test)  # fmt: skip
    write_run(tmp_path / "b", name="chosen", kind="static", seed=0, gain=-0.1, groups=GROUPS)
    judged = verdict(studies(load(tmp_path))[0])
    assert judged.method.label == "chosen"
    assert any("nothing can be said about other seeds" in line for line in judged.details)


def test_verdict_of_an_empty_conflict_graph(tmp_path, write_run):
    write_run(tmp_path / "j", name="joint", kind="joint", seed=0)
    write_run(tmp_path / "c", name="calm", kind="coloring", tau=0.9, seed=0)
    judged = verdict(studies(load(tmp_path))[0])
    assert judged.outcome == "trivial"
    assert "calm trained exactly as joint" in judged.headline


def test_verdict_without_joint_or_grouping(tmp_path, write_run):
    write_run(tmp_path / "c" / "c", name="mine", kind="static", seed=0, groups=GROUPS)
    judged = verdict(studies(load(tmp_path / "c"))[0])
    assert (judged.outcome, judged.comparison) == ("open", None)
    write_run(tmp_path / "j" / "j", name="joint", kind="joint", seed=0)
    assert verdict(studies(load(tmp_path / "j"))[0]).outcome == "open"


def test_random_groups_as_control(tmp_path, write_run):
    """A gain that random groups have too is not the grouping's."""
    for seed in range(3):
        write_run(tmp_path / f"j{seed}", name="joint", kind="joint", seed=seed, gain=-0.05)
        write_run(tmp_path / f"c{seed}", name="mine", kind="static", seed=seed, groups=GROUPS)
        write_run(tmp_path / f"r{seed}", name="dice", kind="random", seed=seed, groups=GROUPS)
    judged = verdict(studies(load(tmp_path))[0])
    assert judged.outcome == "better"
    assert any("made no measurable difference" in line for line in judged.details)


def test_random_groups_of_other_sizes_are_no_control(tmp_path, write_run):
    """Groups of other sizes say nothing about what the method grouped with what."""
    for seed in range(3):
        write_run(tmp_path / f"j{seed}", name="joint", kind="joint", seed=seed, gain=-0.05)
        write_run(tmp_path / f"c{seed}", name="mine", kind="static", seed=seed, groups=GROUPS)
        write_run(tmp_path / f"r{seed}", name="dice", kind="random", seed=seed,
                  groups=[[*range(20)], [*range(20, 66)]])  # fmt: skip
    judged = verdict(studies(load(tmp_path))[0])
    assert not any("dice" in line for line in judged.details)
    assert any("No random groups of its sizes" in line for line in judged.details)


def test_controls_that_follow_the_run_of_their_seed_are_one_method(tmp_path, write_run):
    for seed in range(3):
        path = write_run(tmp_path / f"r{seed}", name="dice", kind="random", seed=seed,
                         groups=GROUPS)  # fmt: skip
        file = Path(path or tmp_path / f"r{seed}") / "config.json"
        config = json.loads(file.read_text())
        config["scheduler"]["follow"] = [[0, [seed + 1, 2]]]
        file.write_text(json.dumps(config))
    (found,) = studies(load(tmp_path))
    assert [(method.label, len(method.runs)) for method in found.methods] == [("dice", 3)]


def test_control_groups_of_a_file_a_seed_are_one_method(tmp_path, write_run):
    """Every seed draws its own, spelt out or read from a file."""
    for seed in range(3):
        where = {"file": f"control-{seed}.json", "groups": []}
        if seed == 0:
            where = {"file": None, "groups": [[0, 1], [2]]}
        write_run(
            tmp_path / f"r{seed}", name="dice", kind="separate", seed=seed, groups=GROUPS,
            config_changes={"scheduler": {"kind": "separate", "control": True, **where}},
        )  # fmt: skip
    (found,) = studies(load(tmp_path))
    assert [(m.label, m.kind, len(m.runs)) for m in found.methods] == [("dice", "random", 3)]


def test_study_paths_are_kept(study):
    paths = {run.path for method in studies(load(study))[0].methods for run in method.runs}
    assert paths == {Path(path) for path in find_runs([study])}

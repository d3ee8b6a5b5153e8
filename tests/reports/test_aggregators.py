"""Runs with an aggregator: what they are held against, and what the report says of them."""

import re

import numpy as np
import pytest

from gnn_mtl.records import find_runs, read_run
from gnn_mtl.reports import build_report, score_table, studies, verdict
from gnn_mtl.reports._labels import _thousands
from gnn_mtl.reports._svg import METHOD_COLORS, method_variable

GROUPS = [[*range(33)], [*range(33, 66)]]


@pytest.fixture
def add(tmp_path, write_run):
    """Add the runs of one method: ``joint+upgrad`` and the like, on the seeds 0 and 1."""

    def write(label, *, seeds=(0, 1), options=None, train=None, **more):
        kind, _, aggregator = label.partition("+")
        changes = dict(more.pop("config_changes", {}))
        if aggregator:
            found, _, method = aggregator.partition("-")
            changes["aggregator"] = {"kind": found, "norm": "sum", **(options or {})}
            if method:
                changes["aggregator"]["method"] = method
        changes["train"] = {
            "lr": 0.01,
            "gramian": "last_layer",
            "gramian_every": 1,
            **(train or {}),
        }
        if kind == "static":
            more.setdefault("groups", GROUPS)
        for seed in seeds:
            number = len(list(tmp_path.iterdir()))
            write_run(tmp_path / f"run{number}", name=label, kind=kind, seed=seed,
                      affinities=False, config_changes=changes, **more)  # fmt: skip

    return write


@pytest.fixture
def read(tmp_path):
    def one_study():
        (found,) = studies([read_run(path) for path in find_runs([tmp_path])])
        return found

    return one_study


@pytest.fixture
def page(tmp_path):
    def text():
        return build_report([tmp_path], tmp_path / "r.html").read_text()

    return text


def remark(study, label):
    return next(row.remark for row in score_table(study).rows if row.method == label)


@pytest.mark.parametrize("with_reference", [True, False])
def test_one_group_with_an_aggregator_is_not_plain_joint(add, read, page, with_reference):
    """An empty conflict graph leaves the aggregator: joint+nash_mtl, whether it was run or not."""
    add("joint")
    add("coloring+nash_mtl", tau=0.9)
    if with_reference:
        add("joint+nash_mtl")
    study = read()
    assert remark(study, "coloring+nash_mtl") == "always one group: equals joint+nash_mtl"
    judged = verdict(study)
    assert judged.outcome == "trivial"
    assert judged.headline.endswith("coloring+nash_mtl trained exactly as joint+nash_mtl.")
    aggregator = [line for line in judged.details if "is the aggregator" in line]
    assert bool(aggregator) == (not with_reference)
    assert "equals joint+nash_mtl" in page()


def test_one_group_of_the_plain_sum_is_joint(add, read):
    add("joint")
    add("coloring", tau=0.9)
    add("coloring+nash_mtl", tau=0.9)
    study = read()
    assert remark(study, "coloring") == "always one group: equals joint"
    headline = verdict(study).headline
    assert "coloring trained exactly as joint, and coloring+nash_mtl trained" in headline
    assert headline.endswith("exactly as joint+nash_mtl.")


def test_a_calm_method_beside_one_that_groups(add, read):
    add("joint")
    add("static")
    add("coloring+upgrad", tau=0.9)
    details = verdict(read()).details
    assert any("so it trained exactly as joint+upgrad." in line for line in details)


def test_grouping_is_held_against_joint_with_the_same_aggregator(add, read, page):
    """All of the gain over joint is the aggregator's, so grouping gained nothing."""
    add("joint")
    add("joint+upgrad", gain=0.05)
    add("static+upgrad", gain=0.05)
    judged = verdict(read())
    assert judged.comparison.reference.label == "joint+upgrad"
    assert judged.headline.startswith("static+upgrad did not beat joint+upgrad")
    assert (judged.outcome, judged.subject) == ("same", "grouping")
    assert not any("aggregator" in line for line in judged.details)
    text = page()
    assert "No measurable gain from grouping<" in text
    assert text.count("<h2>Compared with joint+upgrad</h2>") == 1
    assert "<h3>Compared with joint</h3>" in text


def test_without_that_run_the_aggregator_is_named(add, read, page):
    add("joint")
    add("static+torchjd-krum", gain=0.05)
    judged = verdict(read())
    assert judged.comparison.reference.label == "joint"
    assert (judged.outcome, judged.subject) == ("better", "both")
    said = judged.details[0]
    assert "differ in the aggregator too (torchjd-krum against sum)" in said
    assert "--scheduler.kind joint --aggregator.kind torchjd --aggregator.method krum" in said
    text = page()
    assert "Grouping helped" not in text
    assert "Grouping and aggregator together helped" in text
    add("joint+torchjd-mgda")  # another method of that library is another aggregator
    assert verdict(read()).comparison.reference.label == "joint"
    add("joint+torchjd-krum")
    assert verdict(read()).comparison.reference.label == "joint+torchjd-krum"


def test_the_run_that_is_asked_for_is_the_reference(add, read):
    add("static+upgrad")
    judged = verdict(read())
    assert (judged.outcome, judged.comparison) == ("open", None)
    assert "--scheduler.kind joint and report again" in judged.details[0]
    add("joint+upgrad")
    assert verdict(read()).comparison.reference.label == "joint+upgrad"


def test_adapters_are_asked_for_a_plain_head(add, read):
    add("static", config_changes={"head": {"kind": "adapters"}})
    assert "--scheduler.kind joint --head.kind linear" in verdict(read()).details[0]
    add("joint", config_changes={"head": {"kind": "linear"}})
    assert verdict(read()).comparison.reference.label == "joint"


def test_the_reference_has_the_same_options(add, read):
    add("joint+upgrad", train={"gramian": "full"})
    add("joint+upgrad", options={"norm": "none"})
    add("static+upgrad", options={"norm": "none"})
    judged = verdict(read())
    assert "norm=none" in judged.comparison.reference.label
    assert not any("They differ" in line for line in judged.details)


def test_other_options_of_the_aggregator_are_said(add, read):
    add("joint+upgrad", train={"gramian": "full"})
    add("static+upgrad", options={"norm": "none"})
    details = verdict(read()).details
    assert details[0] == "They differ in aggregator.norm, train.gramian too."


def test_random_groups_with_another_aggregator_are_no_control(add, read):
    add("joint+upgrad")
    add("static+upgrad")
    add("random", groups=GROUPS)
    details = " ".join(verdict(read()).details)
    assert "No random groups of its sizes were run with its aggregator" in details
    add("random+upgrad", groups=GROUPS)
    details = " ".join(verdict(read()).details)
    assert "random groups of its sizes (random+upgrad)" in details
    assert "sizes (random)" not in details


@pytest.mark.parametrize(
    ("gain", "outcome", "words", "banner"),
    [
        (0.05, "better", "beat joint", "The aggregator helped"),
        (-0.05, "worse", "did worse than joint", "The aggregator hurt"),
        (0.0, "same", "did not beat joint", "No measurable gain from an aggregator"),
    ],
)
def test_aggregators_against_the_plain_sum(add, read, page, gain, outcome, words, banner):
    """The one judged is the best by validation AP, here the worse by test AP."""
    add("joint")
    add("joint+upgrad", gain=0.1, summary_changes={"valid": {"ap": 0.1}})
    add("joint+mgda", gain=gain)
    judged = verdict(read())
    assert (judged.outcome, judged.subject) == (outcome, "aggregator")
    assert judged.headline.startswith(
        f"joint+mgda, of 2 aggregators the best by validation AP, {words}: ΔAP = "
    )
    test = judged.comparison.find("joint+mgda").tests["ap"]
    assert f"{100 * test.delta:+.2f}".replace("-", "\N{MINUS SIGN}") in judged.headline
    text = page()
    assert banner in text
    roles = re.findall(r'class="name">([^<]+)</span><span class="role">([^<]+)<', text)
    assert ("joint+mgda", "aggregator") in roles
    assert ("joint", "reference") in roles


def test_one_aggregator(add, read):
    add("joint+upgrad")
    judged = verdict(read())
    assert judged.outcome == "open"
    assert "--aggregator.kind sum and report again" in judged.details[0]
    add("joint")
    assert verdict(read()).headline.startswith("joint+upgrad did not beat joint: ")


def test_what_was_measured_is_said(add, read, page):
    """66 labels, 13 refreshes: what a run has beyond 66 x 13 are Gramians."""
    add("joint+upgrad", seeds=(0,), summary_changes={"cost": {"probe_label_gradients": 4000}})
    add("coloring", seeds=(0,), tau=0.1)
    add("coloring+famo", seeds=(0,), tau=0.1)
    text = page()
    assert {m.label: m.measurers for m in read().methods} == {
        "joint+upgrad": "Gramians", "coloring": "refreshes", "coloring+famo": "refreshes"
    }  # fmt: skip
    cost = {"probe_label_gradients": 5000, "refreshes": 13}
    add("coloring+upgrad", seeds=(0,), tau=0.1,
        summary_changes={"valid": {"ap": 0.9}, "cost": cost})  # fmt: skip
    details = " ".join(verdict(read()).details)
    assert "Its refreshes and Gramians measured 5,000 label-gradients on top." in details
    assert "probe + Gramian gradients" in text
    assert "aggregators&#39; Gramians" in text


def test_without_gramians_nothing_is_said_of_them(study, tmp_path):
    text = build_report([study], tmp_path / "r.html").read_text()
    assert "Gramian" not in text
    assert ">probe gradients<" in text


def test_all_that_differs_is_in_the_label(add, read):
    add("joint+upgrad")
    add("joint+upgrad", train={"gramian": "full", "gramian_every": 4})
    assert [method.label for method in read().methods] == [
        "joint+upgrad (gramian=full, gramian_every=4)",
        "joint+upgrad (gramian=last_layer, gramian_every=1)",
    ]


def test_what_comes_with_a_kind_is_not_in_the_label(add, read):
    """Only adapters have groups; they are named where two methods are told apart by them."""
    add("joint", config_changes={"head": {"kind": "linear"}})
    for last in (1, 2):
        head = {"kind": "adapters", "groups": [[0], [last]], "overlap": "refuse"}
        add("joint", config_changes={"head": head})
    assert [method.label for method in read().methods] == [
        "joint (head=linear, groups=None)",
        "joint (head=adapters, groups=[[0], [1]])",
        "joint (head=adapters, groups=[[0], [2]])",
    ]


def test_counts_of_one(add, page):
    add("joint", seeds=(0,))
    text = page()
    for noun in ("method", "seed", "run"):
        assert f"<b>1</b><span>{noun}</span>" in text
    assert "The run, with commands" in text
    assert not re.search(r"\b1 (methods|runs|seeds|labels|conflicts)\b", text)


def test_colors_are_distinct_in_every_theme(add, page):
    add("joint", seeds=(0,))
    found = re.findall(r"--m(\d+): (#[0-9a-f]{6})", page())
    size = METHOD_COLORS
    assert len(found) == 3 * size
    for theme in (found[:size], found[size : 2 * size], found[2 * size :]):
        assert [int(number) for number, _ in theme] == list(range(size))
        values = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for _, c in theme], float)
        apart = np.abs(values[:, None] - values[None]).sum(axis=2) + 1000 * np.eye(size)
        assert apart.min() >= 40
    assert len({method_variable(index) for index in range(size)}) == size
    assert method_variable(0) not in {method_variable(index) for index in range(1, 100)}


def test_ticks_of_short_runs_are_told_apart():
    assert [_thousands(x, 0) for x in (0, 0.05, 20, 150, 1200, 2.5e6)] == [
        "0", "0.05", "20", "150", "1,200", "2.5 M"
    ]  # fmt: skip

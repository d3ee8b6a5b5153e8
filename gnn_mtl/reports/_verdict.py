"""The headline: did grouping, or an aggregator, help, said as the data say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gnn_mtl.reports._compare import Comparison, MethodComparison, compare_runs
from gnn_mtl.reports._method_names import aggregator_flags, flatten
from gnn_mtl.reports._methods import Method, Study, other_options
from gnn_mtl.reports._table import TIMES, count, format_number

Outcome = Literal["better", "worse", "same", "trivial", "open"]
Subject = Literal["grouping", "aggregator", "both"]
LEVEL = 0.05
SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, eq=False)
class Verdict:
    """The finding of a study.

    Attributes:
        outcome: ``better``, ``worse``, ``same`` (no measurable difference), ``trivial`` (the
            grouping never made two groups) or ``open`` (nothing to compare).
        headline: One sentence.
        details: The numbers behind it and what qualifies it, sentence by sentence.
        method: The method it is about, chosen by validation AP; None if there is none.
        comparison: Every method against the reference: joint training with the aggregator of
            ``method``, or where it was not run with the plain sum; None without either.
        subject: What the outcome is owed to: the ``grouping``, the ``aggregator``, or ``both``
            where the method and its reference differ in both.
    """

    outcome: Outcome
    headline: str
    details: tuple[str, ...]
    method: Method | None
    comparison: Comparison | None
    subject: Subject = "grouping"


def verdict(study: Study) -> Verdict:
    """Say whether the best grouping method (by validation AP, never by test) beat joint training.

    It "beat" joint only if the difference of test AP is positive with a Holm-corrected paired
    bootstrap p below .05; a difference that is not significant is called that, either way. A method
    with an aggregator is held against joint training with that aggregator. In a study without
    groups the best aggregator is held against the plain sum by the same rule.
    """
    candidates = [m for m in study.methods if m.is_candidate and not m.is_partial]
    real = [method for method in candidates if not method.is_trivial]
    subject: Subject = "grouping"
    if not candidates:
        candidates = [m for m in study.methods if m.kind == "aggregated" and not m.is_partial]
        subject = "aggregator"
    chosen = max(real or candidates, key=_valid_ap, default=None)
    base = study.joint
    if chosen is not None and subject == "grouping":
        base = study.reference(chosen) or base
        if base is not None and base.aggregator != chosen.aggregator:
            subject = "both"
    comparison = compare_runs(study, base.label) if base is not None else None
    if chosen is None:
        return Verdict("open", "No grouping method was run, so there is nothing to judge.", (),
                       None, comparison)  # fmt: skip
    if comparison is None:
        return _alone(chosen, subject)
    if subject != "aggregator" and not real:
        return _trivial(candidates, chosen, comparison)
    one = comparison.find(chosen.label)
    if one is None:
        return Verdict(
            "open",
            f"{chosen.label} and {comparison.reference.label} share no seed, so they cannot be "
            "paired.", (), chosen, comparison, subject,
        )  # fmt: skip
    return _judged(one, comparison, candidates, subject)


def _alone(chosen: Method, subject: Subject) -> Verdict:
    """A method without a reference: say which run is missing."""
    if subject == "aggregator":
        headline = f"{chosen.label} has no joint run of the plain sum to be compared with."
        options = "--aggregator.kind sum"
    else:
        headline = f"{chosen.label} has no joint run to be compared with."
        options = "--scheduler.kind joint"
        if flatten(chosen.runs[0].config).get("head.kind") == "adapters":
            options += " --head.kind linear"  # adapters are groups, whatever the schedule
    advice = f"Run the same configuration with {options} and report again."
    return Verdict("open", headline, (advice,), chosen, None, subject)


def _trivial(candidates: list[Method], chosen: Method, comparison: Comparison) -> Verdict:
    names: dict[str, list[str]] = {}
    for method in candidates:
        names.setdefault(method.as_joint, []).append(method.label)
    said = ", and ".join(
        f"{' and '.join(labels)} trained exactly as {joint}" for joint, labels in names.items()
    )
    details = [
        "Every refresh found one group, so no label was ever held apart from another. "
        "A smaller tau would give several groups."
    ]
    if comparison.reference.aggregator != chosen.aggregator:
        details.append(
            f"What separates {chosen.label} from {comparison.reference.label} is the aggregator."
        )
    headline = f"The conflict graph stayed empty: {said}."
    return Verdict("trivial", headline, tuple(details), chosen, comparison)


def _judged(
    one: MethodComparison, comparison: Comparison, candidates: list[Method], subject: Subject
) -> Verdict:
    base, test = comparison.reference.label, one.tests["ap"]
    name = one.method.label
    if subject == "aggregator" and len(candidates) > 1:
        name += f", of {len(candidates)} aggregators the best by validation AP,"
    significant = test.p_holm < LEVEL
    outcome: Outcome = "same"
    if significant and test.delta != 0:
        outcome = "better" if test.delta > 0 else "worse"
    p = _p(test.p_holm)
    headline = {
        "better": f"{name} beat {base}: ΔAP = {_points(test.delta)} points, paired {p}.",
        "worse": f"{name} did worse than {base}: ΔAP = {_points(test.delta)} points, paired {p}.",
        "same": f"{name} did not beat {base}: ΔAP = {_points(test.delta)} points, paired {p}.",
    }[outcome]
    others = len(comparison.methods)
    details = _confounders(one.method, comparison.reference)
    details += [
        f"The 95 % interval of the difference is {_points(test.low)} to {_points(test.high)} "
        f"points, over {count(len(one.seeds), 'seed')} {TIMES} {count(len(one.tasks), 'label')} "
        f"(corrected for {count(others, 'comparison')} with {base}).",
        f"{count(test.wins, 'label')} gained, {test.losses} lost and {test.ties} tied "
        f"(Wilcoxon over labels: {_p(test.p_wilcoxon)}).",
    ]
    if "auroc" in one.tests:
        area = one.tests["auroc"]
        details.append(f"AUROC moved by {_points(area.delta)} points ({_p(area.p_holm)}).")
    details += _costs(one.method, comparison.reference)
    details += _controls(one.method, comparison)
    details += [
        f"{other.method.label} scored higher than either."
        for other in comparison.methods
        if other.method.kind not in ("single", "random")
        and not other.method.is_candidate
        and other.tests["ap"].delta > max(0.0, test.delta)
    ]
    details += [
        f"{method.label} never found two groups, so it trained exactly as {method.as_joint}."
        for method in candidates
        if method.is_trivial and subject != "aggregator"
    ]
    if len(one.seeds) < 3:
        details.append(
            f"With {count(len(one.seeds), 'seed')} nothing can be said about other seeds."
        )
    return Verdict(outcome, headline, tuple(details), one.method, comparison, subject)


def _confounders(method: Method, base: Method) -> list[str]:
    """Say what differs between a grouping method and its reference besides the groups."""
    if not method.is_candidate:
        return []
    if base.aggregator != method.aggregator:
        return [
            f"They differ in the aggregator too ({method.aggregator} against {base.aggregator}), "
            "so this is not what the groups did. Run the same configuration with --scheduler.kind "
            f"joint {aggregator_flags(method.runs[0].config)} and report again."
        ]
    differing = other_options(method, base)
    return [f"They differ in {', '.join(differing)} too."] if differing else []


def _controls(judged: Method, comparison: Comparison) -> list[str]:
    """Hold every grouping method against the random groups of its sizes."""
    controls = [one.method for one in comparison.methods if one.method.kind == "random"]
    sentences = []
    for one in comparison.methods:
        method = one.method
        if not method.is_candidate or method.is_trivial:
            continue
        matched = [control for control in controls if _is_matched(method, control)]
        subject = "It" if method is judged else method.label
        sentences += [_control(subject, method, control, comparison) for control in matched]
        if controls and not matched and method is judged:
            more = "" if method.aggregator == "sum" else " with its aggregator"
            sentences.append(
                f"No random groups of its sizes were run{more}, so what its groups are worth by "
                "themselves is not known."
            )
    return sentences


def _is_matched(method: Method, control: Method) -> bool:
    """Whether a control had its aggregator, and groups of its sizes at the same steps."""
    if method.aggregator != control.aggregator:
        return False

    def sizes(one: Method) -> dict[int, list[tuple[int, list[int]]]]:
        return {
            run.seed: [(r.step, sorted(map(len, r.groups))) for r in run.refreshes]
            for run in one.runs
        }

    mine, other = sizes(method), sizes(control)
    shared = mine.keys() & other.keys()
    return bool(shared) and all(mine[seed] == other[seed] for seed in shared)


def _control(subject: str, method: Method, control: Method, comparison: Comparison) -> str:
    """Say whether it did better than random groups: is it what is grouped, or how many?"""
    test = next(
        (one.tests["ap"] for one in compare_runs(comparison.study, control.label).methods
         if one.method is method),
        None,
    )  # fmt: skip
    if test is None:
        return f"{control.label} shares no seed with {method.label}: no control for it."
    p, groups = _p(test.p_bootstrap), f"random groups of its sizes ({control.label})"
    if test.p_bootstrap < LEVEL and test.delta > 0:
        return f"{subject} beat {groups} by {_size(test.delta)} points ({p})."
    if test.p_bootstrap < LEVEL:
        return f"{subject} did worse than {groups} by {_size(test.delta)} points ({p})."
    return (
        f"{subject} did no better than {groups} ({_points(test.delta)} points, {p}): "
        "what was grouped with what made no measurable difference."
    )


def _costs(method: Method, base: Method) -> list[str]:
    parts = []
    for key, words in (("label_gradients", "label-gradients"), ("seconds", "wall time")):
        ours, theirs = np.mean(method.values("cost", key)), np.mean(base.values("cost", key))
        if np.isfinite(ours) and np.isfinite(theirs) and theirs > 0:
            parts.append(f"{100 * ours / theirs:.0f} % of its {words}")
    said = [f"Against {base.label} it used {' and '.join(parts)}."] if parts else []
    probed = float(np.mean(method.values("cost", "probe_label_gradients")))
    if np.isfinite(probed) and probed > 0:
        said.append(f"Its {method.measurers} measured {probed:,.0f} label-gradients on top.")
    return said


def _valid_ap(method: Method) -> float:
    values = np.array(method.values("valid", "ap"))
    return float(values.mean()) if np.isfinite(values).all() else -np.inf


def _points(value: float) -> str:
    return format_number(value, "points")


def _size(value: float) -> str:
    return format_number(abs(value), "percent")


def _p(value: float) -> str:
    text = format_number(value, "probability")
    return f"p{SPACE}{text}" if text.startswith("<") else f"p{SPACE}={SPACE}{text}"

"""A label whose logits are not finite has no score; the others and the training go on."""

import json

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import LabelWarning, NonFiniteWarning, TrainingStoppedError
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.metrics import evaluate
from gnn_mtl.nn import exact_logits
from gnn_mtl.schedulers import JointScheduler
from gnn_mtl.training import Skipped, evaluate_split, fit

MEANS = ("ap", "auroc", "f1", "f1_top_k", "f1_true_k")


@pytest.fixture
def model(new_model):
    made = new_model(norm="none", dropout=0.0)
    return made.eval()


def broken(model, *tasks):
    """The model with a NaN in the head of some tasks."""
    weight = model.head_parameters()[0]
    with torch.no_grad():
        weight[list(tasks), 0] = torch.nan
    return model


def test_the_others_are_scored_as_if_it_did_not_exist(model, make_graph):
    graph = make_graph(num_nodes=200)
    nodes = graph.split_idx["valid"]
    y, observed = graph.targets(nodes, "valid")
    logits = exact_logits(model, graph, nodes)
    others = [0, 1, 3, 4]
    alone = evaluate(logits[:, others], y[:, others], observed[:, others], top_k=2)
    with pytest.warns(NonFiniteWarning, match=r"score of 1 task\(s\) is not finite: \['task_2'\]"):
        found = evaluate_split(broken(model, 2), graph, "valid", top_k=2)
    assert found.macro == pytest.approx(alone.macro)
    for name in MEANS:
        assert np.isnan(found.per_label[name][2])
        assert found.per_label[name][others] == pytest.approx(alone.per_label[name])
    assert found.scored.tolist() == [True, True, False, True, True]
    assert found.scorable.all()
    cells = (y * observed).sum(axis=0), observed.sum(axis=0)
    assert found.positives.tolist() == cells[0].tolist()
    assert found.observed.tolist() == cells[1].tolist()


def test_it_is_counted_and_warned_of_once(model, make_graph):
    graph, skipped = make_graph(), Skipped()
    broken(model, 1, 3)
    with pytest.warns(NonFiniteWarning, match="task_1.*task_3"):
        evaluate_split(model, graph, "valid", skipped=skipped)
    evaluate_split(model, graph, "valid", skipped=skipped)  # a warning would be an error here
    assert skipped.scores == {1: 2, 3: 2}
    assert not skipped.losses


def test_nothing_left_to_score_stops(model, make_graph):
    broken(model, 0, 1, 2, 3, 4)
    with pytest.raises(TrainingStoppedError, match="diverged"):
        evaluate_split(model, make_graph(), "valid")


def test_labels_of_one_class_are_nothing_to_score(model, make_graph):
    graph = make_graph(missing=0.0)
    labels = np.zeros((graph.num_nodes, graph.num_tasks))
    labels[::2, 0] = 1  # the only label with both classes
    edges = graph.to_pyg().edge_index.numpy()
    with pytest.warns(LabelWarning):
        one = TaskGraph.from_arrays(edges, labels, x=graph.x, split=dict(graph.split_idx))
    with pytest.raises(TrainingStoppedError, match="diverged"):
        evaluate_split(broken(model, 0), one, "valid")


def test_a_run_with_a_broken_head_goes_on_and_says_so(new_model, make_graph, budget):
    graph = make_graph()
    model = broken(new_model(), 2)
    with pytest.warns(NonFiniteWarning) as warned:
        done = fit(model, graph, JointScheduler(graph.num_tasks), budget())
    said = [str(warning.message) for warning in warned]
    assert sum("loss of 1 task(s)" in text and "task_2" in text for text in said) == 1
    assert sum("score of 1 task(s)" in text and "task_2" in text for text in said) == 1
    assert done.cost.steps == 12
    assert done.cost.skipped_scores == 3
    assert done.cost.skipped_losses == 12
    assert 0 < done.valid["ap"] <= 1
    values = json.loads(json.dumps(done.cost.to_dict()))
    assert values["skipped_scores"] == 3


def test_a_model_that_scores_fewer_labels_is_not_better_for_it(new_model, make_graph, budget):
    """The best model is chosen by a mean in which a label without a score counts 0."""
    graph, breaks = make_graph(), 2
    model = new_model()
    schedule = JointScheduler(graph.num_tasks)
    taken = schedule.active_tasks

    def active_tasks(**options):
        if schedule.step == 4 * breaks:  # after the second evaluation only the best label is left
            best = int(np.nanargmax(evaluate_split(model, graph, "valid").per_label["ap"]))
            broken(model, *(t for t in range(5) if t != best))
        return taken(**options)

    schedule.active_tasks = active_tasks
    with pytest.warns(NonFiniteWarning):
        done = fit(model, graph, schedule, budget(epochs=4))
    assert done.best_epoch <= breaks
    assert done.cost.skipped_scores == 4 * 2
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_counts_go_on_after_a_resume(new_model, make_graph, budget, tmp_path):
    graph = make_graph()
    total = []
    for epochs, resume in ((1, False), (3, True)):
        model = broken(new_model(), 2)
        if not resume:
            with pytest.warns(NonFiniteWarning):
                done = fit(
                    model, graph, JointScheduler(5),
                    budget(epochs=epochs, lr_schedule="constant"), checkpoints=tmp_path,
                )  # fmt: skip
        else:  # named before: no warning
            done = fit(
                model, graph, JointScheduler(5), budget(epochs=epochs, lr_schedule="constant"),
                checkpoints=tmp_path, resume=True,
            )  # fmt: skip
        total.append(done.cost.skipped_scores)
    assert total == [1, 3]

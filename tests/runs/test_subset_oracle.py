"""Subsets really trained: the same numbers in any order, process or number of calls."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from gnn_mtl._core.errors import (
    FileFormatError,
    InterruptedRunError,
    RecordError,
    SealedLabelsError,
    ShapeError,
    TrainingStoppedError,
    UsageError,
)
from gnn_mtl._core.threads import one_thread
from gnn_mtl.datasets import TaskGraph
from gnn_mtl.nn import Adapters, exact_logits
from gnn_mtl.runs import SubsetOracle, build_model, load_trained, train_table
from gnn_mtl.runs._build import with_inputs
from gnn_mtl.tasks import SubsetTable
from gnn_mtl.training import SUBSET_METRICS, Train, task_model, train_subset

MASKS = (
    np.array([[1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 1, 0]]) > 0
)


@pytest.fixture(scope="module")
def seen(quick, graph):
    """The graph with the features of the quick configuration."""
    return with_inputs(graph, quick())


@pytest.fixture(scope="module")
def table(quick, graph):
    """Two seeds, in this process."""
    return SubsetOracle(config=quick(), graph=graph, seeds=(0, 3))(MASKS)


# one training


def test_scores_are_those_of_the_best_weights_on_validation(quick, seen):
    one = seen.select_tasks([0, 4])
    model = build_model(quick(), one)
    done = train_subset(model, one, quick().train, seed=5)
    nodes = one.split_idx["valid"]
    y, observed = one.targets(nodes, "valid")
    logits = exact_logits(model, one, nodes).astype(np.float64)
    chance = 1 / (1 + np.exp(-logits))
    for task in range(2):
        rows = observed[:, task]
        truth, z, p = y[rows, task], logits[rows, task], chance[rows, task]
        for name, wanted in {
            "loss": -log_loss(truth, p), "ap": average_precision_score(truth, z),
            "auroc": roc_auc_score(truth, z), "f1": f1_score(truth, z > 0),
        }.items():  # fmt: skip
            assert done.scores[name][task] == pytest.approx(wanted, rel=1e-6)
    assert done.cost.steps == done.cost.forwards == done.cost.backwards == 12
    assert done.cost.label_gradients == 24


def test_it_is_a_function_of_seed_and_subset(quick, seen):
    def scores(tasks, seed):
        one = seen.select_tasks(tasks)
        return train_subset(build_model(quick(), one), one, quick().train, seed=seed).scores["loss"]

    first = scores([1, 3], 0)
    scores([0, 1, 2, 3], 7)
    torch.rand(5)
    np.testing.assert_array_equal(scores([1, 3], 0), first)
    assert not np.array_equal(scores([1, 3], 1), first)


def test_early_stopping_keeps_the_best_epoch(quick, seen, monkeypatch):
    """Validation falls after the second epoch: weights of epoch 2, stopped after two stale ones."""
    import gnn_mtl.training._subset_training as module

    weights, given = [], iter([0.1, 0.5, 0.3, 0.4, 0.9])
    real = module._valid_scores

    def scores(model, graph, wanted, *more):
        if wanted == ("ap",):
            weights.append(next(model.parameters()).detach().clone())
            return {"ap": np.array([next(given)])}
        return real(model, graph, wanted, *more)

    monkeypatch.setattr(module, "_valid_scores", scores)
    one = seen.select_tasks([2])
    model = build_model(quick(), one)
    budget = dataclasses.replace(quick().train, epochs=9, eval_every=1, patience=2)
    done = train_subset(model, one, budget, monitor="ap")
    assert (done.best_epoch, len(weights)) == (2, 4)
    torch.testing.assert_close(next(model.parameters()).detach(), weights[1], rtol=0, atol=0)


def test_a_share_of_the_nodes_is_one_for_all_subsets(quick, seen, monkeypatch):
    import gnn_mtl.training._subset_training as module

    seeds_seen = []
    real = module.training_loader

    def watch(graph, model, config, **options):
        seeds_seen.append((set(options["input_nodes"].tolist()), options["batch_size"]))
        return real(graph, model, config, **options)

    monkeypatch.setattr(module, "training_loader", watch)
    for tasks, seed in (([0], 0), ([3, 5], 0), ([0], 1)):
        one = seen.select_tasks(tasks)
        train_subset(build_model(quick(), one), one, quick().train, seed=seed, train_share=0.5)
    nodes = set(seen.split_idx["train"].tolist())
    (first, size), (second, _), (other, _) = seeds_seen
    assert first == second < nodes
    assert 0.35 < len(first) / len(nodes) < 0.65
    assert other != first
    assert size == 24


def test_test_labels_are_out_of_reach(quick, seen, monkeypatch):
    asked = []
    real = TaskGraph.targets

    def watch(self, nodes, split):
        asked.append(split)
        return real(self, nodes, split)

    monkeypatch.setattr(TaskGraph, "targets", watch)
    one = seen.select_tasks([0, 1])
    train_subset(build_model(quick(), one), one, quick().train)
    assert set(asked) == {"train", "valid"}
    with pytest.raises(SealedLabelsError):
        seen.sealed().targets(np.arange(3), "test")


def test_a_label_of_one_class_has_a_loss_only(quick, graph):
    y = np.zeros((graph.num_nodes, 2), np.float32)
    y[:, 0] = np.arange(graph.num_nodes) % 3 == 0
    y[graph.split_idx["train"][:9], 1] = 1
    edges = np.array([[0, 1], [1, 2]])
    small = TaskGraph.from_arrays(edges, y, split=graph.split_idx, x=np.asarray(graph.x))
    config = dataclasses.replace(quick(), features=dataclasses.replace(quick().features, use="own"))
    scores = train_subset(build_model(config, small), small, config.train).scores
    assert np.isfinite(scores["loss"]).all()
    for name in ("ap", "auroc", "f1"):
        assert np.isnan(scores[name]).tolist() == [False, True]


def test_bad_arguments_of_a_training(quick, seen):
    one = seen.select_tasks([0])
    for options in ({"train_share": 0.0}, {"train_share": 1.5}, {"monitor": "rank"}):
        with pytest.raises(UsageError):
            train_subset(build_model(quick(), one), one, quick().train, **options)
    with pytest.raises(UsageError, match="select_tasks"):
        train_subset(build_model(quick(), seen), one, Train())


def test_task_model_copies_rows(quick, seen):
    model = build_model(quick(), seen)
    part = task_model(model, [4, 1])
    nodes = np.arange(20)
    wanted = exact_logits(model, seen, nodes)[:, [4, 1]]
    np.testing.assert_allclose(exact_logits(part, seen, nodes), wanted, rtol=1e-6)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
    assert exact_logits(model, seen, nodes).any()
    with pytest.raises(ShapeError):
        task_model(model, [0, 1, 2], heads=part.heads)


# tables


def test_the_table(table, quick, seen):
    assert (table.source, table.metric, table.split) == ("trained", "loss", "valid")
    assert (table.known == MASKS).all()
    with one_thread():
        one = seen.select_tasks([1, 2])
        config = quick()
        each = [
            train_subset(
                build_model(dataclasses.replace(config, seed=s), one), one, config.train, seed=s
            ).scores["loss"]
            for s in (0, 3)
        ]  # fmt: skip
    np.testing.assert_allclose(table.scores[1, [1, 2]], np.mean(each, axis=0), rtol=1e-12)
    wanted = np.std(each, axis=0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(table.stderr[1, [1, 2]], wanted, rtol=1e-9)
    np.testing.assert_array_equal(table.scores[0], table.scores[2])
    assert table.details["trainings"] == 6  # three different subsets, two seeds
    assert table.label_names == seen.label_names


@pytest.mark.slow  # two processes import everything anew
@pytest.mark.parametrize("is_given", [True, False])  # handed over, or loaded by each process
def test_two_processes_give_the_same_numbers(is_given, table, quick, graph):
    given = graph if is_given else None
    again = SubsetOracle(config=quick(), graph=given, seeds=(0, 3), workers=2)(MASKS[::-1])
    np.testing.assert_array_equal(again.scores[::-1], table.scores)


def test_a_baseline_of_single_tasks(quick, graph, tmp_path):
    oracle = SubsetOracle(config=quick(), graph=graph, journal=tmp_path / "j.jsonl")
    table = oracle(MASKS[:2], baseline=True)
    subsets = oracle(MASKS[:2])
    alone = oracle(np.eye(6, dtype=bool)[[0, 1, 2, 5]])
    for name, of_subsets, of_tasks in (("trainings", 2, 4), ("steps", 24, 48)):
        assert subsets.details[name] == of_subsets
        assert alone.details[name] == of_tasks
        assert table.details[name] == of_subsets + of_tasks
    for name in ("seconds", "label_gradients"):
        both = subsets.details[name] + alone.details[name]
        assert table.details[name] == pytest.approx(both)
    assert np.isnan(table.baseline).tolist() == [False, False, False, True, True, False]
    for row, task in enumerate((0, 1, 2, 5)):
        assert table.baseline[task] == alone.scores[row, task]


def test_every_metric_comes_from_one_journal(quick, graph, tmp_path):
    file = tmp_path / "table.journal"
    table = train_table(quick(), MASKS[:2], tmp_path / "table.npz", graph=graph)
    loaded = SubsetTable.load(tmp_path / "table.npz")
    np.testing.assert_array_equal(loaded.scores, table.scores)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["header", "subset", "subset"]
    assert set(rows[1]["scores"]) == set(SUBSET_METRICS)
    assert rows[1]["scores"]["loss"] == table.scores[0, [0, 1, 5]].tolist()


# interruptions


def test_an_interrupted_call_goes_on(table, quick, graph, tmp_path, monkeypatch):
    import gnn_mtl.runs._subset_oracle as module

    file = tmp_path / "j.jsonl"
    real, trained = module._Worker.train, []

    def stop_in_the_third(self, tasks, seed):
        trained.append((tasks, seed))
        if len(trained) == 3:
            signal.raise_signal(signal.SIGINT)
        return real(self, tasks, seed)

    monkeypatch.setattr(module._Worker, "train", stop_in_the_third)
    oracle = SubsetOracle(config=quick(), graph=graph, seeds=(0, 3), journal=file)
    with pytest.raises(InterruptedRunError, match="2 of 6 trainings are kept") as caught:
        oracle(MASKS)
    assert caught.value.exit_code == 130
    file.write_bytes(file.read_bytes() + b'{"kind":"subset","tas')  # as a kill leaves it
    again = oracle(MASKS)
    np.testing.assert_array_equal(again.scores, table.scores)
    assert len(trained) == 3 + 4
    assert len(set(trained)) == 6
    oracle(MASKS)
    assert len(trained) == 7  # nothing is trained twice


@pytest.mark.slow
def test_processes_stop_at_a_signal_and_go_on(dataset, tmp_path, quick):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(quick(train={"epochs": 40, "patience": None}).to_dict()))
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from gnn_mtl.runs import RunConfig, SubsetOracle\n"
        "if __name__ == '__main__':\n"
        f"    config = RunConfig.load({str(config)!r})\n"
        "    masks = (np.arange(1, 64)[:, None] >> np.arange(6)) % 2 == 1\n"
        f"    journal = {str(tmp_path / 'j.jsonl')!r}\n"
        "    SubsetOracle(config=config, workers=2, journal=journal)(masks)\n",
        encoding="utf-8",
    )
    work = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    journal, deadline = tmp_path / "j.jsonl", time.monotonic() + 400
    while time.monotonic() < deadline and work.poll() is None:
        if journal.exists() and len(journal.read_text().splitlines()) >= 2:
            break
        time.sleep(0.05)
    work.send_signal(signal.SIGINT)
    _, said = work.communicate(timeout=120)
    assert "InterruptedRunError" in said
    assert "of 63 trainings are kept" in said
    rows = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert 1 <= len(rows) < 63
    assert len({tuple(row["tasks"]) for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_killed_worker_is_told(quick, graph, tmp_path, monkeypatch):
    import gnn_mtl.runs._subset_oracle as module

    monkeypatch.setattr(module, "_start", _die)
    oracle = SubsetOracle(config=quick(), graph=graph, workers=2, journal=tmp_path / "j.jsonl")
    with pytest.raises(TrainingStoppedError, match="fewer --workers"):
        oracle(MASKS)


def _die(*_):
    os._exit(9)


def test_a_training_without_a_finite_loss_is_a_row_of_nan(quick, graph, monkeypatch):
    import gnn_mtl.runs._subset_oracle as module

    def fail(*_, **__):
        raise TrainingStoppedError("no finite loss")

    monkeypatch.setattr(module, "train_subset", fail)
    table = SubsetOracle(config=quick(), graph=graph)(MASKS)
    assert np.isnan(table.scores).all()


# journals


def test_another_setting_is_refused(quick, graph, tmp_path):
    file = tmp_path / "j.jsonl"
    SubsetOracle(config=quick(), graph=graph, journal=file)(MASKS[:1])
    changed = {
        "train": quick(train={"lr": 0.5}), "encoder": dataclasses.replace(
            quick(), encoder=dataclasses.replace(quick().encoder, dropout=0.1)),
    }  # fmt: skip
    for name, config in changed.items():
        with pytest.raises(RecordError, match=name):
            SubsetOracle(config=config, graph=graph, journal=file)(MASKS[:1])
    with pytest.raises(RecordError, match="monitor"):
        SubsetOracle(config=quick(), graph=graph, journal=file, metric="ap")(MASKS[:1])
    # Where and how it is computed decides nothing.
    SubsetOracle(config=quick(train={"num_workers": 1, "log_every": 7}), graph=graph,
                 journal=file)(MASKS[:1])  # fmt: skip


def test_foreign_and_damaged_journals(quick, graph, tmp_path):
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"kind": "train"}\n')
    broken = tmp_path / "broken.jsonl"
    SubsetOracle(config=quick(), graph=graph, journal=broken)(MASKS[:1])
    broken.write_text(broken.read_text() + '{"kind":"subset"}\n')
    for file in (foreign, broken):
        with pytest.raises(FileFormatError):
            SubsetOracle(config=quick(), graph=graph, journal=file)(MASKS[:1])


def test_one_writer_at_a_time(quick, graph, tmp_path):
    from gnn_mtl.runs._subset_journal import SubsetJournal

    with SubsetJournal(tmp_path / "j.jsonl", {}), pytest.raises(RecordError, match="another"):
        SubsetOracle(config=quick(), graph=graph, journal=tmp_path / "j.jsonl")(MASKS)


# fine-tuning and what is refused


def test_fine_tuned_subsets_begin_with_the_base(quick, graph, straight):
    folder = straight(quick())
    still = quick(train={"max_steps": 1, "lr": 1e-12, "weight_decay": 0.0, "warmup_steps": 0})
    table = SubsetOracle(config=still, graph=graph, base=folder)(MASKS[:2])
    assert table.source == "finetuned"
    _, full, base = load_trained(folder)
    nodes = full.split_idx["valid"]
    y, _ = full.targets(nodes, "valid")
    z = exact_logits(base, full, nodes).astype(np.float64)
    loss = (np.logaddexp(0, z) - y * z).mean(axis=0)
    # Running statistics of the norm move in the step, so not to the last digit.
    np.testing.assert_allclose(table.scores[0, MASKS[0]], -loss[MASKS[0]], rtol=0.05)
    fresh = SubsetOracle(config=still, graph=graph, base=folder, heads="fresh")(MASKS[:2])
    assert not np.allclose(fresh.scores[0, MASKS[0]], table.scores[0, MASKS[0]], rtol=0.05)


def test_bad_oracles_and_masks(quick, graph):
    for options in (
        {"seeds": ()}, {"seeds": (1, 1)}, {"workers": 0}, {"metric": "rank"}, {"heads": "none"},
        {"train_share": 0.0}, {"train_share": 1.5},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            SubsetOracle(config=quick(), graph=graph, **options)
    with pytest.raises(UsageError, match="Adapters"):
        SubsetOracle(config=dataclasses.replace(quick(), head=Adapters(groups=((0,), (1,)))))
    inputs = dataclasses.replace(quick().features, labels=True)
    with pytest.raises(UsageError, match="labels as inputs"):
        SubsetOracle(config=quick(features=inputs), graph=graph, base="runs/joint")
    oracle = SubsetOracle(config=quick(), graph=graph)
    for masks in (MASKS[:, :5], MASKS.astype(int), MASKS[0], np.zeros((2, 6), bool)):
        with pytest.raises(ShapeError):
            oracle(masks)

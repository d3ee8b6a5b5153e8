"""The run folder: round trips, refusals, kills, resumes, damage, full disks, old versions."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_mtl._core.errors import (
    DataError,
    FileFormatError,
    RecordError,
    StorageError,
    UsageError,
)  # fmt: skip
from gnn_mtl.records import RunWriter, find_runs, manifest, read_run
from gnn_mtl.tasks import Affinity

NAMES = ["red", "green", "blue"]
CONFIG = {"dataset": "toy", "seed": 4, "scheduler": {"kind": "coloring", "tau": 0.25}}
DATASET = {"name": "toy", "sha256": "0" * 64, "num_nodes": 9, "num_edges": 20, "num_tasks": 3,
           "label_names": NAMES}  # fmt: skip
SUMMARY = {
    "status": "done", "method": "coloring", "best_step": 20, "best_epoch": 2,
    "valid": {"ap": 0.5, "auroc": 0.6, "f1": 0.1}, "test": {"ap": 0.4, "auroc": 0.7, "f1": 0.2},
    "per_label": {"ap": np.array([0.3, np.nan, 0.5]), "positives_test": [4, 0, np.int64(7)]},
    "tasks": [0, 1, 2], "cost": {"seconds": 1.5, "steps": 20, "label_gradients": 40},
    "num_parameters": 12, "later_addition": {"kept": True},
}  # fmt: skip
FIXTURE = Path(__file__).parent / "fixtures" / "run-v1"


def affinity():
    return Affinity(np.array([[1, -0.5, np.nan], [-0.5, 1, 0.2], [np.nan, 0.2, 1]]), "test")


def begin(path):
    writer = RunWriter.open(path)
    writer.write_config(CONFIG)
    writer.write_manifest(manifest(dataset=DATASET, seed=4, command=["gnn-mtl", "train", "a b"]))
    return writer


def log(writer, steps, **extra):
    for step in steps:
        writer.log_train(step=step, epoch=step // 10, loss=1 / step, num_active=2, lr=0.01,
                         seconds=step * 0.1, **extra)  # fmt: skip
        if step % 10 == 0:
            writer.log_valid(step=step, epoch=step // 10, ap=0.1, auroc=np.float32(0.5),
                             f1=math.nan, seconds=step * 0.1, **extra)  # fmt: skip
            writer.log_grouping(step=step, groups=[(0, 2), (1,)], tau=0.25, num_edges=1,
                                num_colors=2, warnings=["w"], affinity=affinity())  # fmt: skip


def whole(path):
    with begin(path) as writer:
        log(writer, range(1, 21))
        writer.write_summary(SUMMARY)
        writer.finish()
    return path


@contextmanager
def full_disk(size):
    """Let the system itself refuse writes beyond ``size`` bytes per file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_round_trip(tmp_path):
    record = read_run(whole(tmp_path / "run"), finished=True)
    assert record.done
    assert record.config == CONFIG
    assert (record.method, record.kind, record.seed, record.dataset) == (
        "coloring", "coloring", 4, "toy"
    )  # fmt: skip
    assert record.label_names == tuple(NAMES)
    assert record.num_tasks == 3
    assert record.manifest.command == "gnn-mtl train 'a b'"
    assert [row.step for row in record.train] == list(range(1, 21))
    assert record.train[3].loss == 0.25
    assert [row.step for row in record.valid] == [10, 20]
    assert math.isnan(record.valid[0].f1)
    assert record.refreshes[1].groups == ((0, 2), (1,))
    assert record.refreshes[1].warnings == ("w",)
    assert record.refreshes[1].churn is None
    np.testing.assert_array_equal(record.affinity(record.refreshes[1]).values, affinity().values)
    summary = record.summary
    np.testing.assert_array_equal(summary.per_label["ap"], [0.3, np.nan, 0.5])
    assert summary.per_label["positives_test"].tolist() == [4, 0, 7]
    assert summary.test["ap"] == 0.4
    assert summary.cost["label_gradients"] == 40
    assert summary.extra == {"later_addition": {"kept": True}}
    names = {file.name for file in record.path.iterdir()}
    assert names == {"config.json", "manifest.json", "metrics.jsonl", "groupings.jsonl",
                     "summary.json", "affinity", "checkpoints", "DONE"}  # fmt: skip


def test_configured_name_is_the_method(tmp_path):
    with begin(tmp_path) as writer:
        writer.write_config(CONFIG | {"name": "tau 0.25"})
    assert read_run(tmp_path).method == "tau 0.25"
    assert read_run(tmp_path).summary is None


def test_groups_keep_their_schedule_order(tmp_path):
    with begin(tmp_path) as writer:
        writer.log_grouping(step=0, groups=[[2], [0, 1]])
    assert read_run(tmp_path).refreshes[0].groups == ((2,), (0, 1))


def test_finished_foreign_and_unfinished_folders_are_refused(tmp_path):
    run = whole(tmp_path / "run")
    for resume in (False, True):
        with pytest.raises(RecordError, match="finished run"):
            RunWriter.open(run, resume=resume, step=3)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    (other / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"Found other files: \['config.json', 'thesis.tex'\]"):
        RunWriter.open(other)
    assert sorted(file.name for file in other.iterdir()) == ["config.json", "thesis.tex"]
    with pytest.raises(UsageError, match="Found a file"):
        RunWriter.open(other / "thesis.tex")
    begin(tmp_path / "half").close()
    with pytest.raises(RecordError, match="--resume"):
        RunWriter.open(tmp_path / "half")
    with pytest.raises(RecordError, match="no run to resume"):
        RunWriter.open(tmp_path / "new", resume=True, step=0)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UsageError, match="step"):
        RunWriter.open(tmp_path / "half", resume=True)
    with pytest.raises(RecordError, match="no DONE"):
        read_run(tmp_path / "half", finished=True)


def test_a_run_killed_before_its_manifest_can_start_again(tmp_path):
    RunWriter.open(tmp_path).close()
    begin(tmp_path).close()
    assert not read_run(tmp_path).done


def test_two_writers(tmp_path):
    writer = begin(tmp_path)
    for resume in (False, True):
        with pytest.raises(RecordError, match="another process"):
            RunWriter.open(tmp_path, resume=resume, step=0)
    writer.close()
    writer.close()
    RunWriter.open(tmp_path, resume=True, step=0).close()


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
    with begin(tmp_path) as writer:
        log(writer, range(1, 26))
        writer.write_summary(SUMMARY)
    with RunWriter.open(tmp_path, resume=True, step=13) as writer:
        log(writer, range(14, 21))
        with pytest.raises(RecordError, match=r"groupings\.jsonl"):
            writer.log_grouping(step=21, groups=[[0, 1, 3]])
        assert not (tmp_path / "summary.json").exists()
        writer.write_summary(SUMMARY)
        writer.finish()
    record, straight = read_run(tmp_path), read_run(whole(tmp_path.parent / "straight"))
    assert record.train == straight.train
    assert repr(record.valid) == repr(straight.valid)
    assert record.refreshes == straight.refreshes
    assert [file.name for file in sorted((tmp_path / "affinity").iterdir())] == [
        "step-000010.npz", "step-000020.npz"
    ]  # fmt: skip


def test_resume_of_single_task_models(tmp_path):
    with begin(tmp_path) as writer:
        for task in (2, 0, 1):
            log(writer, range(1, 8), task=task)
    RunWriter.open(tmp_path, resume=True, step=5, task=0).close()
    rows = [(row.task, row.step) for row in read_run(tmp_path).train]
    assert rows == [(2, step) for step in range(1, 8)] + [(0, step) for step in range(1, 6)]
    RunWriter.open(tmp_path, resume=True, step=0, task=1).close()
    assert len(read_run(tmp_path).train) == 12


def test_a_cut_last_line_is_ignored_and_then_removed(tmp_path):
    with begin(tmp_path) as writer:
        log(writer, range(1, 4))
    file = tmp_path / "metrics.jsonl"
    content = file.read_bytes()
    for cut in range(content.rfind(b"\n", 0, -1) + 2, len(content)):
        file.write_bytes(content[:cut])
        assert [row.step for row in read_run(tmp_path).train] == [1, 2]
    with RunWriter.open(tmp_path, resume=True, step=3) as writer:
        log(writer, [3])
    assert file.read_bytes() == content


def test_a_killed_writer_leaves_a_readable_run(tmp_path):
    code = """
import os, sys
from gnn_mtl.records import RunWriter, manifest
writer = RunWriter.open(sys.argv[1])
writer.write_config({"scheduler": {"kind": "joint"}})
writer.write_manifest(manifest(seed=0, dataset={"name": "d", "num_tasks": 1, "label_names": ["a"]}))
for step in range(500):
    writer.log_train(step=step, epoch=0, loss=1.0, num_active=1, lr=0.1, seconds=0.0)
    if step == 300:
        os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [row.step for row in read_run(tmp_path).train] == list(range(301))
    RunWriter.open(tmp_path, resume=True, step=300).close()


def test_numbers_that_json_lacks(tmp_path):
    with begin(tmp_path) as writer:
        writer.log_train(
            step=np.int64(1), epoch=0, loss=math.inf, num_active=np.int32(3), lr=0.1, seconds=0.0,
            losses=np.array([1.0, np.nan]), low=np.float32("nan"),
        )  # fmt: skip
    row = read_run(tmp_path).train[0]
    assert (row.step, row.num_active) == (1, 3)
    assert math.isnan(row.loss)
    assert row.extra == {"losses": [1.0, None], "low": None}
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    writer = begin(tmp_path)
    log(writer, range(1, 11))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    big = {**SUMMARY, "note": "x" * 5000}
    lines = (tmp_path / "metrics.jsonl").stat().st_size
    with full_disk(lines + 20):
        with pytest.raises(StorageError, match=r"metrics\.jsonl"):
            log(writer, [11])
        with pytest.raises(StorageError, match=r"summary\.json"):
            writer.write_summary(big)
        with pytest.raises(StorageError, match=r"config\.json"):
            writer.write_config({"x": "y" * 5000})
    with full_disk(50), pytest.raises(StorageError, match=r"step-000012.npz"):
        writer.log_grouping(step=12, groups=[[0, 1, 2]], affinity=affinity())
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after == before
    log(writer, range(11, 21))
    writer.write_summary(SUMMARY)
    writer.finish()
    writer.close()
    assert len(read_run(tmp_path, finished=True).train) == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError):
        RunWriter.open(tmp_path / "run")


def test_a_run_is_not_finished_before_everything_is_there(tmp_path):
    with begin(tmp_path) as writer:
        with pytest.raises(RecordError, match=r"summary.json"):
            writer.finish()
        with pytest.raises(RecordError, match=r"per_label\.ap"):
            writer.write_summary(SUMMARY | {"per_label": {"ap": [0.5]}})
        with pytest.raises(RecordError, match="method"):
            writer.write_summary({"status": "done"})
        with pytest.raises(RecordError, match="JSON has no set"):
            writer.write_summary(SUMMARY | {"cost": {"seconds": {1}}})
        with pytest.raises(RecordError, match="label_names"):
            writer.write_manifest(manifest(dataset=DATASET | {"num_tasks": 4}, seed=0))
    assert not (tmp_path / "DONE").exists()


REMOVED = None
DAMAGE = [
    ("manifest.json", ('"version": 1', '"version": 2'), RecordError, "Upgrade"),
    ("manifest.json", ("gnn-mtl/run", "x"), FileFormatError, "`format`"),
    ("manifest.json", ('"seed": 4', '"seed": "4"'), FileFormatError, "`seed`"),
    ("manifest.json", ("}\n", ""), FileFormatError, r"manifest.json:\d+"),
    ("manifest.json", b"[1]", FileFormatError, "list"),
    ("manifest.json", REMOVED, RecordError, "no such file"),
    ("config.json", REMOVED, RecordError, r"config\.json"),
    ("summary.json", REMOVED, RecordError, r"summary\.json"),
    ("summary.json", ('"tasks": [', '"tasks": [7,'), FileFormatError, "ids below 3"),
    ("summary.json", ("0.3", '"high"'), FileFormatError, "`ap`"),
    ("metrics.jsonl", ('"loss":0.5', '"loss":"x"'), FileFormatError, r"jsonl:2 .*`loss`"),
    ("metrics.jsonl", ('{"kind":"train","step":3', "{"), FileFormatError, "jsonl:3"),
    ("metrics.jsonl", b"7\n", FileFormatError, "jsonl:1 .*int"),
    ("metrics.jsonl", ('"step":3,', ""), FileFormatError, "`step` is missing"),
    ("metrics.jsonl", ('"kind":"train"', '"kind":1'), FileFormatError, "`kind`"),
    ("metrics.jsonl", b"[" * 100_000 + b"\n", FileFormatError, "jsonl:1"),
    ("groupings.jsonl", ("[0,2]", "[0,3]"), FileFormatError, "task ids below 3"),
    ("groupings.jsonl", ("[0,2]", "[]"), FileFormatError, "non-empty"),
    ("groupings.jsonl", ("affinity/step", "affinity/../step"), FileFormatError, "in affinity/"),
    ("groupings.jsonl", ("affinity/step-000010", "/etc/passwd"), FileFormatError, "in affinity/"),
    ("groupings.jsonl", b"\xff\xfe\n", FileFormatError, "jsonl:1"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), DAMAGE)
def test_damage_is_named(tmp_path, name, change, error, message):
    run = whole(tmp_path / "run")
    if change is REMOVED:
        (run / name).unlink()
    elif isinstance(change, bytes):
        (run / name).write_bytes(change)
    else:
        before = (run / name).read_text()
        assert change[0] in before
        (run / name).write_text(before.replace(*change))
    with pytest.raises(error, match=message) as caught:
        read_run(run)
    assert caught.value.exit_code == 3


def test_damaged_affinity(tmp_path):
    run = whole(tmp_path / "run")
    record = read_run(run)
    (run / "affinity" / "step-000010.npz").write_bytes(b"nonsense")
    with pytest.raises(FileFormatError, match=r"step-000010.npz"):
        record.affinity(record.refreshes[0])
    (run / "affinity" / "step-000020.npz").unlink()
    with pytest.raises(FileFormatError, match="missing"):
        record.affinity(record.refreshes[1])
    Affinity(np.eye(2), "t").save(run / "affinity" / "step-000020.npz")
    with pytest.raises(FileFormatError, match=r"3 tasks\. Found 2"):
        record.affinity(record.refreshes[1])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_only_typed_errors_escape_damaged_folders(tmp_path_factory, data):
    global _FUZZED
    if _FUZZED is None:
        _FUZZED = whole(tmp_path_factory.mktemp("fuzz") / "run")
    name = data.draw(st.sampled_from(
        ["manifest.json", "config.json", "summary.json", "metrics.jsonl", "groupings.jsonl"]
    ))  # fmt: skip
    original = (_FUZZED / name).read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=4))
        damaged = damaged or bytearray(b"x")
    try:
        (_FUZZED / name).write_bytes(bytes(damaged))
        record = read_run(_FUZZED)
        for refresh in record.refreshes:
            record.affinity(refresh)
        assert record.method
    except DataError:
        pass
    finally:
        (_FUZZED / name).write_bytes(original)


_FUZZED = None


def test_kinds_of_a_later_version_are_skipped(tmp_path):
    run = whole(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind":"profile","step":1}\n')
    with (run / "groupings.jsonl").open("a") as file:
        file.write('{"kind":"merge","step":1}\n')
    record = read_run(run)
    assert (len(record.train), len(record.valid), len(record.refreshes)) == (20, 2, 2)


def test_the_version_1_fixture_stays_readable():
    """A folder written by the first release; never rewrite it, add one beside it."""
    record = read_run(FIXTURE, finished=True)
    assert record.manifest.version == 1
    assert record.manifest.commit == "0" * 40
    assert record.method == "coloring"
    assert len(record.train) == 4
    assert record.valid[-1].ap == 0.41
    assert record.refreshes[0].groups == ((1,), (0, 2))
    assert record.affinity(record.refreshes[0]).values[0, 1] == -0.5
    assert record.summary.test["ap"] == 0.4
    assert np.isnan(record.summary.per_label["ap"][1])


def test_find_runs(tmp_path):
    run = whole(tmp_path / "b" / "run")
    shutil.copytree(run, tmp_path / "a" / "deep" / "run")
    shutil.copytree(tmp_path / "a", run / "checkpoints" / "not-searched")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(run)
    assert find_runs([tmp_path]) == [tmp_path / "a/deep/run", run]
    assert find_runs([run, tmp_path, run]) == [run, tmp_path / "a/deep/run"]
    with pytest.raises(RecordError, match="holds no run"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(RecordError, match="Found none"):
        find_runs([tmp_path / "absent"])


def test_manifest_says_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = manifest(dataset=DATASET, seed=1)
    assert json.loads(json.dumps(made)) == made
    assert made["packages"]["numpy"] == np.__version__
    assert made["hardware"]["cores"] >= 1
    assert made["seed"] == 1
    environment = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        (tmp_path / "file").write_text("1")
        subprocess.run(["git", *environment, *command], cwd=tmp_path, check=True)
    made = manifest(dataset=DATASET, seed=1)
    assert len(made["commit"]) == 40
    assert made["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert manifest(dataset=DATASET, seed=1)["dirty"] is True


def test_manifest_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    made = manifest(dataset=DATASET, seed=1)
    assert (made["commit"], made["dirty"]) == (None, None)


def test_manifest_does_not_import_torch():
    code = (
        "import sys; from gnn_mtl.records import manifest; "
        "manifest(dataset={}, seed=0); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

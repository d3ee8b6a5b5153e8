"""Processes that are stopped: exit codes, and a resume equal to no interruption.

One process imports everything and forks a child per signal, so that torch is imported once.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file

from gnn_mtl.records import read_run

STEPS = {"SIGINT": 3, "SIGTERM": 7, "SIGKILL": 8}
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
DRIVER = """
import json, os, signal, sys
import torch._dynamo  # what the first optimizer step imports
import gnn_mtl.cli._train
from gnn_mtl.cli import main
from gnn_mtl.records import RunWriter
from gnn_mtl.runs import Features, RunConfig, build_graph

build_graph(RunConfig(dataset=sys.argv[4], features=Features(dim=4)))  # compiled code is loaded
codes = {}
for name, step in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        log, seen = RunWriter.log_train, []

        def log_and_stop(self, **row):
            log(self, **row)
            seen.append(row)
            if len(seen) == step:
                signal.raise_signal(getattr(signal, name))

        RunWriter.log_train = log_and_stop
        os._exit(main([*sys.argv[2:], "--out", name]))
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"codes": codes, "stdin": sys.stdin is not None}))
"""


def rows(folder):
    """What was logged, without the clock."""
    found = {}
    for name in ("metrics.jsonl", "groupings.jsonl"):
        lines = map(json.loads, (folder / name).read_text().splitlines())
        found[name] = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return found


def weights(folder):
    return {
        file.name: {name: array.tobytes() for name, array in load_file(file).items()}
        for file in (folder / "checkpoints").glob("*.safetensors")
    }


@pytest.fixture
def flags(stored, quick_flags):
    return [
        "train", "--dataset", str(stored), *quick_flags, "--scheduler.kind", "coloring",
        "--scheduler.tau", "0.05", "--scheduler.refresh-period", "4", "--deterministic",
    ]  # fmt: skip


def test_stopped_processes_can_be_resumed(cli, flags, here):
    """Interrupted, terminated and killed, with no standard input at all."""
    shell = ["/bin/sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", DRIVER]
    done = subprocess.run(
        [*shell, json.dumps(STEPS), *flags],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {"codes": CODES, "stdin": False}
    for name, step in STEPS.items():
        assert (f"after step {step}; a checkpoint was saved" in done.stderr) == (name != "SIGKILL")
        assert not read_run(name).done
        assert max(row.step for row in read_run(name).train) == step
    assert "Traceback" not in done.stderr
    assert cli(*flags, "--out", "straight").code == 0
    for name in STEPS:
        assert cli("train", name, "--resume").code == 0
        assert rows(here / name) == rows(here / "straight")
        assert weights(here / name) == weights(here / "straight")
        assert read_run(name).summary.test == read_run("straight").summary.test


def test_other_flags_are_no_resume(cli, flags, here, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "gnn_mtl.training._loop.save_weights", lambda *a: (_ for _ in ()).throw(KeyError)
        )
        with pytest.raises(KeyError):
            cli(*flags, "--out", "run")
    said = cli(*flags, "--seed", "3", "--out", "run", "--resume")
    assert said.code == 3
    assert "differs in seed" in said.err
    assert cli(*flags, "--out", "run").code == 3
    assert cli(*flags, "--out", "run", "--resume").code == 0


@pytest.mark.slow
def test_a_signal_from_outside(flags, here):
    """The real command, stopped by another process at some step."""
    command = [sys.executable, "-m", "gnn_mtl"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    many = [*flags, "--epochs", "100000", "--out", "run"]
    process = subprocess.Popen(
        [*command, *many], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=environment,
    )  # fmt: skip
    metrics = here / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 5000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Go on with --resume" in said
    assert "Traceback" not in said
    record = read_run("run")
    assert not record.done
    assert len(record.train) > 10

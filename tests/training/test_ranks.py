"""Several real processes that each train on a batch of their own take the steps of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("ranks_worker.py")
EXACT = ("none:last_layer", "upgrad:last_layer", "adatask:full", "famo:last_layer")
SEVERAL = ("none:last_layer:groups", "gradnorm:last_layer:groups", "famo:last_layer:groups")
MEAN = "upgrad:full"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights and losses of every process, by number of processes and cell."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {}
    for world in (1, 2):
        processes = [
            subprocess.Popen(
                [sys.executable, WORKER, str(rank), str(world), folder, *EXACT, *SEVERAL, MEAN],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(world)
        ]  # fmt: skip
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
        for cell in (*EXACT, *SEVERAL, MEAN):
            outs = [
                folder / f"{world}-{rank}-{cell.replace(':', '-')}.safetensors"
                for rank in range(world)
            ]
            found[world, cell] = [(load_file(out), torch.load(f"{out}.losses")) for out in outs]
    return found


@pytest.mark.parametrize("cell", [*EXACT, *SEVERAL])
def test_two_processes_take_the_steps_of_one(cell, trained):
    """Each holds half the labels, one all those of a task; the means are over both."""
    ((one, losses),) = trained[1, cell]
    for weights, seen in trained[2, cell]:
        for name, value in weights.items():
            torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-6, msg=name)
            assert torch.equal(value, trained[2, cell][0][0][name])  # the two, bit for bit
        for (tasks, values), (wanted, other) in zip(seen, losses, strict=True):
            assert tasks == wanted
            assert values == pytest.approx(other, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("cell", SEVERAL)
def test_what_breaks_in_one_process_is_left_out_in_all(cell, trained):
    for processes in (trained[1, cell], trained[2, cell]):
        for _, seen in processes:
            groups = [live for live, _ in seen if isinstance(live, tuple)]
            assert groups[:2] == [(0, 1, 5), (2, 3, 4)]
            assert groups[2:6] == [(0, 1, 5), (3, 4), (0, 1, 5), (2, 4)]
            assert seen[-1][0] == {2: 1, 3: 1}


def test_other_modes_average_the_gramians(trained):
    """A probe's forward pass of its own has no rows to add up; the processes stay together."""
    first, second = (weights for weights, _ in trained[2, MEAN])
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(bool(torch.isfinite(value).all()) for value in first.values())

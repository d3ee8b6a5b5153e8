"""The benches: what they print, and that their checks can fail. Ratios are measured, not tested."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gnn_mtl.benchmarks import (
    BENCHES,
    _aggregate,
    _coloring,
    _epoch,
    _gradtag,
    _gradtag_collection,
    _measure,
    _refresh,
    _refresh_modes,
    _sampler,
    _schedule,
    _sdp,
)
from gnn_mtl.benchmarks._measure import interleaved, result
from gnn_mtl.benchmarks._sampler import uniformity
from gnn_mtl.cli import main
from gnn_mtl.datasets import planted
from gnn_mtl.graph import NeighborSampler

KEYS = {
    "sampler": {"over_torch", "over_pyg", "chi_square_min_p"},
    "epoch": {"over_pyg", "over_pyg_bipartite", "loss_curve_max_diff"},
    "refresh": {"edge_f1_at_one_step_112", "edge_f1_best_112", "best_exact_over_loop_112"},
    "schedule": {"scheduled_over_joint"},
    "coloring": {"colors_over_dsatur_500", "time_over_dsatur_500"},
    "sdp": {"over_scs_112", "over_scs_500", "gap_500"},
    "gradtag": {
        "collection_speedup",
        "relative_distance",
        "noise_floor",
        "constant_distance",
        "spearman",
        "cooccurrence_spearman",
        "blend_spearman",
        "flop_share",
    },
    "aggregate": {"worst_solver_over_joint_step", "worst_gramian_method"},
}


@pytest.fixture
def small(monkeypatch):
    """Let every bench measure next to nothing."""

    def shrunk(num_nodes, num_edges, *arguments, **options):
        return planted(num_nodes, num_nodes, *arguments, **options)

    def shrunk_schedule(num_nodes, num_edges, *arguments, **options):
        return planted(400, 1200, *arguments, **options)

    monkeypatch.setattr(_sampler, "planted", shrunk)
    monkeypatch.setattr(_sampler, "BATCH", 16)
    monkeypatch.setattr(_sampler, "UNIFORMITY", ((11, 10),))
    monkeypatch.setattr(_epoch, "planted", shrunk)
    monkeypatch.setattr(_epoch, "HIDDEN", 8)
    monkeypatch.setattr(_epoch, "FEATURES", 8)
    monkeypatch.setattr(_schedule, "planted", shrunk_schedule)
    monkeypatch.setattr(_schedule, "REFRESH_PERIOD", 2)
    monkeypatch.setattr(_schedule, "PROBE_NODES", 32)
    monkeypatch.setattr(
        _refresh, "QUICK", _refresh.Size(400, 1200, 32, 8, 3, 2, (1, 2), (1, 2), (8,), repeats=1)
    )
    monkeypatch.setattr(_refresh_modes, "DIRECTIONS", 3)
    size = {"nodes": 300, "edges": 1500, "batch_size": 32, "hidden": 8, "steps": 3}
    monkeypatch.setattr(
        _aggregate, "QUICK", _aggregate.Size(**size, repeats=2, solves=1, theirs=())
    )
    monkeypatch.setattr(_aggregate, "TASKS", 9)
    monkeypatch.setattr(_aggregate, "MANY_TASKS", 12)
    monkeypatch.setattr(_aggregate, "gramian_kinds", lambda number: ["mgda", "upgrad"])
    monkeypatch.setattr(_coloring, "TASKS", 30)
    monkeypatch.setattr(_coloring, "SMALL", 8)
    monkeypatch.setattr(_sdp, "SIZES", {12: 2, 15: 3})
    budget = _gradtag.Budget(2, 0.01, batch_size=60)
    monkeypatch.setattr(
        _gradtag, "QUICK", _gradtag.Size(200, 9, 3, 6, 8, 8, 1, 1, 6, budget, budget)
    )
    for name, value in {"NODES": 20, "TASKS": 4, "HIDDEN": 8, "FEATURES": 4, "DIM": 8}.items():
        monkeypatch.setattr(_gradtag_collection, name, value)


@pytest.mark.filterwarnings("ignore::gnn_mtl._core.errors.EmptyConflictGraphWarning")
@pytest.mark.parametrize("name", BENCHES)
def test_one_json_object_with_the_binding_keys(name, small, capsys):
    threads = torch.get_num_threads()
    assert main(["bench", name, "--quick", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line, parse_constant=pytest.fail)
    assert found.keys() == {"bench", "device", "threads", "commit", "ratios", "rows"}
    assert found["bench"] == name
    assert found["ratios"].keys() >= KEYS[name]
    for key, value in found["ratios"].items():
        least = -1 if "spearman" in key else 0
        assert value is None or (math.isfinite(value) and value >= least), key
        assert value is not None or key == "over_pyg" or key.startswith(("edge_f1", "over_scs"))
    assert found["rows"]
    assert all(isinstance(row, dict) for row in found["rows"])
    assert torch.get_num_threads() == threads


def test_the_table_comes_before_the_object(monkeypatch, capsys):
    made = {"ratios": {"a": 2.0}, "rows": [{"x": 1, "y": 0.123456}, {"x": 2, "z": None}]}
    monkeypatch.setitem(BENCHES, "sampler", lambda *, quick: made | {"quick": quick})
    assert main(["bench", "sampler"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == made | {"quick": False}
    assert "0.1235" in "\n".join(table)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_quick_sizes(name, capsys):
    assert main(["bench", name, "--quick", "--json"]) == 0
    ratios = json.loads(capsys.readouterr().out)["ratios"]
    assert ratios.get("chi_square_min_p", 1) > 1e-6
    assert ratios.get("loss_curve_max_diff", 0) < 1e-4


def test_the_epoch_bench_trains_the_same_network_three_times(small):
    """Equal weights and batches: the loss curves of our layers and PyG's must agree."""
    found = _epoch.run(quick=True)
    assert found["ratios"]["loss_curve_max_diff"] < 1e-5
    assert {row["model"] for row in found["rows"]} == {"ours", "pyg", "pyg_bipartite"}
    for row in found["rows"]:
        assert row["last_loss"] < row["first_loss"]


# uniformity


@pytest.mark.parametrize(("degree", "fan_out"), [(11, 10), (50, 10), (300, 10), (2500, 20)])
def test_the_sampler_is_uniform(degree, fan_out):
    assert uniformity(degree, fan_out) > 1e-6


class AlwaysFresh:
    """An honest sampler by other means, to show that the others fail for their bias alone."""

    def __init__(self, graph, fan_outs):
        self.sampler = NeighborSampler(graph, fan_outs)
        self.number = graph.num_nodes - 1
        self.rng = np.random.default_rng(0)

    def sample(self, nodes, *, seed, batch):
        found = self.sampler.sample(nodes, seed=seed, batch=batch).n_id.numpy()[1:]
        n_id = np.concatenate([[0], self.choose(found)])
        return SimpleNamespace(n_id=torch.from_numpy(n_id))

    def choose(self, found):
        return self.rng.choice(np.arange(1, self.number + 1), len(found), replace=False)


class NeverTheFirst(AlwaysFresh):
    """As from an index off by one."""

    def choose(self, found):
        return self.rng.choice(np.arange(2, self.number + 1), len(found), replace=False)


class TiltedToTheFirstHalf(AlwaysFresh):
    """One draw in ten is exchanged for one from the first half of the list."""

    def choose(self, found):
        outside = np.setdiff1d(np.arange(1, self.number // 2), found)
        return np.concatenate([found[:-1], self.rng.choice(outside, 1)])


@pytest.mark.parametrize(
    ("sampler", "passes"),
    [(NeverTheFirst, False), (TiltedToTheFirstHalf, False), (AlwaysFresh, True)],
)
def test_a_biased_sampler_fails(sampler, passes, monkeypatch):
    monkeypatch.setattr(_sampler, "NeighborSampler", sampler)
    assert (uniformity(50, 10, draws_per_cell=200) > 1e-6) == passes


def test_p_values_of_an_honest_sampler_are_uniform(monkeypatch):
    """The variance of draws without replacement is right: p-values are neither small nor large."""
    values = []
    for seed in range(60):

        class Honest(AlwaysFresh):
            def __init__(self, graph, fan_outs, seed=seed):
                super().__init__(graph, fan_outs)
                self.rng = np.random.default_rng(seed)

        monkeypatch.setattr(_sampler, "NeighborSampler", Honest)
        values.append(uniformity(12, 10))
    assert 0.35 < np.mean(values) < 0.65
    assert np.std(values) > 0.2


# measuring


def test_interleaved_takes_turns_and_medians(monkeypatch):
    clock = {"wall": 0.0, "cpu": 0.0}
    calls = []

    def work(name, cost):
        def run(repeat):
            calls.append(name)
            clock["wall"] += cost + repeat
            clock["cpu"] += 10 * cost

        return run

    monkeypatch.setattr(_measure.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(_measure.time, "process_time", lambda: clock["cpu"])
    times = interleaved({"a": work("a", 1.0), "b": work("b", 3.0)}, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": {"cpu_s": 10.0, "wall_s": 2.0}, "b": {"cpu_s": 30.0, "wall_s": 4.0}}
    calls.clear()
    interleaved({"a": work("a", 1.0), "b": work("b", 3.0)}, 1, first=1)
    assert calls == ["b", "a"]


def test_results_are_plain_values():
    found = result("name", {"a": 1.0, "b": None}, [{"x": 1}])
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] == torch.get_num_threads()
    assert found["commit"] is None or len(found["commit"]) == 40

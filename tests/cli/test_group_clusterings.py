"""``gnn-mtl group`` by the clusterings: what it prints of bounds, numbers and controls."""

import re
from dataclasses import replace

import numpy as np

from gnn_mtl.grouping import adjusted_rand, cluster_sdp, round_clusters
from gnn_mtl.tasks import Affinity, Grouping


def _planted(path):
    owner = np.arange(24) % 4
    noise = np.random.default_rng(0).normal(size=(24, 24))
    values = (owner[:, None] == owner) + 0.3 * (noise + noise.T)
    names = tuple(f"label{task}" for task in range(24))
    affinity = Affinity(values, "planted", unit="gain", label_names=names)
    affinity.save(path)
    return affinity, Grouping.from_assignments(owner.tolist())


def test_sdp_prints_density_bound_and_gap(cli, here):
    affinity, truth = _planted(here / "A.npz")
    said = cli("group", "A.npz", "--method", "sdp", "--num-groups", 4, "--out", "g.json")
    assert said.code == 0, said.err
    found = Grouping.load("g.json")
    assert adjusted_rand(found, truth) == 1.0
    line = re.search(
        r"by: sdp\(num_groups=4, density=(\S+), upper_bound=(\S+), gap=(\S+), ", said.out
    )
    density, upper, gap = map(float, line.groups())
    direct = round_clusters(cluster_sdp(affinity, 4))
    assert abs(density - direct.density) < 1e-4 * density
    assert density <= upper
    assert gap < 1e-2
    assert cli("group", "A.npz", "--method", "sdp", "--out", "free.json").code == 0
    assert Grouping.load("free.json") == found


def test_random_groups_of_the_sizes_found(cli, here):
    _planted(here / "A.npz")
    flags = ("--method", "greedy", "--num-groups", 5, "--out", "g.json")
    assert cli("group", "A.npz", *flags).code == 0
    said = cli("group", "A.npz", "--method", "random", "--like", "g.json", "--out", "r.json")
    assert said.code == 0, said.err
    found, control = Grouping.load("g.json"), Grouping.load("r.json")
    assert sorted(found.sizes) == sorted(control.sizes)
    assert found != control
    assert cli("group", "A.npz", "--method", "random", "--like", "absent.json").code == 3
    assert cli("group", "A.npz", "--method", "exact").code == 2
    assert cli("group", "A.npz", "--method", "sdp", "--num-groups", 25).code == 2


def test_bootstraps_say_whether_groups_hold(cli, here):
    affinity, _ = _planted(here / "A.npz")
    flags = ("--method", "greedy", "--num-groups", 4, "--bootstraps", 4)
    assert cli("group", "A.npz", *flags).code == 2  # no standard errors
    for error, least, most in ((0.05, 0.99, 1.0), (50.0, -0.2, 0.2)):
        noisy = replace(affinity, stderr=np.full((24, 24), error))
        noisy.save(here / "B.npz")
        said = cli("group", "B.npz", *flags)
        assert said.code == 0, said.err
        ari = float(re.search(r"adjusted Rand index (\S+) among", said.out)[1])
        assert least <= ari <= most
    assert (
        cli("group", "B.npz", "--method", "greedy", "--num-groups", 4, "--bootstraps", 1).code == 2
    )


def test_unknown_pairs_are_counted(cli, here):
    affinity, _ = _planted(here / "A.npz")
    values = affinity.values.copy()
    values[0, 1:4] = values[1:4, 0] = np.nan
    Affinity(values, "holes").save(here / "B.npz")
    assert (
        "unknown: 6 of 552 ordered pairs\n"
        in cli("group", "B.npz", "--method", "greedy", "--num-groups", 4).out
    )
    said = cli("group", "B.npz", "--tau", 0.2)
    assert "unknown: 6 of 552 ordered pairs, taken as no conflict\n" in said.out
    assert "unknown" not in cli("group", "A.npz", "--tau", 0.2).out

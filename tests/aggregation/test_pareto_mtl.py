"""Pareto MTL: the chosen trade-offs are reached, constraints, groups, state, preference vectors."""

import math

import numpy as np
import pytest
import torch

from gnn_mtl._core.errors import UsageError
from gnn_mtl.aggregation import MGDA, ParetoMTL, preference_vectors
from gnn_mtl.aggregation._pareto_mtl import pareto_mtl_weights
from gnn_mtl.tasks import Grouping

WIDTH = 20
CENTRE = WIDTH**-0.5


def toy(point):
    """The paper's two objectives, 1 - exp(-|x -+ 1 / sqrt n|^2), and their gradients."""
    offsets = torch.stack([point - CENTRE, point + CENTRE])
    squares = offsets.square().sum(dim=1)
    return 1 - (-squares).exp(), 2 * offsets * (-squares).exp()[:, None]


def descend(aggregator, point, *, steps, rate, objectives=toy):
    trace = []
    for _ in range(steps):
        losses, gradients = objectives(point)
        trace.append(losses)
        point = point - rate * aggregator(gradients, losses=losses)
    return point, torch.stack(trace)


def test_each_vector_leads_to_its_part_of_the_front():
    draw = torch.Generator().manual_seed(0)
    start = 0.4 * torch.rand(WIDTH, generator=draw, dtype=torch.float64) - 0.2
    firsts = []
    for index in range(5):
        aggregator = ParetoMTL(number=5, index=index, norm="native").build(2)
        point, _ = descend(aggregator, start, steps=60, rate=0.15)
        losses, _ = toy(point)
        # Pareto optimal: on the segment between the two minima, all coordinates equal
        assert float((point - point.mean()).abs().max()) < 1e-2
        assert abs(float(point.mean())) <= CENTRE + 1e-2
        # and in the region of its own vector, up to a step
        closeness = aggregator.vectors @ (losses / losses.norm())
        assert float(closeness.max() - closeness[index]) < 0.02
        firsts.append(float(losses[0]))
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[0] - firsts[-1] > 0.5


def test_a_feasible_point_stays_feasible():
    # |x - a|^2 and |x + a|^2 from the point between them: vector 1 of 3, the diagonal
    def convex(point):
        offsets = torch.stack([point - 1, point + 1])
        return offsets.square().sum(dim=1), 2 * offsets

    config = ParetoMTL(number=3, index=1, norm="unit")
    start = torch.tensor([2.0, -1.5, 0.1], dtype=torch.float64)
    aggregator = config.build(2)
    _, trace = descend(aggregator, start, steps=100, rate=0.02, objectives=convex)
    others = aggregator.vectors - aggregator.vectors[1]
    assert float((trace @ others.T / trace.norm(dim=1, keepdim=True)).max()) < 0.02
    assert float(trace[-1].sum()) < float(trace[0].sum())


def test_without_a_violated_constraint_it_is_mgda():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 10, generator=draw, dtype=torch.float64)
    gramian, losses = rows @ rows.T, torch.ones(3, dtype=torch.float64)
    config = ParetoMTL(number=4, index=3, norm="tasks")  # vector 3 is the diagonal
    found = config.build(3).weights(gramian, losses=losses)
    assert torch.allclose(found, MGDA(norm="tasks").build(3).weights(gramian), atol=1e-9)


def test_violated_constraints_by_hand():
    # u = (1, 0), (0, 1); k = 0; F = (1, 2): (u_1 - u_0) F = 1 > 0. Its gradient g_2 - g_1 = (-1, 1)
    # with g = (1, 0), (0, 1). Shortest of (1, 0), (0, 1), (-1, 1): (1, 0) and (-1, 1) in shares
    # 3/5 and 2/5, at (1, 2) / 5, where (0, 1) gains more. Weights 3/5 - 2/5 and 2/5.
    vectors, gramian = torch.eye(2).double(), torch.eye(2).double()
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    weights, feasible = pareto_mtl_weights(gramian, losses, vectors, 0)
    assert weights.tolist() == pytest.approx([0.2, 0.4])
    assert not feasible
    weights, feasible = pareto_mtl_weights(gramian, losses, vectors, 0, search=True)
    assert weights.tolist() == pytest.approx([-1, 1])
    weights, feasible = pareto_mtl_weights(gramian, losses, vectors, 1, search=True)
    assert weights.tolist() == pytest.approx([0.5, 0.5])
    assert feasible


def test_the_first_phase_ends_when_feasible_or_out_of_patience():
    gramian = torch.eye(2, dtype=torch.float64)
    far, near = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    aggregator = ParetoMTL(number=2, index=0, patience=2, norm="native").build(2)
    search = [-1.0, 1.0]
    for spent in (1.0, 2.0):
        assert aggregator.weights(gramian, losses=far).tolist() == pytest.approx(search)
        assert aggregator.state["search"].tolist() == [spent] * 2
    descent = [2 / 3, 4 / 3]  # (0.2, 0.4) scaled to sum 2
    assert aggregator.weights(gramian, losses=far).tolist() == pytest.approx(descent)
    aggregator = ParetoMTL(number=2, index=0, norm="native").build(2)
    assert aggregator.weights(gramian, losses=near).tolist() == pytest.approx([1, 1])
    assert aggregator.weights(gramian, losses=far).tolist() == pytest.approx(descent)


def test_groups_are_means_and_inactive_tasks_keep_their_last_loss():
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(4, 8, generator=draw, dtype=torch.float64)
    config = ParetoMTL(number=3, index=0, groups=((0, 2), (1, 3)), patience=0, norm="native")
    aggregator = config.build(4)
    losses = torch.tensor([0.2, 1.0, 0.4, 2.0], dtype=torch.float64)
    found = aggregator.weights(rows @ rows.T, losses=losses)
    means = torch.stack([(rows[0] + rows[2]) / 2, (rows[1] + rows[3]) / 2])
    objectives = torch.tensor([0.3, 1.5], dtype=torch.float64)
    expected, _ = pareto_mtl_weights(means @ means.T, objectives, preference_vectors(2, 3), 0)
    spread = expected[[0, 1, 0, 1]] / 2
    assert torch.allclose(found, spread * 4 / spread.abs().sum())

    found = aggregator.weights(rows[[2]] @ rows[[2]].T, tasks=[2], losses=losses[[2]] * 2)
    assert aggregator.state["losses"].tolist() == pytest.approx([0.2, 1.0, 0.8, 2.0])
    assert found.abs().tolist() == pytest.approx([1])


def test_the_state_resumes():
    draw = torch.Generator().manual_seed(2)
    rows = torch.randn(3, 6, generator=draw, dtype=torch.float64)
    gramian = rows @ rows.T
    config = ParetoMTL(number=6, index=2)
    first, second = config.build(3), config.build(3)
    first.weights(gramian, losses=torch.tensor([3.0, 1.0, 0.5]))
    second.load_state_dict(first.state_dict())
    given = {"tasks": [2, 0], "losses": torch.tensor([0.1, 4.0])}
    expected = first.weights(gramian[:2, :2], **given)
    assert torch.equal(second.weights(gramian[:2, :2], **given), expected)
    fresh = config.build(3).weights(gramian[:2, :2], **given)
    assert not torch.allclose(fresh, expected)  # the loss of task 1 is missing


def test_options_are_checked():
    with pytest.raises(UsageError, match="`index`"):
        ParetoMTL(number=5, index=5)
    with pytest.raises(UsageError, match="`index`"):
        ParetoMTL(index=-1)
    with pytest.raises(UsageError, match="`patience`"):
        ParetoMTL(patience=-1)
    with pytest.raises(UsageError, match="`groups`"):
        ParetoMTL().build(11)
    for groups in (((0, 1), (1, 2)), ((0,), (2,)), ((0, 1, 2), ())):
        with pytest.raises(UsageError, match="once"):
            ParetoMTL(groups=groups).build(3)


def test_preference_vectors_of_two_objectives_have_equal_angles():
    vectors = preference_vectors(2, 5).numpy()
    angles = np.arctan2(vectors[:, 1], vectors[:, 0])
    assert angles == pytest.approx([0, math.pi / 8, math.pi / 4, 3 * math.pi / 8, math.pi / 2])


@pytest.mark.parametrize("number", [1, 3, 4, 15, 60])
def test_preference_vectors_are_spread(number):
    vectors = preference_vectors(3, number)
    assert vectors.shape == (number, 3)
    assert float(vectors.min()) >= 0
    assert torch.allclose(vectors.norm(dim=1), torch.ones(number, dtype=torch.float64))
    assert torch.equal(vectors, preference_vectors(3, number))
    if number > 1:
        # the octant's area, pi / 2, over K caps: within the factor of 2 of farthest points
        angles = (vectors @ vectors.T - 2 * torch.eye(number)).amax(dim=1).clamp(max=1).acos()
        assert float(angles.min()) > 0.5 * math.sqrt(math.pi / 2 / number)
    if number >= 3:
        assert torch.equal(vectors[:3], torch.eye(3, dtype=torch.float64))


def test_preference_vectors_need_positive_numbers():
    assert preference_vectors(4, 1).tolist() == [[0.5] * 4]
    assert preference_vectors(1, 1).tolist() == [[1.0]]
    with pytest.raises(UsageError, match="at least one"):
        preference_vectors(2, 0)


def test_groups_from_a_file(tmp_path):
    Grouping.of([[3, 1], [0, 2]], 4).save(tmp_path / "groups.json")
    config = ParetoMTL(file=str(tmp_path / "groups.json"), number=3)
    assert config == ParetoMTL(groups=((0, 2), (1, 3)), number=3)
    assert config.file is None
    with pytest.raises(UsageError, match="either `file` or `groups`"):
        ParetoMTL(file=str(tmp_path / "groups.json"), groups=((0, 1), (2, 3)))
    with pytest.raises(UsageError, match=r"--aggregator\.file groups\.json"):
        ParetoMTL().build(11)

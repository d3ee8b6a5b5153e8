"""IMTL-G: equal cosines, and never uphill."""

import pytest
import torch

from gnn_mtl.aggregation import IMTLG


def weights(jacobian):
    return IMTLG(norm="native").build(len(jacobian)).weights(jacobian @ jacobian.T)


def draw(tasks, width, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=generator, dtype=torch.float64)
    return rows * torch.exp(
        spread * torch.randn(tasks, 1, generator=generator, dtype=torch.float64)
    )


def paper(jacobian):
    """Eq. 5 of the paper: the first weight is one less the others, from D and U."""
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    differences, angles = jacobian[:1] - jacobian[1:], units[:1] - units[1:]
    others = jacobian[0] @ angles.T @ torch.linalg.inv(differences @ angles.T)
    return torch.cat([1 - others.sum()[None], others])


def test_two_tasks_by_hand():
    # norms 1 and 2 at right angles: v = G^-1 n = (1, 2/4), w = (2/3, 1/3), d = (2/3, 2/3)
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert weights(jacobian).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_two_tasks_in_general():
    # equal cosines in the plane: d along the bisector, w_1 : w_2 = n_2 : n_1, whatever the angle
    jacobian = draw(2, 7, seed=1)
    norms = jacobian.norm(dim=1)
    assert torch.allclose(weights(jacobian), norms.flip(0) / norms.sum())


@pytest.mark.parametrize("seed", range(30))
def test_cosines_are_equal_and_positive(seed):
    jacobian = draw(5, 8, seed)
    projections = (jacobian @ (weights(jacobian) @ jacobian)) / jacobian.norm(dim=1)
    assert torch.allclose(projections, projections.mean().expand(5), rtol=1e-6)
    assert float(projections.min()) > 0


def test_the_paper_is_followed_up_to_the_sign_that_is_guarded():
    signs = []
    for seed in range(100):
        jacobian = draw(5, 8, seed)
        ours, theirs = weights(jacobian), paper(jacobian)
        uphill = float((jacobian @ (theirs @ jacobian)).max()) < 0
        signs.append(uphill)
        if float(theirs.abs().sum()) < 100:
            assert torch.allclose(ours, -theirs if uphill else theirs, rtol=1e-6)
    assert 0 < sum(signs) < 50  # the defect is real, and not the rule


def test_weights_do_not_explode_where_their_sum_nearly_vanishes():
    jacobian = draw(3, 4, 1775, 2.0)  # the worst of 2000
    assert float(paper(jacobian).abs().sum()) > 100
    found = weights(jacobian)
    assert float(found.abs().sum()) == pytest.approx(100)
    assert bool((jacobian @ (found @ jacobian) > 0).all())


def test_a_task_can_be_scaled():
    jacobian = draw(6, 12, seed=3)
    scales = torch.logspace(-5, 5, 6, dtype=torch.float64)[:, None]
    one, other = weights(jacobian) @ jacobian, weights(scales * jacobian) @ (scales * jacobian)
    assert float(torch.cosine_similarity(one, other, dim=0)) == pytest.approx(1)


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 2.0]],
        [[1.0, 0.0], [-1.0, 0.0]],
        [[1.0, 0.3], [1.0, 0.3], [0.2, -1.0]],
        [[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]],
    ],
    ids=["one", "antiparallel", "twins", "stationary"],
)
def test_hard_cases(rows):
    jacobian = torch.tensor(rows, dtype=torch.float64)
    found = weights(jacobian)
    assert bool(found.isfinite().all())
    if len(rows) == 1:
        assert found.tolist() == [1.0]
    if rows[0] == rows[1:2]:
        assert float(found[0]) == pytest.approx(float(found[1]))
    if len(rows) == 2:
        assert found.tolist() == [0.0, 0.0]  # no direction has the same cosine to both


def test_agrees_with_torchjd_up_to_the_guard():
    jd = pytest.importorskip("torchjd.aggregation")
    for seed in range(20):
        jacobian = draw(6, 10, seed)
        theirs = jd.IMTLGWeighting()(jacobian @ jacobian.T)
        sign = torch.sign((jacobian @ (theirs @ jacobian)).sum())
        shorter = min(1.0, 100 / float(theirs.abs().sum()))
        assert torch.allclose(weights(jacobian), sign * shorter * theirs, rtol=1e-5)

"""ConFIG: against the explicit vectors of the paper."""

import pytest
import torch

from gnn_mtl.aggregation import IMTLG, ConFIG


def explicit(jacobian, preference):
    """Eq. 2 of the paper with vectors."""
    units = jacobian / jacobian.norm(dim=1, keepdim=True)
    best = torch.linalg.lstsq(units, preference, driver="gelsd").solution
    best = best / best.norm()
    return (jacobian @ best).sum() * best


def ours(jacobian, preference=()):
    method = ConFIG(norm="native", preference=preference)
    return method.build(len(jacobian)).weights(jacobian @ jacobian.T) @ jacobian


def draw(tasks, width, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, width, generator=generator, dtype=torch.float64)
    return rows * torch.exp(torch.randn(tasks, 1, generator=generator, dtype=torch.float64))


def test_two_tasks_by_hand():
    # (1, 0) and (0, 2): direction (1, 1) / sqrt 2, length (1 + 2) / sqrt 2, so d = (3/2, 3/2)
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert ours(jacobian).tolist() == pytest.approx([1.5, 1.5])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tasks", [1, 3, 8])
def test_equals_the_explicit_form(tasks, seed):
    jacobian = draw(tasks, 10, seed)
    assert torch.allclose(ours(jacobian), explicit(jacobian, torch.ones(tasks).double()))


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_explicit_form_where_gradients_depend_on_each_other(seed):
    jacobian = draw(9, 4, seed)
    assert torch.allclose(ours(jacobian), explicit(jacobian, torch.ones(9).double()), rtol=1e-5)
    assert float(jacobian.sum(dim=0) @ ours(jacobian)) >= 0  # the sum of the losses falls


@pytest.mark.parametrize("seed", range(20))
def test_no_task_loses(seed):
    jacobian = draw(7, 12, seed)
    cosines = jacobian @ ours(jacobian) / jacobian.norm(dim=1)
    assert float(cosines.min()) > 0
    assert torch.allclose(cosines, cosines.mean().expand(7))


def test_the_preference_is_the_ratio_of_the_cosines():
    jacobian = draw(3, 8, seed=1)
    cosines = jacobian @ ours(jacobian, (1.0, 2.0, 5.0)) / jacobian.norm(dim=1)
    assert (cosines / cosines[0]).tolist() == pytest.approx([1, 2, 5])


def test_it_is_imtl_g_with_another_length():
    jacobian = draw(5, 9, seed=2)
    other = IMTLG().build(5)(jacobian)
    assert float(torch.cosine_similarity(ours(jacobian), other, dim=0)) == pytest.approx(1)
    assert torch.allclose(ConFIG().build(5)(jacobian), other)


def test_cancelling_gradients_give_nothing():
    jacobian = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    assert ours(jacobian).tolist() == [0.0, 0.0]


def test_agrees_with_torchjd():
    jd = pytest.importorskip("torchjd.aggregation")
    preference = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    for seed in range(10):
        jacobian = draw(4, 9, seed)
        assert torch.allclose(ours(jacobian), jd.ConFIG()(jacobian), rtol=1e-6)
        theirs = jd.ConFIG(pref_vector=preference)(jacobian)
        assert torch.allclose(ours(jacobian, tuple(preference.tolist())), theirs, rtol=1e-6)

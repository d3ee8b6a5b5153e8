"""Cosines from rows and from Gramians against scikit-learn and exact rational arithmetic."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.linalg import cosine_of_gramian, cosine_of_rows


def _rows(num_tasks=9, num_parameters=50, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tasks, num_parameters, generator=generator, dtype=torch.float64).to(
        dtype
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_scikit_learn_on_the_same_numbers(dtype):
    rows = _rows(dtype=dtype)
    found = cosine_of_rows(rows)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, cosine_similarity(rows.double().numpy()), atol=1e-14)


@pytest.mark.parametrize("chunk_size", [1, 7, 50, 1000])
def test_chunks_do_not_matter(chunk_size):
    rows = _rows()
    torch.testing.assert_close(
        cosine_of_rows(rows, chunk_size=chunk_size), cosine_of_rows(rows), atol=1e-14, rtol=0
    )


def test_float32_rows_are_accumulated_in_float64():
    rows = torch.full((2, 200_000), 0.1)
    rows[1, ::2] += 1e-4
    exact = cosine_similarity(rows.double().numpy())[0, 1]
    assert abs(float(cosine_of_rows(rows, chunk_size=1000)[0, 1]) - exact) < 1e-10


def test_diagonal_range_and_symmetry_are_exact():
    rows = _rows(40, 3)
    rows[1] = rows[0] * 3
    cosine = cosine_of_rows(rows)
    assert torch.equal(cosine, cosine.T)
    assert torch.equal(cosine.diagonal(), torch.ones(40, dtype=torch.float64))
    assert cosine[0, 1] == pytest.approx(1.0)
    parallel = (
        _rows(1, 7, torch.float64) * torch.linspace(0.1, 90, 400, dtype=torch.float64)[:, None]
    )
    assert float(cosine_of_rows(parallel).max()) == 1.0


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf")])
def test_rows_without_a_direction_are_unknown_and_spoil_no_other(value):
    rows = _rows(4)
    known = cosine_of_rows(rows[[0, 1, 3]])
    if value == 0.0:
        rows[2] = 0.0
    else:
        rows[2, 5] = value
    cosine = cosine_of_rows(rows, chunk_size=4)
    assert cosine[2].isnan().all()
    assert cosine[:, 2].isnan().all()
    assert torch.equal(cosine[[0, 1, 3]][:, [0, 1, 3]].isnan(), torch.zeros(3, 3).bool())
    torch.testing.assert_close(cosine[[0, 1, 3]][:, [0, 1, 3]], known)


def test_norms_far_from_one_lose_nothing():
    rows = _rows(4, dtype=torch.float64)
    expected = cosine_of_rows(rows)
    scaled = rows * torch.tensor([1e-200, 1e200, 1.0, 1e-30], dtype=torch.float64)[:, None]
    torch.testing.assert_close(cosine_of_rows(scaled), expected, atol=1e-14, rtol=0)
    tiny = _rows(4) * torch.tensor([1e-30, 1e30, 1.0, 1e-10])[:, None]
    torch.testing.assert_close(cosine_of_rows(tiny), cosine_of_rows(_rows(4)), atol=1e-6, rtol=0)


@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_positive_scaling_and_permutation(seed, num_tasks, num_parameters):
    rows = _rows(num_tasks, num_parameters, torch.float64, seed)
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(num_tasks, 1, generator=generator, dtype=torch.float64) * 10 + 0.1
    order = torch.randperm(num_tasks, generator=generator)
    cosine = cosine_of_rows(rows)
    torch.testing.assert_close(cosine_of_rows(rows * scale), cosine)
    torch.testing.assert_close(cosine_of_rows(rows[order]), cosine[order][:, order])


def test_gramian_and_rows_agree():
    rows = _rows(dtype=torch.float64)
    torch.testing.assert_close(cosine_of_gramian(rows @ rows.T), cosine_of_rows(rows))


def test_gramian_with_unknown_cells_and_without_a_direction():
    gramian = torch.tensor(
        [[4.0, 2.0, 0.0, 1.0], [2.0, 9.0, 0.0, float("nan")], [0.0, 0.0, 0.0, 0.0], [1.0, 0, 0, -1]]
    )
    gramian[3, 1] = float("nan")
    cosine = cosine_of_gramian(gramian)
    assert cosine[0, 1] == pytest.approx(1 / 3)
    assert cosine[2].isnan().all()
    assert cosine[3].isnan().all()
    assert cosine[:2, :2].isfinite().all()
    gramian = torch.eye(3)
    gramian[0, 1] = gramian[1, 0] = float("nan")
    cosine = cosine_of_gramian(gramian)
    assert cosine[0, 1].isnan()
    assert cosine[0, 0] == cosine[1, 1] == 1.0
    assert cosine[1, 2] == 0.0


def test_no_gradient_flows_and_the_input_is_left_alone():
    rows = _rows().requires_grad_()
    before = rows.detach().clone()
    assert not cosine_of_rows(rows).requires_grad
    assert torch.equal(rows.detach(), before)
    gramian = torch.eye(3) * 4
    cosine_of_gramian(gramian)
    assert torch.equal(gramian, torch.eye(3) * 4)


def test_one_task_and_no_columns():
    assert cosine_of_rows(torch.tensor([[2.0]])).tolist() == [[1.0]]
    assert cosine_of_rows(torch.zeros(2, 0)).isnan().all()


@pytest.mark.parametrize("rows", [torch.zeros(3), torch.zeros(0, 3), torch.ones(2, 2).long()])
def test_wrong_rows(rows):
    with pytest.raises(ShapeError, match="rows"):
        cosine_of_rows(rows)


@pytest.mark.parametrize("gramian", [torch.zeros(2, 3), torch.zeros(0, 0), torch.eye(2).long()])
def test_wrong_gramian(gramian):
    with pytest.raises(ShapeError, match="gramian"):
        cosine_of_gramian(gramian)


def test_wrong_chunk():
    with pytest.raises(UsageError, match="chunk_size"):
        cosine_of_rows(torch.eye(2), chunk_size=0)

"""Count sketches: linear, foldable, and what they are by definition."""

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.linalg import count_sketch


def test_every_column_lands_in_one_bucket_with_one_sign():
    found = count_sketch(torch.eye(3000, dtype=torch.float64), 7, seed=4)
    assert (found.abs().sum(dim=1) == 1).all()
    share = found.abs().mean(dim=0) * 7
    assert float((share - 1).abs().max()) < 0.2
    assert abs(float(found.sum())) < 5 * 3000**0.5
    other = count_sketch(torch.eye(3000, dtype=torch.float64), 7, seed=5)
    same = (found == other).all(dim=1).double().mean()
    assert abs(float(same) - 1 / 14) < 0.03


def test_pieces_add_up_and_the_sketch_is_linear():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    whole = count_sketch(rows, 8, seed=1)
    folded = count_sketch(rows[:, :13], 8, seed=1)
    returned = count_sketch(rows[:, 13:], 8, seed=1, offset=13, out=folded)
    assert returned is folded
    torch.testing.assert_close(folded, whole)
    torch.testing.assert_close(count_sketch(3 * rows[:1] - rows[1:2], 8, seed=1)[0],
                               3 * whole[0] - whole[1])  # fmt: skip


def test_values_never_change():
    """Averages that were saved go on with the same buckets."""
    found = count_sketch(torch.arange(1.0, 13.0)[None], 5, seed=20250916)
    assert found.tolist() == [[20.0, -2.0, 4.0, -16.0, -4.0]]


def test_bad_arguments_are_refused():
    with pytest.raises(ShapeError, match="floating-point matrix"):
        count_sketch(torch.ones(3), 2)
    with pytest.raises(ShapeError, match="floating-point matrix"):
        count_sketch(torch.ones(3, 2, dtype=torch.int64), 2)
    with pytest.raises(UsageError, match="dim"):
        count_sketch(torch.ones(3, 2), 0)

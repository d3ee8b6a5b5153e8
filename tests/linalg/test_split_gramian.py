"""Split-half Gramians and jackknife errors: definitions, and the table of SON-GOKU's noise."""

import math

import pytest
import torch

from gnn_mtl._core.errors import ShapeError
from gnn_mtl.linalg import (
    add_gramian,
    cosine_of_gramian,
    cosine_of_rows,
    jackknife_cosine,
    unbiased_gramian,
)


def cross_of(rows, masses):
    scaled = rows * masses[:, :, None]
    return torch.einsum("ksp,ltp->kslt", scaled, scaled)


def draws(blocks, tasks, width, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(blocks, tasks, width, generator=generator, dtype=torch.float64)
    masses = torch.randint(1, 9, (blocks, tasks), generator=generator).double()
    return rows, masses


def test_two_halves_are_the_split_half_estimator():
    rows, _ = draws(2, 4, 9, 0)
    found = unbiased_gramian(cross_of(rows, torch.ones(2, 4).double()), torch.ones(2, 4))
    half = rows[0] @ rows[1].T
    torch.testing.assert_close(found, (half + half.T) / 2)


def test_blocks_count_by_their_mass_and_not_with_themselves():
    rows, masses = draws(5, 3, 7, 1)
    masses[2, 1] = 0.0
    found = unbiased_gramian(cross_of(rows, masses), masses)
    for i in range(3):
        for j in range(3):
            pairs = [
                (masses[k, i] * masses[m, j], rows[k, i] @ rows[m, j])
                for k in range(5) for m in range(5) if k != m
            ]  # fmt: skip
            other = [
                (masses[k, j] * masses[m, i], rows[k, j] @ rows[m, i])
                for k in range(5) for m in range(5) if k != m
            ]  # fmt: skip
            mean = [sum(w * v for w, v in p) / sum(w for w, _ in p) for p in (pairs, other)]
            assert float(found[i, j]) == pytest.approx(float(sum(mean)) / 2, rel=1e-12)


def test_a_pair_without_two_blocks_is_unknown():
    rows, masses = draws(3, 2, 4, 2)
    masses[1:, 0] = 0.0  # task 0 is observed in the first block only
    masses[0, 1] = masses[2, 1] = 0.0  # task 1 in the second only
    found = unbiased_gramian(cross_of(rows, masses), masses)
    assert torch.isnan(found.diagonal()).all()
    assert torch.isfinite(found[0, 1])


def test_noise_shrinks_plain_cosines_and_not_the_unbiased_ones():
    """True cosine -.6, noise sigma^2 = 16 a draw, 19 draws: about -.33 against -.6."""
    plain, unbiased = [], []
    generator = torch.Generator().manual_seed(3)
    width, count = 200, 19
    mean = torch.zeros(2, width, dtype=torch.float64)
    mean[0, 0], mean[1, 0], mean[1, 1] = 1.0, -0.6, 0.8
    ones = torch.ones(count, 2, dtype=torch.float64)
    for _ in range(300):
        noise = torch.randn(count, 2, width, generator=generator, dtype=torch.float64)
        rows = mean + noise * 4.0 / math.sqrt(width)
        plain.append(cosine_of_rows(rows.mean(dim=0))[0, 1])
        unbiased.append(cosine_of_gramian(unbiased_gramian(cross_of(rows, ones), ones))[0, 1])
    assert float(torch.stack(plain).mean()) == pytest.approx(-0.6 / (1 + 16 / 19), abs=0.02)
    assert float(torch.stack(unbiased).nanmean()) == pytest.approx(-0.6, abs=0.03)


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_jackknife_leaves_out_one_block_at_a_time(unbiased):
    rows, masses = draws(4, 3, 6, 4)
    rows = rows + 3.0 * torch.arange(1, 4)[:, None]
    cross = cross_of(rows, masses)
    cosine, error = jackknife_cosine(cross, masses, unbiased=unbiased)

    def direct(kept):
        some = cross[kept][:, :, kept]
        if unbiased:
            return cosine_of_gramian(unbiased_gramian(some, masses[kept]))
        return cosine_of_gramian(some.sum(dim=(0, 2)))

    torch.testing.assert_close(cosine, direct(list(range(4))))
    left = torch.stack([direct([m for m in range(4) if m != k]) for k in range(4)])
    expected = ((left - left.mean(dim=0)) ** 2).sum(dim=0).mul(3 / 4).sqrt()
    torch.testing.assert_close(error, expected, rtol=1e-6, atol=1e-9)


def test_shapes_are_checked():
    ones = torch.ones(2, 3)
    with pytest.raises(ShapeError, match="K >= 2"):
        unbiased_gramian(torch.ones(1, 3, 1, 3), torch.ones(1, 3))
    with pytest.raises(ShapeError, match="K >= 3"):
        jackknife_cosine(torch.ones(2, 3, 2, 3), ones)
    with pytest.raises(ShapeError, match="Found"):
        unbiased_gramian(torch.ones(2, 3, 3, 2), ones)


def test_gramians_add_up_in_float64_whatever_the_norms():
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(6, 20_000, generator=generator)
    rows *= torch.tensor([1e-30, 1.0, 1e15, 1e-3, 1.0, 0.0])[:, None]
    exact = rows.double() @ rows.double().T
    found = add_gramian(add_gramian(None, rows[:, :7000]), rows[:, 7000:])
    norms = exact.diagonal().sqrt()
    scale = torch.outer(norms, norms).clamp(min=1e-300)
    assert float(((found - exact).abs() / scale).max()) < 1e-5
    assert found.dtype == torch.float64
    rows[1, 3] = torch.nan
    broken = add_gramian(None, rows)
    assert torch.isnan(broken[1]).all()
    assert torch.isfinite(broken[[0, 2, 3, 4, 5]][:, [0, 2, 3, 4, 5]]).all()

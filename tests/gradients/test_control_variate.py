"""Control variates against loops in float64, and what they are for: less noise, no bias."""

import itertools

import pytest
import torch

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.gradients import control_variate


def blocks(number, tasks=3, width=7, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(tasks, width, generator=rng, dtype=torch.float64) for _ in range(number)]


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("fitted", [False, True])
def test_against_a_loop(number, fitted):
    fresh, stale, (exact,) = blocks(number), blocks(number, seed=1), blocks(1, seed=2)
    if fitted and number == 1:
        with pytest.raises(UsageError, match="at least 2 blocks to fit on"):
            control_variate(fresh, stale, exact, fitted=True)
        return
    found = control_variate(fresh, stale, exact, fitted=fitted)
    for task in range(3):
        now = [sum(float(b[task, p]) for b in fresh) / number for p in range(7)]
        then = [sum(float(b[task, p]) for b in stale) / number for p in range(7)]
        c = 1.0
        if fitted:
            cells = list(itertools.product(range(number), range(7)))
            top = sum(
                (float(fresh[b][task, p]) - now[p]) * (float(stale[b][task, p]) - then[p])
                for b, p in cells
            )
            c = top / sum((float(stale[b][task, p]) - then[p]) ** 2 for b, p in cells)
        for p in range(7):
            expected = now[p] + c * (float(exact[task, p]) - then[p])
            assert float(found[task, p]) == pytest.approx(expected, rel=1e-12)


def test_at_the_snapshot_itself_it_is_exact():
    fresh, (exact,) = blocks(3), blocks(1, seed=2)
    for fitted in (False, True):
        torch.testing.assert_close(control_variate(fresh, fresh, exact, fitted=fitted), exact)


def test_all_blocks_give_the_mean_of_all():
    """Where the blocks are everything, their correction is 0."""
    fresh, stale = blocks(4), blocks(4, seed=1)
    exact = torch.stack(stale).mean(dim=0)
    for fitted in (False, True):
        found = control_variate(fresh, stale, exact, fitted=fitted)
        torch.testing.assert_close(found, torch.stack(fresh).mean(dim=0))


def test_unbiased_over_all_draws():
    fresh, stale = blocks(5), blocks(5, seed=1)
    exact = torch.stack(stale).mean(dim=0)
    draws = [
        control_variate([fresh[a], fresh[b]], [stale[a], stale[b]], exact)
        for a, b in itertools.combinations(range(5), 2)
    ]
    torch.testing.assert_close(torch.stack(draws).mean(dim=0), torch.stack(fresh).mean(dim=0))


def test_less_noise_where_both_weights_share_it_and_fitted_never_more_where_they_do_not():
    def error(shared, fitted):
        noise, other = blocks(32, width=400, seed=3), blocks(32, width=400, seed=4)
        signal = torch.ones(3, 400, dtype=torch.float64)
        mixed = [shared * n + (1 - shared**2) ** 0.5 * o for n, o in zip(noise, other, strict=True)]
        found = control_variate(
            [signal + n for n in noise], [2 * signal + m for m in mixed], 2 * signal, fitted=fitted
        )
        return float((found - signal).square().mean() / torch.stack(noise).mean(0).square().mean())

    assert error(0.95, fitted=False) < 0.2
    assert error(0.0, fitted=False) > 1.5
    assert error(0.0, fitted=True) < 1.1


def test_still_snapshots_leave_the_fit_at_one():
    fresh, (exact,) = blocks(2), blocks(1, seed=2)
    still = [torch.zeros_like(exact)] * 2
    found = control_variate(fresh, still, exact, fitted=True)
    torch.testing.assert_close(found, torch.stack(fresh).mean(dim=0) + exact)


def test_bad_input():
    fresh, (exact,) = blocks(2), blocks(1, seed=2)
    with pytest.raises(ShapeError, match="same blocks"):
        control_variate(fresh, fresh[:1], exact)
    with pytest.raises(ShapeError, match=r"\(3, 6\)"):
        control_variate(fresh, fresh, exact[:, :6])
    with pytest.raises(UsageError, match="at least 1 blocks"):
        control_variate([], [], exact)

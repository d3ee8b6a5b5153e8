"""Nonnegative quadratic programs by active sets: the engine of this room's projections."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gnn_mtl._core.errors import ShapeError

RIDGE = 1e-7
"""Proximal term, relative to a diagonal near 1: every face can be solved, the answer is unique."""

PROXIMAL_STEPS = 30
PIVOTS = 100
CHANCES = 3
THIN = 4
"""From which ratio of the size to the rank of H faces are solved through a factor of H."""
VANISHED = 1e-13
BATCHED_BELOW = 48
"""Faces below this size are solved as one padded batch, larger ones each on their own."""


def nonnegative_qp(
    hessian: Tensor, linear: Tensor, start: Tensor | None = None, *, exact: float = 1e-14
) -> Tensor:
    r"""Return :math:`\arg\min_{x \ge 0} \tfrac12 x^\top H x - q^\top x` for many q at once.

    Block principal pivoting (Portugal, Júdice, Vicente, Math. Comp. 1994; Kim and Park, SIAM J.
    Sci. Comput. 2011) on :math:`H + \delta I`, inside a proximal loop that takes the ridge out
    again: q has to lie in the range of H, as it does for every least-squares problem. Where
    several x are best, one near that of least norm is returned, the same for every order of the
    rows. A face that pivoting does not settle on is found by Lawson and Hanson's active set, which
    always ends.

    Args:
        hessian: H, float64 ``[T, T]``, positive semidefinite, diagonal near 1. Negative
            eigenvalues, as inner products of float32 gradients have them, are taken for 0.
        linear: q, one problem a row, ``[M, T]``.
        start: Guess ``[M, T]`` of x, nonnegative; default 0, with all positive q free.
        exact: Error of the gradient, relative to the largest of q, at which to stop.

    Returns:
        x ``[M, T]``.

    Raises:
        ShapeError: If the shapes do not fit.

    Complexity:
        O(M T^3) for each of a few rounds of factorisations, of faces only.
    """
    size = hessian.shape[-1]
    fits = linear.ndim == 2 and linear.shape[1] == size and size > 0
    if (
        hessian.shape != (size, size)
        or not fits
        or (start is not None and start.shape != linear.shape)
    ):
        raise ShapeError(
            "Expected `hessian` [T, T] with T >= 1, `linear` and `start` [M, T]. Found "
            f"{tuple(hessian.shape)}, {tuple(linear.shape)} and "
            f"{None if start is None else tuple(start.shape)}."
        )
    x = torch.zeros_like(linear) if start is None else start.clone()
    face = linear > 0 if start is None else start > 0
    ridge = RIDGE * torch.eye(size, dtype=hessian.dtype)
    if int(torch.linalg.cholesky_ex(hessian + ridge).info):
        hessian, linear = _positive_part(hessian, linear)
    thin, ridged = _thin_factor(hessian, linear), hessian + ridge
    left = torch.arange(len(linear))
    close = exact * linear.abs().amax(dim=1)
    for _ in range(PROXIMAL_STEPS):
        before = x[left]
        near = thin and thin._replace(linear=thin.linear[left], before=before)
        found, faces = _pivoted(ridged, linear[left] + RIDGE * before, face[left], near)
        x[left], face[left] = found, faces
        left = left[(found - before).abs().amax(dim=1) * RIDGE > close[left]]
        if len(left) == 0:
            break
    return x


def _positive_part(hessian: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """H without its eigenvalues of no more than rounding's size, and q without what they span."""
    values, axes = torch.linalg.eigh(hessian)
    kept = axes[:, values > -values[0]]
    return (kept * values[values > -values[0]]) @ kept.T, linear @ kept @ kept.T


class _Thin(NamedTuple):
    """H = B B^T with few columns: faces are then solved in as many dimensions."""

    factor: Tensor
    products: Tensor
    linear: Tensor
    before: Tensor

    def on_face(self, rows: Tensor, face: Tensor) -> Tensor:
        """The best x on the faces, for H + ridge and q = B z + ridge * before."""
        rank = self.factor.shape[1]
        square = (face.double() @ self.products).view(-1, rank, rank)
        square.diagonal(dim1=1, dim2=2).add_(RIDGE)
        before = torch.where(face, self.before[rows], 0.0)
        targets = self.linear[rows] - before @ self.factor
        found = torch.cholesky_solve(targets[:, :, None], torch.linalg.cholesky(square))[:, :, 0]
        return torch.where(face, before + found @ self.factor.T, 0.0)


def _thin_factor(hessian: Tensor, linear: Tensor) -> _Thin | None:
    """The pivoted Cholesky factor, if the rank is below a share of the size."""
    size = len(hessian)
    factor = torch.zeros(size, size // THIN, dtype=hessian.dtype)
    left, pivots = hessian.diagonal().clone(), list[int]()
    while float(left.max()) > VANISHED:
        pivot, rank = int(left.argmax()), len(pivots)
        if rank == size // THIN:
            return None
        column = hessian[:, pivot] - factor[:, :rank] @ factor[pivot, :rank]
        factor[:, rank] = column / left[pivot].sqrt()
        left = left - factor[:, rank].square()
        left[pivot] = 0.0
        pivots.append(pivot)
    factor = factor[:, : len(pivots)]
    products = (factor[:, :, None] * factor[:, None, :]).flatten(1)
    inner = torch.linalg.solve_triangular(factor[pivots], linear[:, pivots].T, upper=False).T
    return _Thin(factor, products, inner, torch.zeros_like(linear))


def _pivoted(
    hessian: Tensor, linear: Tensor, face: Tensor, thin: _Thin | None = None
) -> tuple[Tensor, Tensor]:
    """Solve strictly convex programs by exchanging all wrong indices of each at once."""
    face, x = face.clone(), torch.zeros_like(linear)
    left = torch.arange(len(linear))
    fewest = torch.full_like(left, hessian.shape[1] + 1)
    chances = torch.full_like(left, CHANCES)
    for _ in range(PIVOTS):
        faces, targets = face[left], linear[left]
        large = faces.sum(dim=1) > (thin.factor.shape[1] if thin else hessian.shape[1])
        found = _on_face(hessian, targets, faces & ~large[:, None])
        if thin and bool(large.any()):
            found[large] = thin.on_face(left[large], faces[large])
        ascent = targets - found @ hessian
        wrong = torch.where(faces, found < 0, ascent > _noise(found, targets)[:, None])
        count = wrong.sum(dim=1)
        x[left] = found
        better = count < fewest[left]
        chances[left] = torch.where(better, CHANCES, chances[left] - 1)
        fewest[left] = torch.minimum(count, fewest[left])
        last = wrong.shape[1] - 1 - wrong.flip(1).byte().argmax(dim=1)
        single = torch.zeros_like(wrong).scatter_(1, last[:, None], value=True)
        wrong = torch.where((chances[left] >= 0)[:, None], wrong, wrong & single)
        face[left] ^= wrong
        left = left[count > 0]
        if len(left) == 0:
            break
    for row in (fewest > 0).nonzero()[:, 0].tolist():
        x[row], face[row] = _lawson_hanson(hessian, linear[row])
    return x, face


def _lawson_hanson(hessian: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Solve one by adding the steepest index and walking back to the nonnegative orthant."""
    x = torch.zeros_like(linear)
    face = torch.zeros_like(linear, dtype=torch.bool)
    for _ in range(10 * len(linear)):
        slope = torch.where(face, -torch.inf, linear - hessian @ x)
        steepest = int(slope.argmax())
        if float(slope[steepest]) <= float(_noise(x[None], linear[None])):
            break
        face[steepest] = True
        wanted = _on_face(hessian, linear[None], face[None])[0]
        while bool((wanted[face] <= 0).any()):
            falling = face & (wanted <= 0)
            share = x[falling] / (x[falling] - wanted[falling])
            x = x + float(share.min()) * (wanted - x)
            gone = torch.zeros_like(face)
            gone[falling] = share <= share.min()
            face = face & ~gone & (x > 0)
            x = torch.where(face, x, 0.0)
            wanted = _on_face(hessian, linear[None], face[None])[0]
        x = wanted
    return x, face


def _on_face(hessian: Tensor, linear: Tensor, face: Tensor) -> Tensor:
    """The best x that are zero off their faces, of any sign on them."""
    x = torch.zeros_like(linear)
    size = int(face.sum(dim=1).max())
    if size == 0:
        return x
    if size >= BATCHED_BELOW or len(face) == 1:
        for row, (targets, free) in enumerate(zip(linear, face, strict=True)):
            index = free.nonzero()[:, 0]
            if len(index):
                factor = torch.linalg.cholesky(hessian[index][:, index])
                x[row, index] = torch.cholesky_solve(targets[index, None], factor)[:, 0]
        return x
    index = face.byte().argsort(dim=1, descending=True)[:, :size]
    kept = face.gather(1, index)
    square = hessian[index[:, :, None], index[:, None, :]]
    square = torch.where(kept[:, :, None] & kept[:, None, :], square, torch.eye(size).to(square))
    targets = torch.where(kept, linear.gather(1, index), 0.0)
    found = torch.cholesky_solve(targets[:, :, None], torch.linalg.cholesky(square))[:, :, 0]
    return x.scatter_(1, index, torch.where(kept, found, 0.0))


def _noise(x: Tensor, linear: Tensor) -> Tensor:
    """Sizes of a gradient entry that is rounding error, one a row."""
    return 1e-15 * x.shape[1] * (x.abs().amax(dim=1) + linear.abs().amax(dim=1))

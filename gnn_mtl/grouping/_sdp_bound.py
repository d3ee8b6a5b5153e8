r"""A bound on the clustering SDP that holds however far its solver has come.

For every X with :math:`X \succeq 0, X \ge 0, X\mathbf 1 = \mathbf 1` and every symmetric
:math:`N \ge 0`, :math:`\langle A, X\rangle \le \langle A + N, X\rangle`. X has the eigenvector
:math:`\mathbf 1` with eigenvalue 1, and as it is doubly stochastic all others lie in [0, 1], so
with P the projection onto the complement of :math:`\mathbf 1` and :math:`\lambda_i` the
eigenvalues of :math:`P(A + N)P` there, in falling order,

.. math:: \langle A, X\rangle \le \tfrac1T \mathbf 1^\top (A + N) \mathbf 1
          + \sum_{i=1}^{k-1} \lambda_i \quad\text{if } \operatorname{tr} X = k,

and :math:`\langle A, X\rangle - \lambda \operatorname{tr} X` is at most the first term less
:math:`\lambda` plus :math:`\sum_i \max(0, \lambda_i - \lambda)`. Every partition into k groups is
such an X. The smallest of these bounds over N is the SDP's value: the multipliers of
:math:`X \mathbf 1 = \mathbf 1` are eliminated, so that no dual constraint is left to violate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError


@dataclass(frozen=True, eq=False)
class Certificate:
    """What the bound is read from, for any number of groups or penalty.

    Attributes:
        base: The bound's first term.
        spectrum: Eigenvalues on the complement of the constant vector, in falling order, ``[T-1]``.
        slack: Most by which rounding may have moved one of them.
    """

    base: float
    spectrum: NDArray[np.floating]
    slack: float

    def bound(self, num_groups: float | None = None, penalty: float | None = None) -> float:
        """Return the upper bound on the sum of densities, or on that less ``penalty`` a group.

        Args:
            num_groups: Number of groups k.
            penalty: Price of a group; instead of ``num_groups``.

        Raises:
            UsageError: Unless exactly one of the two is given, and k is at least 1.
        """
        if (num_groups is None) == (penalty is None) or (num_groups is not None and num_groups < 1):
            raise UsageError(
                "A bound is of either `num_groups`, at least 1, or `penalty`. "
                f"Found {num_groups} and {penalty}."
            )
        if num_groups is not None:
            top = self.spectrum[: round(num_groups) - 1]
            return self.base + float(top.sum()) + self.slack * (len(top) + 1)
        assert penalty is not None  # noqa: S101 - one of the two was given
        above = np.maximum(self.spectrum - penalty + self.slack, 0.0)
        return self.base - penalty + float(above.sum()) + self.slack


def certificate(values: NDArray[np.float64], multipliers: NDArray[np.float64]) -> Certificate:
    """Return the certificate of some multipliers of X >= 0.

    Args:
        values: Symmetric, finite affinity ``[T, T]``.
        multipliers: N, symmetric and not negative, ``[T, T]``; zeros give the spectral bound.

    Raises:
        ShapeError: If the two differ in shape or are not symmetric.
        UsageError: If a multiplier is negative.

    Complexity:
        O(T^3): eigenvalues of one matrix, without its vectors.
    """
    if values.shape != multipliers.shape or values.ndim != 2 or len(values) != len(values.T):
        raise ShapeError(
            "`values` and `multipliers` should both be [T, T]. "
            f"Found {values.shape} and {multipliers.shape}."
        )
    both = np.stack([values, multipliers])
    if not np.allclose(both, both.transpose(0, 2, 1), rtol=1e-9, atol=1e-12 * np.abs(both).max()):
        raise ShapeError(
            "`values` and `multipliers` should be symmetric; symmetrise the affinity first."
        )
    if multipliers.min() < 0:
        raise UsageError(f"`multipliers` should not be negative. Found {multipliers.min():g}.")
    summed = values + multipliers
    summed = (summed + summed.T) / 2
    number = len(summed)
    spectrum = np.linalg.eigvalsh(to_complement(summed))[::-1]
    slack = float(8 * number * np.finfo(np.float64).eps * np.linalg.norm(summed))
    return Certificate(float(summed.sum()) / number, spectrum, slack)


def relative_gap(upper: float, value: float, scale: float) -> float:
    """Return ``(upper - value) / |upper|``, over a millionth of ``scale`` where |upper| is less."""
    return max(upper - value, 0.0) / max(abs(upper), 1e-6 * scale) if scale > 0 else 0.0


def to_complement(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``Q^T M Q``, ``[T-1, T-1]``, for an orthonormal basis Q of the vectors of sum 0."""
    mirror = _mirror(len(matrix))
    image = matrix @ mirror
    turned = matrix - 2 * np.outer(image, mirror)
    turned -= 2 * np.outer(mirror, mirror @ turned)
    inner = turned[1:, 1:]
    return (inner + inner.T) / 2


def from_complement(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``Q V``, ``[T, r]``, of vectors ``[T-1, r]`` in that basis."""
    padded = np.concatenate([np.zeros((1, vectors.shape[1])), vectors])
    mirror = _mirror(len(padded))
    return padded - 2 * np.outer(mirror, mirror @ padded)


def _mirror(number: int) -> NDArray[np.float64]:
    """The Householder vector that turns the constant vector into the first axis."""
    vector = np.full(number, number**-0.5)
    vector[0] += 1.0
    return vector / np.linalg.norm(vector)

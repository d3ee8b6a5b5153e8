"""The one sign of conflict: ``rho = -affinity``; two tasks conflict where ``rho > tau``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gnn_mtl._core.errors import ShapeError, UsageError
from gnn_mtl.tasks._affinity import Affinity


def interference(affinity: Affinity) -> NDArray[np.float64]:
    r"""Return the interference :math:`\rho_{ij} = -\cos(g_i, g_j)`, SON-GOKU (arXiv 2509.16959) §3.

    Positive values are conflicts. The diagonal is 0 and unknown cells stay NaN. Values of unit
    ``"cosine"`` are clamped to [-1, 1], so that ``tau = 1`` never leaves an edge by rounding.

    Args:
        affinity: A symmetric affinity ``[T, T]``.

    Returns:
        A fresh matrix ``[T, T]``, symmetric, hollow.

    Raises:
        ShapeError: If the affinity is not symmetric.
    """
    if not affinity.symmetric:
        raise ShapeError(
            "A conflict graph is undirected and needs a symmetric affinity. "
            "Found a directed one; call affinity.symmetrized() first."
        )
    rho = -affinity.values
    if affinity.unit == "cosine":
        rho = np.clip(rho, -1.0, 1.0)
    np.fill_diagonal(rho, 0.0)
    return rho


def conflict_graph(affinity: Affinity, tau: float) -> NDArray[np.bool_]:
    r"""Return the conflict graph: an edge where :math:`\rho_{ij} > \tau`, that is cos < -tau.

    SON-GOKU (arXiv 2509.16959) Eq. 9, strict inequality. A larger ``tau`` gives fewer edges, fewer
    colours and larger groups: at ``tau = 1`` no edge is left, at ``tau = -1`` every known pair that
    does not point in exactly the same direction conflicts. Unknown pairs (NaN) never conflict.

    The released code of the paper had three conventions of this sign at once; here it is decided in
    this function only.

    Args:
        affinity: A symmetric affinity ``[T, T]``, positive = helps.
        tau: Tolerance in the unit of the affinity; in [-1, 1] for cosines.

    Returns:
        A symmetric boolean matrix ``[T, T]`` with a False diagonal.

    Raises:
        UsageError: If ``tau`` is not finite, or outside [-1, 1] for cosines.
    """
    if not math.isfinite(tau) or (affinity.unit == "cosine" and not -1.0 <= tau <= 1.0):
        raise UsageError(f"`tau` should lie in [-1, 1] for cosine affinities. Found {tau}.")
    with np.errstate(invalid="ignore"):
        edges = interference(affinity) > tau
    np.fill_diagonal(edges, False)
    return edges

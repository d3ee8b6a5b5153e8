"""Affinity as the cosine between task gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_mtl.linalg import cosine_of_rows
from gnn_mtl.tasks import Affinity


def gradient_cosine(jacobian: Tensor, /, *, label_names: tuple[str, ...] | None = None) -> Affinity:
    r"""Return :math:`\cos(g_i, g_j)` of every pair of task gradients.

    To first order, a step along :math:`-g_i` lowers the loss of task j where the cosine is
    positive. Scale free, hence symmetric. Conflict in the sense of SON-GOKU (arXiv 2509.16959,
    Eq. 8) is its negative, ``gnn_mtl.tasks.interference``.

    Args:
        jacobian: Gradients of the shared parameters, ``[T, P]``, one row a task; a row that is zero
            or not finite gives unknown (NaN) cells.
        label_names: One name a task.

    Returns:
        A symmetric affinity with unit ``"cosine"``.

    Raises:
        ShapeError: If ``jacobian`` is not a floating-point matrix ``[T, P]`` with T >= 1.

    Complexity:
        O(T^2 P) in float64.

    Example:
        >>> gradient_cosine(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).values.round(3).tolist()
        [[1.0, 0.707], [0.707, 1.0]]
    """
    cosine = cosine_of_rows(jacobian).to(device=torch.device("cpu")).numpy()
    return Affinity(cosine, "gradient_cosine", "cosine", label_names=label_names)

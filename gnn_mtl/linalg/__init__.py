"""Floor 1: linear algebra on task gradients (torch only), free of models and of labels' meaning.

``cosine_of_rows`` and ``cosine_of_gramian`` agree wherever both apply; the first is for gradients
that are held, the second for gradients of which only the inner products were accumulated
(``add_gramian``). ``unbiased_gramian`` and ``jackknife_cosine`` take inner products between
disjoint blocks of nodes: they remove the noise's own norm and say how far cosines can be trusted.
``count_sketch`` folds long gradients into short ones with the same inner products on average.
``min_norm_weights`` finds the shortest convex combination of gradients from their inner products,
``project_on_dual_cone`` the nearest to given combinations that harms no gradient: both exact, by
``nonnegative_qp``.
"""

from gnn_mtl.linalg._cosine import cosine_of_gramian, cosine_of_rows
from gnn_mtl.linalg._count_sketch import count_sketch
from gnn_mtl.linalg._dual_cone import project_on_dual_cone
from gnn_mtl.linalg._gramian import add_gramian
from gnn_mtl.linalg._min_norm import min_norm_weights
from gnn_mtl.linalg._nonnegative_qp import nonnegative_qp
from gnn_mtl.linalg._split_gramian import jackknife_cosine, unbiased_gramian

__all__ = [
    "add_gramian",
    "cosine_of_gramian",
    "cosine_of_rows",
    "count_sketch",
    "jackknife_cosine",
    "min_norm_weights",
    "nonnegative_qp",
    "project_on_dual_cone",
    "unbiased_gramian",
]

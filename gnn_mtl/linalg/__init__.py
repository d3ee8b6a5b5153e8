"""Floor 1: linear algebra on task gradients (torch only), free of models and of labels' meaning.

``cosine_of_rows`` and ``cosine_of_gramian`` agree wherever both apply; the first is for gradients
that are held, the second for gradients of which only the inner products were accumulated.
"""

from gnn_mtl.linalg._cosine import cosine_of_gramian, cosine_of_rows

__all__ = ["cosine_of_gramian", "cosine_of_rows"]

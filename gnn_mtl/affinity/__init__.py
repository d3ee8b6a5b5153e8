"""Floor 4: estimators of how training on one task affects another.

``gradient_cosine`` is the pure function; ``estimate_affinity`` applies it to a model and batches;
``GradientEMA`` averages gradients over time first and
keeps its state. All return an ``Affinity``, positive where the tasks help each other.
"""

from gnn_mtl.affinity._ema import GradientEMA, ObservedGradients
from gnn_mtl.affinity._estimate import estimate_affinity
from gnn_mtl.affinity._gradient_cosine import gradient_cosine

__all__ = ["GradientEMA", "ObservedGradients", "estimate_affinity", "gradient_cosine"]

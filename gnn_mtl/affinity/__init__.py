"""Floor 4: estimators of how training on one task affects another.

``estimate_affinity`` is the one call: a model, batches, the name of a method. All return an
``Affinity``, ``values[giver, recipient]``, positive where the giver helps.

Cosines of gradients: ``gradient_cosine`` of given gradients, ``cosine_affinity`` of a model's over
batches, with errors and noise from independent sections of them (``section_gradients``);
``GradientEMA`` (of gradients, or of sketches, which are linear) and ``GramianEMA`` average over
time and keep their state. What a step does to every loss: ``tag_affinity`` tries the step
(``look_ahead``), ``tag_linear_affinity`` predicts it to first order (``linear_look_ahead``, with
momentum ETAP's white-box term), ``ProximalAffinity`` reads it off the updates of groups that a
training makes anyway; which step, say ``sgd_rule``, ``relative_rule``, ``optimizer_rule`` and
``preconditioned_rule``; ``CellMean`` averages such matrices. No model: ``label_cooccurrence``.
``blend`` makes one of two.

From pairs to groups: ``group_gains`` scores groups by their pairs, ``GainPredictor`` (ETAP)
corrects such scores by a few groups really trained, ``choose_groups`` and ``search_groups`` pick
the groups that serve every task best.

Subsets of tasks (``SubsetTable``): ``draw_subsets`` designs them so that every pair meets;
``subset_affinity`` averages their scores to a higher-order affinity, ``pair_affinity`` reads pairs,
``SubsetSurrogate`` predicts further subsets. Grad-TAG (``gradtag_table``, ``gradtag_affinity``)
predicts them all in the linearised network: ``fit_subsets`` by logistic regression with an offset,
``newton_step`` from sums alone; ``audit_linearisation`` says how far it is from the network,
``forward_scores`` asks the network itself, ``rank_agreement`` compares with trained subsets.

Diagnostics: ``affinity_facts`` and ``pair_table`` put shared samples, chance (``affinity_null``,
``shuffled_batches``), errors and ``effective_samples`` beside the values; ``layer_conflict``
(``conflicts_by_layer``) says in which layers the tasks conflict; ``fidelity`` compares an estimate
with exact cosines, ``fidelity_study`` every way of measuring them, ``gain_fidelity`` compares with
what training groups of tasks really gave.
"""

from gnn_mtl.affinity._batch_cosine import SectionGradients, cosine_affinity, section_gradients
from gnn_mtl.affinity._blend import blend, prior_weight
from gnn_mtl.affinity._cell_mean import CellMean
from gnn_mtl.affinity._cooccurrence import label_cooccurrence
from gnn_mtl.affinity._diagnostics import (
    affinity_facts,
    affinity_null,
    pair_table,
    shuffled_batches,
)
from gnn_mtl.affinity._ema import GradientEMA, ObservedGradients
from gnn_mtl.affinity._estimate import (
    LABEL_METHODS,
    MODEL_METHODS,
    SUBSET_METHODS,
    estimate_affinity,
    valid_batches,
)
from gnn_mtl.affinity._etap import GainPredictor
from gnn_mtl.affinity._fidelity import (
    Fidelity,
    GainFidelity,
    edge_tau,
    fidelity,
    gain_fidelity,
)
from gnn_mtl.affinity._fidelity_study import FidelityRow, FidelityStudy, fidelity_study
from gnn_mtl.affinity._gradient_cosine import gradient_cosine
from gnn_mtl.affinity._gradtag import gradtag_affinity, gradtag_table, subset_masks
from gnn_mtl.affinity._gradtag_audit import LinearisationAudit, audit_linearisation, forward_scores
from gnn_mtl.affinity._gradtag_lambda import rank_agreement
from gnn_mtl.affinity._gramian_ema import GramianEMA
from gnn_mtl.affinity._group_gains import group_gains
from gnn_mtl.affinity._group_search import GroupChoice, choose_groups, search_groups
from gnn_mtl.affinity._higher_order import normalized_scores, pair_affinity, subset_affinity
from gnn_mtl.affinity._layer_conflict import LayerConflict, conflicts_by_layer, layer_conflict
from gnn_mtl.affinity._linear_look_ahead import linear_look_ahead, tag_linear_affinity
from gnn_mtl.affinity._look_ahead import look_ahead, loss_change, tag_affinity
from gnn_mtl.affinity._newton_step import newton_step, quadratic_losses
from gnn_mtl.affinity._offset_regression import feature_cells, fit_subsets, linearised_losses
from gnn_mtl.affinity._proximal import ProximalAffinity, effective_samples, proximal_credits
from gnn_mtl.affinity._step_rules import (
    StepRule,
    optimizer_rule,
    preconditioned_rule,
    relative_rule,
    sgd_rule,
)
from gnn_mtl.affinity._subset_design import (
    PairCoverage,
    all_pairs,
    default_subsets,
    draw_subsets,
    pair_coverage,
)
from gnn_mtl.affinity._surrogate import SubsetSurrogate

__all__ = [
    "LABEL_METHODS",
    "MODEL_METHODS",
    "SUBSET_METHODS",
    "CellMean",
    "Fidelity",
    "FidelityRow",
    "FidelityStudy",
    "GainFidelity",
    "GainPredictor",
    "GradientEMA",
    "GramianEMA",
    "GroupChoice",
    "LayerConflict",
    "LinearisationAudit",
    "ObservedGradients",
    "PairCoverage",
    "ProximalAffinity",
    "SectionGradients",
    "StepRule",
    "SubsetSurrogate",
    "affinity_facts",
    "affinity_null",
    "all_pairs",
    "audit_linearisation",
    "blend",
    "choose_groups",
    "conflicts_by_layer",
    "cosine_affinity",
    "default_subsets",
    "draw_subsets",
    "edge_tau",
    "effective_samples",
    "estimate_affinity",
    "feature_cells",
    "fidelity",
    "fidelity_study",
    "fit_subsets",
    "forward_scores",
    "gain_fidelity",
    "gradient_cosine",
    "gradtag_affinity",
    "gradtag_table",
    "group_gains",
    "label_cooccurrence",
    "layer_conflict",
    "linear_look_ahead",
    "linearised_losses",
    "look_ahead",
    "loss_change",
    "newton_step",
    "normalized_scores",
    "optimizer_rule",
    "pair_affinity",
    "pair_coverage",
    "pair_table",
    "preconditioned_rule",
    "prior_weight",
    "proximal_credits",
    "quadratic_losses",
    "rank_agreement",
    "relative_rule",
    "search_groups",
    "section_gradients",
    "sgd_rule",
    "shuffled_batches",
    "subset_affinity",
    "subset_masks",
    "tag_affinity",
    "tag_linear_affinity",
    "valid_batches",
]

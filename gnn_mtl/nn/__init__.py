"""Floor 2: models. ``LabelModel`` = shared ``Encoder`` + ``Heads`` whose row t belongs to task t.

Encoders work on bipartite blocks: SAGE, GCN, GATv2 (edge features), GIN are convolutions; SIGN and
MLP read the seeds' own rows only; ``PyGEncoder`` wraps a user's module. A config (``SAGE``) is a
frozen dataclass that builds the module (``SAGEEncoder``). ``masked_bce`` is the loss, one value per
task; ``exact_logits`` evaluates without sampling.

Where groups of tasks share more than all tasks do: ``AdapterHeads`` bend one trunk's
representations for each group; ``Trunks`` are several encoders run as one, with ``BranchHeads``
that read one trunk per task (``branch_model``), or ``TrunkHeads`` that learn which
(``trunk_model``, ``prune``).
"""

from gnn_mtl.nn._encoder import Conv, ConvEncoder, Encoder
from gnn_mtl.nn._gatv2 import GATv2, GATv2Encoder
from gnn_mtl.nn._gcn import GCN, GCNEncoder
from gnn_mtl.nn._gin import GIN, GINEncoder
from gnn_mtl.nn._group_adapters import AdapterHeads, Adapters, GroupAdapter, serving_groups
from gnn_mtl.nn._heads import Heads, Linear, LinearHeads, MLPHead, MLPHeads
from gnn_mtl.nn._inference import exact_logits
from gnn_mtl.nn._losses import masked_bce
from gnn_mtl.nn._mlp import MLP, MLPEncoder
from gnn_mtl.nn._model import LabelModel
from gnn_mtl.nn._pyg_encoder import PyGEncoder
from gnn_mtl.nn._sage import SAGE, SAGEConv, SAGEEncoder
from gnn_mtl.nn._sign import SIGN, SIGNEncoder, propagate
from gnn_mtl.nn._trunk_heads import BranchHeads, TrunkHeads
from gnn_mtl.nn._trunk_models import BuildsEncoder, branch_model, prune, trunk_model
from gnn_mtl.nn._trunks import Trunks

EncoderConfig = SAGE | GCN | GATv2 | GIN | SIGN | MLP
HeadConfig = Linear | MLPHead | Adapters

__all__ = [
    "GCN",
    "GIN",
    "MLP",
    "SAGE",
    "SIGN",
    "AdapterHeads",
    "Adapters",
    "BranchHeads",
    "BuildsEncoder",
    "Conv",
    "ConvEncoder",
    "Encoder",
    "EncoderConfig",
    "GATv2",
    "GATv2Encoder",
    "GCNEncoder",
    "GINEncoder",
    "GroupAdapter",
    "HeadConfig",
    "Heads",
    "LabelModel",
    "Linear",
    "LinearHeads",
    "MLPEncoder",
    "MLPHead",
    "MLPHeads",
    "PyGEncoder",
    "SAGEConv",
    "SAGEEncoder",
    "SIGNEncoder",
    "TrunkHeads",
    "Trunks",
    "branch_model",
    "exact_logits",
    "masked_bce",
    "propagate",
    "prune",
    "serving_groups",
    "trunk_model",
]

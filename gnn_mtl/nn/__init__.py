"""Floor 2: models. ``LabelModel`` = shared ``Encoder`` + ``Heads`` whose row t belongs to task t.

Encoders work on bipartite blocks: SAGE, GCN, GATv2 (edge features), GIN are convolutions; SIGN and
MLP read the seeds' own rows only; ``PyGEncoder`` wraps a user's module. A config (``SAGE``) is a
frozen dataclass that builds the module (``SAGEEncoder``). ``masked_bce`` is the loss, one value per
task; ``exact_logits`` evaluates without sampling.
"""

from gnn_mtl.nn._encoder import Conv, ConvEncoder, Encoder
from gnn_mtl.nn._gatv2 import GATv2, GATv2Encoder
from gnn_mtl.nn._gcn import GCN, GCNEncoder
from gnn_mtl.nn._gin import GIN, GINEncoder
from gnn_mtl.nn._heads import Heads, Linear, LinearHeads, MLPHead, MLPHeads
from gnn_mtl.nn._inference import exact_logits
from gnn_mtl.nn._losses import masked_bce
from gnn_mtl.nn._mlp import MLP, MLPEncoder
from gnn_mtl.nn._model import LabelModel
from gnn_mtl.nn._pyg_encoder import PyGEncoder
from gnn_mtl.nn._sage import SAGE, SAGEConv, SAGEEncoder
from gnn_mtl.nn._sign import SIGN, SIGNEncoder, propagate

EncoderConfig = SAGE | GCN | GATv2 | GIN | SIGN | MLP
HeadConfig = Linear | MLPHead

__all__ = [
    "GCN",
    "GIN",
    "MLP",
    "SAGE",
    "SIGN",
    "Conv",
    "ConvEncoder",
    "Encoder",
    "EncoderConfig",
    "GATv2",
    "GATv2Encoder",
    "GCNEncoder",
    "GINEncoder",
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
    "exact_logits",
    "masked_bce",
    "propagate",
]

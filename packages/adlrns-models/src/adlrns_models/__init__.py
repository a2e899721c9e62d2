"""Networks with a rank dial: factorisation, adaptive layers, elastic models, settling."""

from importlib.metadata import version

from adlrns_models._attention import OpenAttention
from adlrns_models._batch_rows import agreement, margin
from adlrns_models._callbacks import Callback, ProgressBar
from adlrns_models._callbacks_hf import hf_callback
from adlrns_models._callbacks_lightning import lightning_callback
from adlrns_models._cascade import RankCascade
from adlrns_models._cascade_fit import fit_cascade
from adlrns_models._certificate import LossBounds
from adlrns_models._config import AdaptConfig
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._create import create_model
from adlrns_models._distill import Distilled, distill
from adlrns_models._dynamic import DynamicLayer
from adlrns_models._dynamic_conv import DynamicConv2d
from adlrns_models._dynamic_linear import DynamicLinear, DynamicLowRankLayer
from adlrns_models._dynamic_scope import iter_dynamic_layers, rank_budget
from adlrns_models._elastic import ElasticModel
from adlrns_models._event_linear import EventLinear
from adlrns_models._event_refactor import Drift, RefactorTrigger
from adlrns_models._factorize import Factorization, factorize
from adlrns_models._gate import Decision, Gate
from adlrns_models._gate_block import BlockGate
from adlrns_models._gate_learned import LearnedGate
from adlrns_models._gate_spectral import SpectralGate
from adlrns_models._grouped_conv import AdaptiveGroupedConv2d
from adlrns_models._identity import IdentityBlock
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._linear import AdaptiveLinear
from adlrns_models._loggers import CSVLogger, JSONLLogger, TensorBoardLogger
from adlrns_models._make_elastic import make_elastic
from adlrns_models._materialize import materialize_model
from adlrns_models._nets_mlp import adlrns_mlp
from adlrns_models._nets_resnet import adlrns_resnet
from adlrns_models._nets_transformer import adlrns_transformer
from adlrns_models._nets_vit import adlrns_vit
from adlrns_models._norms import reestimate_norms
from adlrns_models._penalty import mean_flops, rank_penalty
from adlrns_models._profile import LayerProfile
from adlrns_models._record import record
from adlrns_models._recording import Recording
from adlrns_models._sequential import refit
from adlrns_models._settled_file import load_materialized, save_materialized
from adlrns_models._trainer import ADLRNSTrainer
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._wrap import (
    clear_fd_sketch,
    iter_adaptive_layers,
    set_rank_change_callback,
    wrap_model_with_adaptive,
)

__version__ = version("adlrns-models")

__all__ = [
    "ADLRNSTrainer",
    "AdaptConfig",
    "AdaptiveConv2d",
    "AdaptiveGroupedConv2d",
    "AdaptiveLayer",
    "AdaptiveLinear",
    "BlockGate",
    "CSVLogger",
    "Callback",
    "Decision",
    "Drift",
    "DynamicConv2d",
    "DynamicLayer",
    "DynamicLinear",
    "DynamicLowRankLayer",
    "Distilled",
    "ElasticModel",
    "EventLinear",
    "Factorization",
    "Gate",
    "IdentityBlock",
    "JSONLLogger",
    "LayerProfile",
    "LearnedGate",
    "LossBounds",
    "OpenAttention",
    "RankCascade",
    "Recording",
    "agreement",
    "ProgressBar",
    "RefactorTrigger",
    "SpectralGate",
    "TensorBoardLogger",
    "TrainConfig",
    "adlrns_mlp",
    "adlrns_resnet",
    "adlrns_transformer",
    "adlrns_vit",
    "clear_fd_sketch",
    "create_model",
    "distill",
    "factorize",
    "fit_cascade",
    "hf_callback",
    "iter_adaptive_layers",
    "iter_dynamic_layers",
    "lightning_callback",
    "load_materialized",
    "make_elastic",
    "margin",
    "materialize_model",
    "mean_flops",
    "rank_budget",
    "rank_penalty",
    "record",
    "reestimate_norms",
    "refit",
    "save_materialized",
    "set_rank_change_callback",
    "wrap_model_with_adaptive",
]

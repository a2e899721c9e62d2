"""Networks with a rank dial: factorisation, adaptive layers, elastic models, settling."""

from importlib.metadata import version

from adlrns_models._attention import OpenAttention
from adlrns_models._batch_rows import agreement, margin
from adlrns_models._cascade import RankCascade
from adlrns_models._cascade_fit import fit_cascade
from adlrns_models._certificate import LossBounds
from adlrns_models._config import AdaptConfig
from adlrns_models._conv import AdaptiveConv2d
from adlrns_models._elastic import ElasticModel, make_elastic
from adlrns_models._factorize import Factorization, factorize
from adlrns_models._grouped_conv import AdaptiveGroupedConv2d
from adlrns_models._identity import IdentityBlock
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._linear import AdaptiveLinear
from adlrns_models._materialize import materialize_model
from adlrns_models._profile import LayerProfile
from adlrns_models._settled_file import load_materialized, save_materialized
from adlrns_models._wrap import (
    clear_fd_sketch,
    iter_adaptive_layers,
    set_rank_change_callback,
    wrap_model_with_adaptive,
)

__version__ = version("adlrns-models")

__all__ = [
    "AdaptConfig",
    "AdaptiveConv2d",
    "AdaptiveGroupedConv2d",
    "AdaptiveLayer",
    "AdaptiveLinear",
    "ElasticModel",
    "Factorization",
    "IdentityBlock",
    "LayerProfile",
    "LossBounds",
    "OpenAttention",
    "RankCascade",
    "agreement",
    "clear_fd_sketch",
    "factorize",
    "fit_cascade",
    "iter_adaptive_layers",
    "load_materialized",
    "make_elastic",
    "margin",
    "materialize_model",
    "save_materialized",
    "set_rank_change_callback",
    "wrap_model_with_adaptive",
]

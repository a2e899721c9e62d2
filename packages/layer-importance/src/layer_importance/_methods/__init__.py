"""The methods that come with the package: one file each, one row here."""

from layer_importance._method import Method
from layer_importance._methods.attention_analysis import AttentionAnalysis
from layer_importance._methods.attention_maps import AttentionMaps
from layer_importance._methods.attribution_patching import AttributionPatching
from layer_importance._methods.block_influence import BlockInfluence
from layer_importance._methods.bridgeability import Bridgeability
from layer_importance._methods.causal_analysis import CausalAnalysis
from layer_importance._methods.conductance import Conductance
from layer_importance._methods.fisher_information import (
    EmpiricalFisher,
    ExactFisher,
    FisherInformation,
)
from layer_importance._methods.gradient_based import GradientBased
from layer_importance._methods.gradient_flow import GradientFlow
from layer_importance._methods.grasp import Grasp
from layer_importance._methods.hessian_trace import HessianTrace
from layer_importance._methods.information_bottleneck import InformationBottleneck
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._methods.layer_correlation import LayerCorrelation
from layer_importance._methods.learned_gates import LearnedGates
from layer_importance._methods.meta_learning import MetaLearning
from layer_importance._methods.neuron_activation import NeuronActivation
from layer_importance._methods.outliers import Outliers
from layer_importance._methods.shapley import Shapley
from layer_importance._methods.skip_attribution import SkipAttribution
from layer_importance._methods.snip import Snip
from layer_importance._methods.spectral_analysis import SpectralAnalysis
from layer_importance._methods.synflow import SynFlow
from layer_importance._methods.topology_analysis import TopologyAnalysis
from layer_importance._methods.uncertainty_delta import UncertaintyDelta
from layer_importance._methods.uncertainty_quantification import UncertaintyQuantification

BUILT_IN: tuple[type[Method], ...] = (
    BlockInfluence,
    SkipAttribution,
    EmpiricalFisher,
    ExactFisher,
    FisherInformation,
    GradientBased,
    GradientFlow,
    Snip,
    Bridgeability,
    LayerCorrelation,
    NeuronActivation,
    InformationBottleneck,
    Outliers,
    SpectralAnalysis,
    TopologyAnalysis,
    AttentionAnalysis,
    AttentionMaps,
    HessianTrace,
    Grasp,
    SynFlow,
    LayerAblation,
    CausalAnalysis,
    AttributionPatching,
    UncertaintyQuantification,
    UncertaintyDelta,
    Shapley,
    MetaLearning,
    LearnedGates,
    Conductance,
)

"""What goes into a model: where its tokens are, which are real, and how to corrupt it."""

from layer_importance._contribution import ModalityContribution, modality_contribution
from layer_importance._modalities import find_modality
from layer_importance._modalities.audio import Audio
from layer_importance._modalities.graph import Graph, padded_graphs
from layer_importance._modalities.multimodal import Multimodal
from layer_importance._modalities.tabular import Tabular
from layer_importance._modalities.text import Text
from layer_importance._modalities.vision import Vision
from layer_importance._modality import Modality

__all__ = [
    "find_modality",
    "Modality",
    "Text",
    "Vision",
    "Audio",
    "Multimodal",
    "Graph",
    "Tabular",
    "padded_graphs",
    "modality_contribution",
    "ModalityContribution",
]

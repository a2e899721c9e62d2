"""The methods that come with the package: one file each, one row here."""

from layer_importance._method import Method
from layer_importance._methods.block_influence import BlockInfluence
from layer_importance._methods.skip_attribution import SkipAttribution

BUILT_IN: tuple[type[Method], ...] = (
    BlockInfluence,
    SkipAttribution,
)

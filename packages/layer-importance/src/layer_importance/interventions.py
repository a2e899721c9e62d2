"""Running a model with units changed, and how sure the difference is."""

from layer_importance._bottom import bottom_units
from layer_importance._curve import CurvePoint, curve_csv, removal_curve
from layer_importance._edits import Edit, removal
from layer_importance._paired import Interval, bootstrap_interval, t_interval
from layer_importance._planning import largest_ratio
from layer_importance._preserve import preserved
from layer_importance._racing import Race, RaceResult
from layer_importance._replay import Replay

__all__ = [
    "Replay",
    "Edit",
    "removal",
    "preserved",
    "Interval",
    "t_interval",
    "bootstrap_interval",
    "Race",
    "RaceResult",
    "bottom_units",
    "CurvePoint",
    "removal_curve",
    "curve_csv",
    "largest_ratio",
]

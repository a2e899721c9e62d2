"""Decides the rank of every layer: allocation, cost models, control, energy meters."""

from importlib.metadata import version

from rank_sched._allocate import allocate, frontier
from rank_sched._baselines import energy_fraction, uniform
from rank_sched._cascade import CascadeFrontier, CascadeRule, cascade_frontier
from rank_sched._controller import ControllerState, RankController
from rank_sched._cost import Cost
from rank_sched._errors import BudgetError, MeterError
from rank_sched._frontier import Frontier
from rank_sched._hardware import HardwareProfile
from rank_sched._meter import EnergyMeter, EnergyWindow
from rank_sched._meter_default import default_meter
from rank_sched._meter_estimated import EstimatedMeter
from rank_sched._meter_rapl import RaplMeter
from rank_sched._perf import PerfEstimator
from rank_sched._point import OperatingPoint
from rank_sched._profiles import PROFILES

__version__ = version("rank-sched")

__all__ = [
    # allocation
    "allocate",
    "frontier",
    "Frontier",
    "OperatingPoint",
    "BudgetError",
    "uniform",
    "energy_fraction",
    # one of two points for each input
    "cascade_frontier",
    "CascadeFrontier",
    "CascadeRule",
    # costs
    "PerfEstimator",
    "Cost",
    "HardwareProfile",
    "PROFILES",
    # control over time
    "RankController",
    "ControllerState",
    # energy
    "EnergyMeter",
    "EnergyWindow",
    "RaplMeter",
    "EstimatedMeter",
    "default_meter",
    "MeterError",
]

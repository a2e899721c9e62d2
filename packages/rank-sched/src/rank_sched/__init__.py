"""Decides the rank of every layer: allocation, cost models, control, energy meters."""

from importlib.metadata import version

from rank_sched._allocate import allocate, frontier
from rank_sched._baselines import energy_fraction, uniform
from rank_sched._budget import BudgetManager
from rank_sched._budget_layers import LayerBudgets, LayerBudgetsState, LayerGrant
from rank_sched._budget_live import BudgetExhaustedError, LiveBudget, Spending
from rank_sched._budget_state import BudgetState, Grant
from rank_sched._cascade import CascadeFrontier, CascadeRule, cascade_frontier
from rank_sched._combinators import clip, cooldown, hysteresis, lowest, quantize
from rank_sched._controller import ControllerState, RankController
from rank_sched._cost import Cost
from rank_sched._errors import BudgetError, MeterError
from rank_sched._frontier import Frontier
from rank_sched._gain import GainCorrection, GainState
from rank_sched._hardware import HardwareProfile
from rank_sched._machine import this_machine
from rank_sched._meter import EnergyMeter, EnergyWindow
from rank_sched._meter_codecarbon import CodeCarbonMeter
from rank_sched._meter_default import default_meter
from rank_sched._meter_estimated import EstimatedMeter
from rank_sched._meter_nvml import NvmlMeter
from rank_sched._meter_rapl import RaplMeter
from rank_sched._meter_zeus import ZeusMeter
from rank_sched._multi import MultiFrontier
from rank_sched._observation import Bounds, Observation
from rank_sched._perf import PerfEstimator
from rank_sched._perf_table import PerfRow, PerfTable
from rank_sched._point import MultiPoint, OperatingPoint
from rank_sched._policies import Complexity, CosineAnneal, Fixed, LinearAnneal, LossBound
from rank_sched._policies_cost import CostState, EnergyAware, LatencyAware
from rank_sched._policy import Policy
from rank_sched._profiles import PROFILES
from rank_sched._scheduler import RankScheduler, SchedulerState
from rank_sched._shapes import conv2d_shape, linear_shape

__version__ = version("rank-sched")

__all__ = [
    # allocation
    "allocate",
    "frontier",
    "Frontier",
    "OperatingPoint",
    "MultiFrontier",
    "MultiPoint",
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
    "PerfTable",
    "PerfRow",
    "linear_shape",
    "conv2d_shape",
    "this_machine",
    # control over time
    "RankController",
    "ControllerState",
    # policies
    "RankScheduler",
    "SchedulerState",
    "Observation",
    "Policy",
    "Bounds",
    "Fixed",
    "EnergyAware",
    "LatencyAware",
    "CostState",
    "Complexity",
    "LossBound",
    "LinearAnneal",
    "CosineAnneal",
    "clip",
    "quantize",
    "hysteresis",
    "cooldown",
    "lowest",
    # budgets over time
    "BudgetManager",
    "BudgetState",
    "Grant",
    "GainCorrection",
    "GainState",
    "LayerBudgets",
    "LayerBudgetsState",
    "LayerGrant",
    "LiveBudget",
    "Spending",
    "BudgetExhaustedError",
    # energy
    "EnergyMeter",
    "EnergyWindow",
    "NvmlMeter",
    "RaplMeter",
    "ZeusMeter",
    "CodeCarbonMeter",
    "EstimatedMeter",
    "default_meter",
    "MeterError",
]

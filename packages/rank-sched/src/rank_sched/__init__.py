"""Decides the rank of every layer: allocation, cost models, control, energy meters."""

from importlib.metadata import version

from rank_sched._allocate import allocate, frontier
from rank_sched._baselines import energy_fraction, uniform
from rank_sched._controller import ControllerState, RankController
from rank_sched._cost import Cost
from rank_sched._errors import BudgetError, MeterError
from rank_sched._frontier import Frontier
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
from rank_sched._perf import PerfEstimator
from rank_sched._perf_table import PerfRow, PerfTable
from rank_sched._point import MultiPoint, OperatingPoint
from rank_sched._profiles import PROFILES
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

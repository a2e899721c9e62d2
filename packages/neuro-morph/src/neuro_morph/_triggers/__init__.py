"""When to grow: triggers as pure functions of the traces of a run."""

from neuro_morph._triggers._gap import GeneralizationGap as GeneralizationGap
from neuro_morph._triggers._gradient_health import GradientHealth as GradientHealth
from neuro_morph._triggers._information import Information as Information
from neuro_morph._triggers._period import Period as Period
from neuro_morph._triggers._plateau import Plateau as Plateau
from neuro_morph._triggers._quorum import Decision as Decision, Quorum as Quorum
from neuro_morph._triggers._saturation import Saturation as Saturation
from neuro_morph._triggers._topology import (
    Topology as Topology,
    connection_lengths as connection_lengths,
    mean_connection_length as mean_connection_length,
)
from neuro_morph._triggers._trigger import Traces as Traces, Trigger as Trigger, Vote as Vote

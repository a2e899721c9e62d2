"""What running a layer once takes."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Cost:
    """Work and its predicted time and energy; costs of layers that run in turn add up.

    Attributes:
        flops: Arithmetic; a multiply-add counts as two.
        traffic_bytes: Bytes read and written by all kernels.
        launches: Number of kernels or operator calls.
        memory_bytes: Bytes of the parameters, held all the time; activations are not counted.
        latency_s: Predicted time in seconds.
        energy_j: Predicted energy in joules.

    >>> Cost(flops=1e6, latency_s=1e-3) + Cost(flops=2e6, latency_s=2e-3)
    Cost(flops=3000000.0, traffic_bytes=0.0, launches=0, memory_bytes=0.0, latency_s=0.003, \
energy_j=0.0)
    """

    flops: float = 0.0
    traffic_bytes: float = 0.0
    launches: int = 0
    memory_bytes: float = 0.0
    latency_s: float = 0.0
    energy_j: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __radd__(self, other: int) -> "Cost":
        # sum() starts at 0
        return self if other == 0 else NotImplemented

"""Predicting what a layer costs at a rank."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Self

from rank_sched._cost import Cost
from rank_sched._hardware import HardwareProfile
from rank_sched._kernels import Kernel, Pair, conv2d_kernels, linear_kernels
from rank_sched._numbers import number_in, whole
from rank_sched._perf_table import PerfTable
from rank_sched._read_hardware import read_hardware
from rank_sched._shapes import conv2d_shape, linear_shape


class PerfEstimator:
    """Time and energy of layers on a device: measured where a table says, else by the roofline.

    A kernel of F FLOP that moves Q bytes takes t = max(F/P, Q/BW) + t0 and
    E = P_idle·t + e_F·F + e_Q·Q; kernels run one after the other (Williams, Waterman & Patterson
    2009, "Roofline", CACM 52). A low-rank layer is two kernels, so it wins only once what it saves
    exceeds another launch and the traffic of the part between. `with_table` adds measurements.

    Args:
        hardware: A `HardwareProfile`, the name of one in `PROFILES`, or a dictionary. The
            dictionary has fields of `HardwareProfile`, or
            `gpu_cores` (peak = cores · 2 FLOP · `clock_hz`, by default 1.53e9 Hz),
            `memory_bandwidth` (bytes per second), `flops_per_mac` (2) and
            `gpu_type` (the profile that fills the gaps, by default v100). Numbers may be text, as
            YAML reads 1e-12.

    Raises:
        ValueError: An unknown name or key, a key without a unit, or an impossible value.
        TypeError: Anything else.

    >>> estimator = PerfEstimator({"gpu_cores": 5120, "memory_bandwidth": 1e12})
    >>> dense = estimator.linear(32, 4096, 4096)
    >>> dense.latency_s > estimator.linear(32, 4096, 4096, rank=256).latency_s
    True
    """

    def __init__(self, hardware: HardwareProfile | str | Mapping[str, float | str]) -> None:
        self.hardware = read_hardware(hardware)
        self.table: PerfTable | None = None

    def __repr__(self) -> str:
        table = "" if self.table is None else f".with_table({self.table!r})"
        return f"PerfEstimator({self.hardware!r}){table}"

    def with_table(self, table: PerfTable) -> Self:
        """Return an estimator that takes the layers in `table` from there.

        Their latency is what was measured, interpolated, and scaled by the roofline outside of what
        was measured. Their energy is what was metered; where nothing was, the roofline's energy
        with the measured time. Work and memory stay counted.

        >>> from rank_sched import PerfRow, PerfTable, linear_shape
        >>> shape = linear_shape(256, 256)
        >>> table = PerfTable([PerfRow(shape, 1, r, 1e-5 + r * 1e-8) for r in (8, 64)])
        >>> PerfEstimator("desktop-cpu").with_table(table).linear(1, 256, 256, 36).latency_s
        1.036...e-05
        """
        if not isinstance(table, PerfTable):
            raise TypeError(f"table must be a PerfTable, got {type(table).__name__}")
        other = type(self)(self.hardware)
        other.table = table
        return other

    def latency_s(self, *, flops: float, traffic_bytes: float, launches: int = 1) -> float:
        """Return the seconds that `launches` kernels with this work in all take."""
        hardware = self.hardware
        compute = _amount("flops", flops) / hardware.peak_flops_per_s
        memory = _amount("traffic_bytes", traffic_bytes) / hardware.bandwidth_bytes_per_s
        return max(compute, memory) + whole("launches", launches) * hardware.launch_overhead_s

    def energy_j(self, *, flops: float, traffic_bytes: float, launches: int = 1) -> float:
        """Return the joules that `launches` kernels with this work in all take."""
        hardware = self.hardware
        seconds = self.latency_s(flops=flops, traffic_bytes=traffic_bytes, launches=launches)
        work = hardware.energy_per_flop_j * flops + hardware.energy_per_byte_j * traffic_bytes
        return hardware.idle_power_w * seconds + work

    def fits(self, cost: Cost) -> bool:
        """Return whether parameters of this size fit in the device's memory."""
        return cost.memory_bytes <= self.hardware.memory_bytes

    def linear(
        self,
        batch: int,
        in_features: int,
        out_features: int,
        rank: int | None = None,
        *,
        bias: bool = True,
        dtype_bytes: int = 4,
    ) -> Cost:
        """Return the cost of y = W x + b for `batch` rows, or of its two factors of `rank`.

        Args:
            batch: Rows of x, all leading dimensions taken together.
            in_features: Columns of W.
            out_features: Rows of W.
            rank: Number of rows of the factor `down`; None for the dense product, 0 for the bias
                alone.
            bias: Whether b is added.
            dtype_bytes: Bytes of one number.

        Raises:
            ValueError: A size is below 1, or the rank negative or above both features.

        >>> PerfEstimator("a100").linear(8, 64, 32, rank=4, bias=False).flops  # 2·8·4·(64 + 32)
        6144.0
        """
        shape = linear_shape(in_features, out_features, bias=bias, dtype_bytes=dtype_bytes)

        def roofline(batch: int, rank: int | None) -> Cost:
            kernels = linear_kernels(batch, in_features, out_features, rank)
            return self._cost(kernels, out_features if bias else 0, dtype_bytes)

        return self._measured(shape, batch, rank, roofline)

    def conv2d(
        self,
        batch: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        input_size: Pair,
        *,
        rank: int | None = None,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype_bytes: int = 4,
    ) -> Cost:
        """Return the cost of a 2-d convolution, or of its two factors of `rank`.

        The factors are a convolution to `rank` channels per group with the kernel, stride, padding
        and dilation given, and a 1x1 convolution from there.

        Args:
            batch: Number of images.
            in_channels: Channels read, a multiple of `groups`.
            out_channels: Channels written, a multiple of `groups`.
            kernel_size: (height, width), or one number for both.
            input_size: The same, of one image.
            rank: Channels per group between the factors; None for the dense convolution, 0 for the
                bias alone.
            stride: As in `torch.nn.Conv2d`, like the next three.
            padding: Zeros around the image.
            dilation: Distance of the kernel's taps.
            groups: Number of independent convolutions.
            bias: Whether a bias is added.
            dtype_bytes: Bytes of one number.

        Raises:
            ValueError: A size is out of range, or the kernel larger than the padded input.

        >>> PerfEstimator("a100").conv2d(1, 3, 8, 3, 10, bias=False).flops  # 2·64·8·3·9
        27648.0
        """
        geometry = {
            "kernel_size": kernel_size,
            "input_size": input_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
        }
        shape = conv2d_shape(
            in_channels,
            out_channels,
            **geometry,
            groups=groups,
            bias=bias,
            dtype_bytes=dtype_bytes,
        )

        def roofline(batch: int, rank: int | None) -> Cost:
            kernels = conv2d_kernels(
                batch, in_channels, out_channels, rank=rank, groups=groups, **geometry
            )
            return self._cost(kernels, out_channels if bias else 0, dtype_bytes)

        return self._measured(shape, batch, rank, roofline)

    def _measured(
        self,
        shape: str,
        batch: int,
        rank: int | None,
        roofline: Callable[[int, int | None], Cost],
    ) -> Cost:
        """Return the roofline's cost, with time and energy from the table if it has the shape."""
        cost = roofline(batch, rank)
        if self.table is None:
            return cost
        seconds = self.table.latency_s(
            shape, batch, rank, prior=lambda b, r: roofline(b, r).latency_s
        )
        if seconds is None:
            return cost
        joules = self.table.energy_j(shape, batch, rank, prior=lambda b, r: roofline(b, r).energy_j)
        if joules is None:
            joules = cost.energy_j + self.hardware.idle_power_w * (seconds - cost.latency_s)
        return replace(cost, latency_s=seconds, energy_j=joules)

    def _cost(self, kernels: list[Kernel], bias_size: int, dtype_bytes: int) -> Cost:
        """Add up the kernels; the last one adds the bias."""
        size = whole("dtype_bytes", dtype_bytes, at_least=1)
        total = Cost()
        for kernel in kernels:
            added = bias_size if kernel is kernels[-1] else 0
            flops = float(2 * kernel.macs + (kernel.written if added else 0))
            traffic = float(size * (kernel.read + kernel.weights + added + kernel.written))
            total += Cost(
                flops=flops,
                traffic_bytes=traffic,
                launches=1,
                memory_bytes=float(size * (kernel.weights + added)),
                latency_s=self.latency_s(flops=flops, traffic_bytes=traffic),
                energy_j=self.energy_j(flops=flops, traffic_bytes=traffic),
            )
        return total


def _amount(argument: str, value: float) -> float:
    return number_in(argument, value, 0.0, float("inf"))

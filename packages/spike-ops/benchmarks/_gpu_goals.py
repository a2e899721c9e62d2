"""What `bench_gpu.py` measures: one function for each goal, each yielding its cases.

A case has a call of ours, what it is held against, and how far it is off the reference: in parts
of what is allowed, so that more than one is wrong. With `tiny` shapes are as small as they can be,
for the interpreter. What needs SpikingJelly and does not find it stands there with the reason.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from bench_learning import RULE, loop_of_products, spikingjelly as stdp_of_spikingjelly
from torch import Tensor, nn

from spike_ops import SpikeTensor
from spike_ops._triton import _products as products
from spike_ops.functional import linear_lif, spike_mm
from spike_ops.functional._linear_lif import linear_lif_reference
from spike_ops.learning import PairSTDP
from spike_ops.memory import packed_saved_tensors
from spike_ops.neuron import LIF
from spike_ops.surrogate import ATan, Rectangular

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Call = Callable[[], Any]
Step = Callable[[Tensor], Tensor]
HALF, SINGLE = torch.bfloat16, torch.float32
FLIPS = 1e-5


@dataclass
class Case:
    """One comparison."""

    what: str
    dtype: torch.dtype
    ours: Call
    error: Callable[[], float]
    against: dict[str, Call | str]
    bytes: float = 0.0  # that ours moves, as counted
    graph: bool = True  # whether the calls can be recorded as a graph of launches
    told: dict[str, Any] = field(default_factory=dict)


def drawn(*shape: int, rate: float, dtype: torch.dtype) -> Tensor:
    return (torch.rand(shape, device=DEVICE) < rate).to(dtype)


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=SINGLE).to(dtype)


def half(tiny: bool) -> torch.dtype:
    """Return the short type: the interpreter's bfloat16 is wrong."""
    return torch.float16 if tiny else HALF


def theirs(make: Callable[[Any], Call]) -> Call | str:
    """Return a call of SpikingJelly's, or why there is none."""
    try:
        return make(importlib.import_module("spikingjelly.activation_based"))
    except Exception as error:
        # whatever is wrong with it belongs into its column
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]


def node_of(jelly: Any) -> nn.Module:
    """Return its LIF; it picks its kernel itself, or by SJ_LIF_CUDA_IMPLEMENTATION."""
    names = [importlib.import_module(f"{jelly.__name__}.{n}") for n in ("neuron", "surrogate")]
    node: nn.Module = names[0].LIFNode(
        tau=2.0, detach_reset=True, surrogate_function=names[1].ATan(), step_mode="m",
    )  # fmt: skip
    return node


def anew(jelly: Any, module: nn.Module) -> nn.Module:
    importlib.import_module(f"{jelly.__name__}.functional").reset_net(module)
    return module


def apart(got: Tensor, want: Tensor, allowed: float) -> float:
    """Return the largest difference in parts of what is allowed of the largest number."""
    if not want.numel():
        return 0.0
    return float((got.double() - want.double()).abs().max() / (allowed * want.abs().max() + 1e-30))


def flipped(got: Tensor, want: Tensor) -> float:
    return float((got.double() != want.double()).double().mean() / FLIPS)


def product_error(got: Tensor, spikes: Tensor, weight: Tensor) -> float:
    """Return the error of S W, of which sums in float32 and a rounding are allowed."""
    wide = spikes.double() @ weight.double()
    total = spikes.double() @ weight.double().abs()
    allowed = total * 2**-20 + wide.abs() * 2 * torch.finfo(weight.dtype).eps + 1e-30
    return float(((got.double() - wide).abs() / allowed).max())


def lif_training(tiny: bool) -> Iterator[Case]:
    """G1: LIF forward and backward over all steps."""
    for steps in (3,) if tiny else (8, 16, 32):
        for dtype in (SINGLE, torch.float16) if tiny else (torch.float16, HALF, SINGLE):
            neurons = 21 if tiny else 2**27 // steps
            x = normal(steps, 1, neurons, dtype=dtype).requires_grad_()
            gradient = normal(steps, 1, neurons, dtype=dtype)
            for kept, options in {
                "membrane": {"surrogate": ATan()},
                "bytes": {"surrogate": ATan(), "saving": "8bit"},
                "bits": {"surrogate": Rectangular()},
            }.items():
                yield lif_case(x, gradient, kept, {"detach_reset": True} | options)


def lif_case(x: Tensor, gradient: Tensor, kept: str, options: dict[str, Any]) -> Case:
    ours, eager, slow = (
        LIF(2.0, backend=backend, **options) for backend in ("triton", "eager", "reference")
    )

    def trained(layer: Step, x: Tensor = x, gradient: Tensor = gradient) -> Tensor:
        return torch.autograd.grad(layer(x), x, gradient)[0]

    def error() -> float:
        few = x.detach()[..., :4096].contiguous().requires_grad_()
        wide = few.detach().float().requires_grad_()
        part = gradient[..., :4096].contiguous()
        worst = flipped(ours(few), slow(wide))
        allowed = max({"bytes": 2e-2}.get(kept, 1e-5), 8 * torch.finfo(x.dtype).eps)
        want = trained(slow, wide, part.float())
        return max(worst, apart(trained(ours, few, part), want, allowed))

    def make(jelly: Any) -> Call:
        node = node_of(jelly).to(DEVICE)
        return lambda: trained(anew(jelly, node))

    item, stored = x.element_size(), {"membrane": x.element_size(), "bytes": 1, "bits": 1 / 8}[kept]
    bits = 0 if kept == "membrane" and x.dtype == SINGLE else 1 / 4  # written, read
    return Case(
        f"T={x.shape[0]} n={x.shape[2]} keeps {kept}", x.dtype, lambda: trained(ours), error,
        {"SpikingJelly": theirs(make), "ours, eager": lambda: trained(eager)},
        bytes=x.numel() * (4 * item + 2 * stored + bits), graph=False,
    )  # fmt: skip


class Flat(nn.Module):
    """A layer of images over [T, B, ...]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(0, 1))
        return y.view(*x.shape[:2], *y.shape[1:])


def vgg(node: Callable[[], nn.Module], tiny: bool) -> nn.Sequential:
    torch.manual_seed(0)
    wide = (2, 4, "P") if tiny else (64, 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P")
    layers: list[nn.Module] = []
    last = 2
    for each in wide:
        if isinstance(each, str):
            layers.append(Flat(nn.AvgPool2d(2)))
            continue
        layers += [Flat(nn.Conv2d(last, each, 3, padding=1, bias=False))]
        layers += [Flat(nn.BatchNorm2d(each)), node()]
        last = each
    return nn.Sequential(*layers, nn.Flatten(2), nn.LazyLinear(10)).to(DEVICE)


def vgg_training(tiny: bool) -> Iterator[Case]:
    """G2: peak memory of a training step of a spiking VGG, beside its time."""
    steps, batch, side = (2, 1, 4) if tiny else (10, 32, 48)
    x = drawn(steps, batch, 2, side, side, rate=0.1, dtype=SINGLE)

    def trained(net: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(net(x).mean(0).square().sum(), list(net.parameters())))

    def net(options: dict[str, Any]) -> nn.Module:
        made = vgg(lambda: LIF(2.0, detach_reset=True, **options), tiny)
        made(x)
        return made

    def jelly(level: int) -> Call | str:
        def make(jelly: Any) -> Call:
            made = vgg(lambda: node_of(jelly), tiny)
            made(x)
            if level:
                optimize = importlib.import_module(f"{jelly.__name__}.memopt").optimize_memory
                kinds = type(node_of(jelly)), Flat
                optimize(made, kinds, lambda net: anew(jelly, net)(x), level=level)
            return lambda: trained(anew(jelly, made))

        return theirs(make)

    for name, options in {
        "bits": {"surrogate": Rectangular()}, "bytes": {"surrogate": ATan(), "saving": "8bit"},
    }.items():  # fmt: skip
        ours, slow = (net({"backend": b} | options) for b in ("triton", "reference"))

        def packed(ours: nn.Module = ours) -> list[Tensor]:
            with packed_saved_tensors():
                return trained(ours)

        def error(packed: Call = packed, slow: nn.Module = slow, name: str = name) -> float:
            # bytes round the derivative, and gpu convolutions may sum in another order each time
            allowed = 0.1 if name == "bytes" else 1e-2
            pairs = zip(packed(), trained(slow), strict=True)
            return max(float((g - w).norm() / (allowed * w.norm() + 1e-12)) for g, w in pairs)

        yield Case(
            f"VGG B={batch} T={steps} {side}x{side} keeps {name}", SINGLE, packed, error,
            {"SpikingJelly, level 0": jelly(0),
             "SpikingJelly, level 4": "needs CUDA" if tiny else jelly(4),
             "ours, eager": lambda slow=slow: trained(slow)}, graph=False,
        )  # fmt: skip


def products_of_few_rows(tiny: bool) -> Iterator[Case]:
    """G3: a single step of one sample and of eight."""
    for rows in (1, 8):
        for size in (24,) if tiny else (8192, 16384):
            for rate in (0.1,) if tiny else (0.01, 0.02, 0.05):
                yield mm_case(
                    rows, size, size, rate, half(tiny),
                    {"additions": products.event_mm},
                )  # fmt: skip


def products_by_density(tiny: bool) -> Iterator[Case]:
    """G4: what `auto` takes, and what there is beside it, over a grid."""
    ways = {
        "auto": lambda p, m, w: spike_mm(SpikeTensor(p, (m, w.shape[0]), w.dtype), w),
        "packed": products.packed_mm,
        "without what is silent": products.sparse_mm,
        "by count": lambda p, m, w: products.mm_by_count(p, m, w, m * w.shape[0] // 50),
    }
    for rows in (5,) if tiny else (1, 8, 64, 1024, 16384):
        for size in (24,) if tiny else (256, 1024, 4096, 8192):
            for rate in (0.05,) if tiny else (0.001, 0.01, 0.05, 0.2, 0.5):
                for name, way in ways.items():
                    yield mm_case(rows, size, size, rate, half(tiny), {name: way})


def products_in_single(tiny: bool) -> Iterator[Case]:
    """G5: exact float32 from three slices, against float32 with TF32 off."""
    for rows, size in ((5, 24),) if tiny else ((1024, 1024), (4096, 1024), (4096, 4096)):
        case = mm_case(
            rows, size, size, 0.2, SINGLE,
            {"packed": products.packed_mm},
        )  # fmt: skip
        yield case


def mm_case(
    rows: int, depth: int, width: int, rate: float, dtype: torch.dtype, way: dict[str, Any]
) -> Case:
    spikes, weight = drawn(rows, depth, rate=rate, dtype=dtype), normal(depth, width, dtype=dtype)
    packed = SpikeTensor.from_dense(spikes).packed
    ((name, call),) = way.items()

    def ours() -> Tensor:
        return call(packed, rows, weight)

    def told() -> dict[str, Any]:
        """Return the errors of both, where both are float32."""
        if dtype != SINGLE:
            return {}
        want = spikes.double() @ weight.double()
        both = (float((y.double() - want).abs().max()) for y in (ours(), spikes @ weight))
        return dict(zip(("error", "error_of_torch"), both, strict=True))

    return Case(
        f"{name} M={rows} K={depth} N={width} r={rate}", dtype, ours,
        lambda: product_error(ours(), spikes, weight),
        {"torch, dense spikes": lambda: spikes @ weight}, told=told(),
    )  # fmt: skip


def layers_in_one(tiny: bool) -> Iterator[Case]:
    """G6: a linear layer and LIF in one, spikes in and spikes out."""
    for size in (24,) if tiny else (256, 512, 1024):
        for batch in (3,) if tiny else (256, 4096):
            yield layers_case(3 if tiny else 16, batch, size, half(tiny))


@torch.no_grad()
def layers_case(steps: int, batch: int, size: int, dtype: torch.dtype) -> Case:
    dense = drawn(steps, batch, size, rate=0.1, dtype=dtype)
    packed, weight = SpikeTensor.from_dense(dense), normal(size, size, dtype=dtype) / size**0.5 * 4
    options = {"reset": "hard", "detach_reset": True}
    ours = LIF(2.0, backend="triton", spike_out=True, **options)
    alone = LIF(2.0, backend="triton", **options)

    def run() -> SpikeTensor:
        with torch.no_grad():
            return linear_lif(packed, weight, neurons=ours)[0]

    def apart() -> Tensor:
        with torch.no_grad():
            return alone(F.linear(dense, weight))

    def make(jelly: Any) -> Call:
        node = node_of(jelly).to(DEVICE)

        def call() -> Tensor:
            with torch.no_grad():
                return anew(jelly, node)(F.linear(dense, weight))

        return call

    def error() -> float:
        want, _ = linear_lif_reference(dense.double(), weight.double(), neurons=LIF(2.0, **options))
        return flipped(run().to_dense(), want)

    places = steps * batch * size
    return Case(
        f"T={steps} B={batch} K=N={size}", dtype, run, error,
        {"torch, then SpikingJelly's LIF": theirs(make), "torch, then our LIF": apart},
        bytes=places / 4 + weight.nbytes + 2 * batch * size * weight.element_size(),
        told={"bytes_apart": places * 4 * weight.element_size() + weight.nbytes},
    )  # fmt: skip


def sparse_layers(tiny: bool) -> Iterator[Case]:
    """G7: SpikingJelly's own event-driven products."""
    rows, size = (5, 24) if tiny else (512, 4096)
    for rate in (0.05,) if tiny else (0.01, 0.05):
        case = mm_case(
            rows, size, size, rate, SINGLE,
            {"without what is silent": products.sparse_mm},
        )  # fmt: skip
        spikes, weight = (
            drawn(rows, size, rate=rate, dtype=SINGLE),
            normal(size, size, dtype=SINGLE),
        )

        def make(jelly: Any, spikes: Tensor = spikes, weight: Tensor = weight) -> Call:
            call = importlib.import_module(f"{jelly.__name__}.functional.spike").sparse_linear
            return lambda: call(spikes, weight, strategy="sparse")

        case.against["SpikingJelly, sparse_linear"] = theirs(make)
        yield case
        yield lif_then_linear(rows, size, rate)


@torch.no_grad()
def lif_then_linear(rows: int, size: int, rate: float) -> Case:
    """One step of LIF whose spikes go into a linear layer, float32."""
    weight, v = normal(size, size, dtype=SINGLE), torch.zeros(rows, size, device=DEVICE)
    x = torch.where(drawn(rows, size, rate=rate, dtype=SINGLE) > 0, 4.0, 0.0)
    node = LIF(2.0, backend="triton", spike_out=True)

    def ours() -> Tensor:
        with torch.no_grad():
            spikes, _ = node.run(x[None])
            return products.sparse_mm(spikes.packed, rows, weight)

    def make(jelly: Any) -> Call:
        call = importlib.import_module(f"{jelly.__name__}.functional.spike").lif_linear
        return lambda: call(x, v, weight)

    return Case(
        f"LIF, then a product M={rows} K=N={size} r={rate}", SINGLE, ours,
        lambda: product_error(ours(), (x > 0).float(), weight),
        {"SpikingJelly, lif_linear": theirs(make)},
    )  # fmt: skip


def plasticity(tiny: bool) -> Iterator[Case]:
    """G8: STDP over a window."""
    steps, batch, size = (3, 2, 8) if tiny else (32, 16, 512)
    for rate in (0.1,) if tiny else (0.01, 0.05, 0.1):
        pre, post = (drawn(steps, batch, size, rate=rate, dtype=SINGLE) for _ in range(2))
        weight = torch.rand(size, size, device=DEVICE)
        given = (pre, post, weight)
        packed = (*(SpikeTensor.from_dense(each) for each in given[:2]), weight)
        rule: PairSTDP = RULE
        yield Case(
            f"T={steps} B={batch} {size}x{size} r={rate}", SINGLE,
            lambda rule=rule, packed=packed: rule(*packed).dw,
            lambda rule=rule, given=given, packed=packed: apart(
                rule(*packed).dw, loop_of_products(*given), 1e-5
            ),
            {"SpikingJelly, step loop": theirs(
                lambda _, given=given: lambda: stdp_of_spikingjelly(*given)),
             "step loop of products": lambda given=given: loop_of_products(*given)},
        )  # fmt: skip


def many_products(tiny: bool) -> Iterator[Case]:
    """G9: twenty small products; what is timed is launches."""
    for rows, size in ((3, 8),) if tiny else ((32, 512), (32, 1024)):
        spikes, weight = (
            drawn(20, rows, size, rate=0.1, dtype=SINGLE), normal(20, size, size, dtype=SINGLE),
        )  # fmt: skip
        packed = SpikeTensor.from_dense(spikes)
        yield Case(
            f"20 of {rows}x{size}x{size}", SINGLE,
            lambda packed=packed, weight=weight: spike_mm(packed, weight),
            lambda packed=packed, spikes=spikes, weight=weight: product_error(
                spike_mm(packed, weight), spikes, weight
            ),
            {"torch, one by one": lambda spikes=spikes, weight=weight: [
                s @ w for s, w in zip(spikes, weight, strict=True)],
             "torch, batched": lambda spikes=spikes, weight=weight: spikes @ weight},
        )  # fmt: skip


GOALS: dict[str, Callable[[bool], Iterator[Case]]] = {
    "G1": lif_training, "G2": vgg_training, "G3": products_of_few_rows,
    "G4": products_by_density, "G5": products_in_single, "G6": layers_in_one,
    "G7": sparse_layers, "G8": plasticity, "G9": many_products,
}  # fmt: skip

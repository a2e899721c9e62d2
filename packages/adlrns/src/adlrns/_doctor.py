"""The whole of `adlrns doctor`."""

import time
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import nn

from adlrns._console import say, show
from adlrns._errors import EXTRAS, RunError
from adlrns._machine import machine
from adlrns._manifest import versions
from adlrns._table import Column, Table
from rank_sched import default_meter

ENABLES = {
    "sklearn": "adlrns demo, --data digits",
    "matplotlib": "plots in the reports",
    "onnx": "adlrns export --to onnx",
    "onnxruntime": "the check of an ONNX file",
    "onnxscript": "adlrns export --to onnx",
    "PIL": "adlrns train, --data of folders of pictures",
    "timm": "MODEL timm:NAME",
    "transformers": "MODEL hf:PATH, --data of sentences",
    "nir": "adlrns spike: network.nir",
    "triton": "the kernels of lowrank-kernels on a GPU",
}
_DISTRIBUTION = {"sklearn": "scikit-learn", "PIL": "pillow"}
_FACTS = (Column("what", "what"), Column("value", "value"))
_PARTS = (
    Column("module", "optional module"),
    Column("version", "version"),
    Column("extra", "extra"),
    Column("enables", "what it enables"),
)


def run() -> None:
    """Prints what is here and what is not, and tries the main thing out.

    Raises:
        RunError: if the check fails.
    """
    facts = Table("machine and versions", _FACTS)
    meter = default_meter()
    measured = "measured" if meter.name != "estimated" else "no meter that can be read"
    everything = machine() | {"energy": f"{meter.name}: {measured}"} | versions()
    facts.rows += [{"what": name, "value": value} for name, value in everything.items()]
    show(facts)
    parts = Table("optional parts", _PARTS)
    for name, what in ENABLES.items():
        extra = f"adlrns[{EXTRAS[name]}]" if name in EXTRAS else "lowrank-kernels[triton]"
        row = {"module": name, "version": _found(name), "extra": extra, "enables": what}
        parts.rows.append(row)
    show(parts)
    say(check())


def _found(name: str) -> str:
    if find_spec(name) is None:
        return "absent"
    try:
        import_module(name)
    except Exception as error:  # installed and broken is what a doctor is for
        return f"broken: {type(error).__name__}"
    return version(_DISTRIBUTION.get(name, name))


def check() -> str:
    """Makes a small network elastic and compares it with itself; returns the finding.

    Raises:
        RunError: if the elastic network computes something else at full rank.
    """
    from adlrns_models import make_elastic

    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 64), nn.Linear(64, 10)
        ).eval()
        x = torch.randn(32, 3, 8, 8)
    elastic = make_elastic(model, [x])
    with torch.no_grad():
        want, got = model(x), elastic(x)
    off = float((want - got).abs().max() / want.abs().max())
    if not off < 1e-4:
        raise RunError(f"the check failed: an elastic network at full rank is off by {off:.1e}")
    point = elastic.set_budget(flops=0.5)
    if point.cost > 0.5 * elastic.full_cost():
        raise RunError(f"the check failed: a budget of 0.5 was exceeded: {point.cost:g} FLOPs")
    return (
        f"check passed in {time.perf_counter() - start:.1f} s: an elastic network at full rank is "
        f"off by {off:.1e}, and keeps a budget"
    )

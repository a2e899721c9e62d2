"""Architectures of timm, built from their names without weights: what becomes elastic, what stays.

    python packages/adlrns-models/benchmarks/bench_timm.py [--csv FILE] [NAME ...]

needs timm in an environment of its own: the torchvision it brings is made for one build of torch.
"""

import argparse
import copy
import csv
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models import (
    ElasticModel,
    iter_adaptive_layers,
    make_elastic,
    materialize_model,
    wrap_model_with_adaptive,
)

SMALL: dict[str, Any] = {"img_size": 64}
WINDOWS: dict[str, Any] = {"img_size": 64, "window_size": 4}
# one or two of each family, with what makes them take small images
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnext50_32x4d": {},
    "seresnet18": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": SMALL,
    "deit_tiny_distilled_patch16_224": SMALL,
    "mobilenetv2_100": {},
    "mobilenetv3_small_100": {},
    "mobilenetv4_conv_small": {},
    "mobilevit_xxs": {},
    "efficientnet_b0": {},
    "tf_efficientnet_b0": {},
    "swin_tiny_patch4_window7_224": WINDOWS,
    "swinv2_tiny_window8_256": SMALL,
    "mixer_s16_224": SMALL,
    "gmlp_ti16_224": SMALL,
    "densenet121": {},
    "regnetx_002": {},
    "regnety_002": {},
    "repvgg_a0": {},
    "ghostnet_100": {},
    "levit_128s": {"img_size": 224},
    "xcit_nano_12_p16_224": SMALL,
    "cait_xxs24_224": SMALL,
    "pvt_v2_b0": {},
    "poolformer_s12": {},
    "edgenext_xx_small": {},
    "eca_nfnet_l0": {},
    "resnetv2_50x1_bit": {},
    "dla34": {},
}


def import_timm() -> ModuleType:
    """Returns timm.

    Where torchvision's compiled operators are of another build of torch, the two that its Python
    parts speak of at import are declared, without a computation; no model of timm uses them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_keep"] = library  # what is declared goes with it
    import timm

    return timm


def build(name: str, **changes: Any) -> tuple[nn.Module, Tensor]:
    """Returns the model as if it were trained, and a batch; `changes` go to timm.

    Nothing is left at zero, and norms have the statistics of their inputs: else a random net of
    this depth answers with noise, or not at all.
    """
    options = ARCHITECTURES.get(name, {}) | changes
    torch.manual_seed(0)
    model = import_timm().create_model(name, pretrained=False, num_classes=10, **options).train()
    size = options.get("img_size", 64)
    x = torch.randn(4, 3, size, size)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        model(x)
    return model.eval(), x


def answer(model: nn.Module, x: Tensor) -> Tensor:
    """Returns the model's first output."""
    with torch.no_grad():
        y = model(x)
    return y if isinstance(y, Tensor) else y[0]


def off(y: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference over the largest entry."""
    return float((y - wanted).abs().max() / wanted.abs().max())


def off_in_float64(model: nn.Module, x: Tensor) -> float:
    """Returns how far wrapping moves the model where rounding does not hide it."""
    exact, rows = copy.deepcopy(model).double(), x.double()
    wanted = answer(exact, rows)
    return off(answer(wrap_model_with_adaptive(exact, r_max=2**20, r_min=1).eval(), rows), wanted)


def unnamed(model: nn.Module, elastic: ElasticModel) -> list[str]:
    """Returns the layers with a matrix for a weight that are neither elastic nor told why not."""
    told = {*elastic.layers(), *elastic.info["skipped"]}
    named = dict(model.named_modules())
    return [
        name
        for name, module in named.items()
        if isinstance(weight := module._parameters.get("weight"), Tensor)
        and weight.ndim > 1
        and name not in told
    ]


def kinds(reasons: dict[str, str]) -> Counter[str]:
    """Returns how many layers stay as they are, by kind of reason."""

    def kind(reason: str) -> str:
        if "(depthwise)" in reason:
            return "depthwise"
        subclass = re.match(r"(\S+) is a subclass", reason)
        return subclass[1].rpartition(".")[2] if subclass else reason.partition(":")[0]

    return Counter(kind(reason) for reason in reasons.values())


def row(name: str) -> dict[str, Any]:
    """Returns what became of one architecture."""
    model, x = build(name)
    wanted = answer(model, x)
    wrapped = wrap_model_with_adaptive(copy.deepcopy(model), r_max=2**20, r_min=1).eval()
    elastic = make_elastic(model, [x])
    full = off(answer(elastic, x), wanted)
    point = elastic.set_budget(flops=0.5)
    half = answer(elastic, x)
    settled = materialize_model(elastic)
    stays = kinds(elastic.info["skipped"])
    return {
        "architecture": name,
        "image": x.shape[-1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "wrapped": len(list(iter_adaptive_layers(wrapped))),
        "elastic": len(elastic.layers()),
        "stay": sum(stays.values()),
        "because": "; ".join(f"{reason} {count}" for reason, count in stays.items()),
        "unnamed": len(unnamed(model, elastic)),
        "off_wrapped": f"{off(answer(wrapped, x), wanted):.1e}",
        "off_elastic": f"{full:.1e}",
        "off_float64": f"{off_in_float64(model, x):.1e}",
        "flops": round(point.cost / elastic.full_cost(), 3),
        "finite": bool(half.isfinite().all()),
        "off_settled": f"{off(answer(settled, x), half):.1e}",
        "settled_parameters": sum(p.numel() for p in settled.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--csv")
    wanted = parser.parse_args()
    timm = import_timm()
    rows = []
    for name in wanted.names or ARCHITECTURES:
        rows.append(row(name))
        print(rows[-1], flush=True)
    print(f"torch {torch.__version__}, timm {timm.__version__}")
    if wanted.csv:
        with Path(wanted.csv).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())

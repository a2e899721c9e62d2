"""`MODEL`: where a network comes from."""

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from adlrns._console import remark
from adlrns._errors import RunError, UseError, from_user, need
from adlrns._manifest import Source
from adlrns._source_timm import TIMM, keep_timm, open_timm, open_timm_source

# a transformers configuration, so that a folder can be opened without the one it came from
HF = "hf"
_REMEDY = (
    "run where that can be imported, or give the plain network: export has --model, "
    "adlrns.load the argument model"
)


_HEADS = {
    "classification": ("SequenceClassification", "ImageClassification", "AudioClassification"),
    "generation": ("CausalLM",),
    "translation": ("Seq2SeqLM",),
    "summarization": ("Seq2SeqLM",),
    "summarisation": ("Seq2SeqLM",),
    "qa": ("QuestionAnswering",),
    "question_answering": ("QuestionAnswering",),
    "segmentation": ("SemanticSegmentation",),
    "detection": ("ObjectDetection",),
}
"""What the classes of transformers are called that have the head a task needs."""


class Opened(NamedTuple):
    """A model that was read, and how to read its architecture again."""

    model: nn.Module
    source: Source


def open_model(spec: str, *, task: str | None = None) -> Opened:
    """Returns the model that `module:factory`, `hf:PATH` or `timm:NAME` names, in eval mode.

    A transformers model is opened with the head that `task` needs, if the folder has its weights,
    else without one.

    Raises:
        UseError: if there is none; naming the part that is wrong.
        RunError: if the factory, or what it imports, raises an error.
    """
    with from_user(f"MODEL {spec}"):
        return _opened(spec, task)


def _opened(spec: str, task: str | None) -> Opened:
    kind, colon, rest = spec.partition(":")
    if not colon or not kind or not rest:
        raise UseError(
            "MODEL must be module:factory, hf:PATH, timm:NAME or a folder written by compress, "
            f"got {spec!r}"
        )
    if kind == HF:
        return Opened(_pretrained(rest, task), Source(kind="hf", spec=rest))
    if kind == TIMM:
        return Opened(open_timm(rest), Source(kind="timm", spec=rest))
    made = named("MODEL", spec)
    model = made if isinstance(made, nn.Module) else called("MODEL", spec, made)
    if not isinstance(model, nn.Module):
        raise UseError(f"MODEL {spec} must give a torch.nn.Module, got {type(model).__name__}")
    return Opened(model.eval(), Source(kind="factory", spec=spec))


def open_source(folder: Path, source: Source) -> nn.Module:
    """Returns the architecture of a saved folder, with weights of no meaning.

    Raises:
        UseError, RunError: naming the folder and what to do, if its factory gives none.
    """
    if source.kind == "factory":
        try:
            return open_model(source.spec).model
        except (UseError, RunError) as error:
            text = f"{folder} needs the factory it was made from: {error}; {_REMEDY}"
            raise type(error)(text) from error
    if source.kind == TIMM:
        return open_timm_source(folder / TIMM, source.spec)
    transformers: Any = need("transformers")
    config = transformers.AutoConfig.from_pretrained(folder / HF, local_files_only=True)
    return transformers.AutoModel.from_config(config).eval()


def named(argument: str, spec: str) -> Any:
    """Returns what `module:name` stands for; modules are also looked for in the working folder.

    Raises:
        UseError: naming the module or the name that is not there.
    """
    module_name, _, attribute = spec.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - compared with strings
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise UseError(f"{argument} {spec}: no module named {error.name}") from None
    except ValueError as error:  # an empty name
        raise UseError(f"{argument} {spec}: {error}") from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UseError(f"{argument} {spec}: {found.__name__} has no {part!r}")
        found = getattr(found, part)
    return found


def called(argument: str, spec: str, factory: Callable[[], Any]) -> Any:
    """Returns what a factory without arguments makes.

    Raises:
        UseError: if it cannot be called.
    """
    if not callable(factory):
        raise UseError(f"{argument} {spec} must be callable, got {type(factory).__name__}")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UseError(f"{argument} {spec} must take no arguments: {error}") from None
    except ValueError:  # written in C: it will say itself what it takes
        pass
    return factory()


def _pretrained(place: str, task: str | None) -> nn.Module:
    transformers: Any = need("transformers")
    folder = Path(place).expanduser()
    if not (folder / "config.json").is_file():
        raise UseError(f"MODEL hf:{place} must be a local folder with a config.json")
    if not any(folder.glob("*.safetensors")):
        raise UseError(f"MODEL hf:{place} must have its weights in safetensors files, got none")
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    for kind in _heads(transformers, folder, task):
        model, about = kind.from_pretrained(folder, **options, output_loading_info=True)
        if not about["missing_keys"]:
            return model.eval()
        remark(f"hf:{place} has no weights for the head of {kind.__name__}")
    return transformers.AutoModel.from_pretrained(folder, **options).eval()


def _heads(transformers: Any, folder: Path, task: str | None) -> list[Any]:
    """Classes of models for a task that the configuration in a folder has."""
    config = transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    kinds = [getattr(transformers, f"AutoModelFor{name}") for name in _HEADS.get(task or "", ())]
    return [kind for kind in kinds if type(config) in kind._model_mapping]


def keep_configuration(source: Source, model: nn.Module, origin: Path, folder: Path) -> None:
    """Writes what :func:`open_source` needs of a model into a folder.

    Args:
        source: what the model was made from.
        model: the plain model.
        origin: the folder that its configuration was read from.
        folder: the result.
    """
    if source.kind == HF:
        config: Any = model.config
        config.save_pretrained(folder / HF)
    if source.kind == TIMM:
        keep_timm(origin, folder / TIMM)

"""Weights that stay in their files until a module needs them."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Parameters of modules made inside have shapes but no numbers; buffers have theirs."""
    register = nn.Module.register_parameter

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        made = module._parameters[name]
        if made is not None and not made.is_meta:
            module._parameters[name] = nn.Parameter(made.to("meta"), made.requires_grad)

    made_of: Any = nn.Module
    made_of.register_parameter = empty
    try:
        yield
    finally:
        made_of.register_parameter = register


class Weights:
    """The parameters and buffers of a model in safetensors files.

    Args:
        model: made :func:`without_weights`.
        files: a file, a folder of them, or several files.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if a file is damaged, or a parameter in none of them or of another shape.
    """

    def __init__(self, model: nn.Module, files: str | Path | Iterable[str | Path]) -> None:
        self.model = model
        self._files = dict[str, Path]()
        for path in _paths(files):
            for name in _shapes(path):
                self._files[name] = path
        # a parameter that several modules share is in the files under one of its names
        self._names: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in self._files:
                self._names.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters():
            self._check(name, parameter)
        for name, buffer in model.named_buffers():
            if name in self._files:
                with torch.no_grad():
                    buffer.copy_(self._read(name))

    def _check(self, name: str, parameter: Tensor) -> None:
        if id(parameter) not in self._names:
            raise ValueError(f"files must hold every parameter, got no {name}")
        found = _shapes(self._files[self._names[id(parameter)]])[self._names[id(parameter)]]
        if found != list(parameter.shape):
            raise ValueError(f"{name} must have shape {list(parameter.shape)}, got {found}")

    def _read(self, name: str) -> Tensor:
        with safe_open(self._files[name], "pt") as file:
            return file.get_tensor(name)

    @contextlib.contextmanager
    def of(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Modules have their weights inside, and none afterwards."""
        kept: list[tuple[nn.Module, str, nn.Parameter]] = []
        made: dict[int, nn.Parameter] = {}
        try:
            for module in modules:
                for owner in module.modules():
                    self._fill(owner, kept, made)
            yield
        finally:
            for owner, name, parameter in reversed(kept):
                owner._parameters[name] = parameter

    def _fill(self, owner: nn.Module, kept: list[Any], made: dict[int, nn.Parameter]) -> None:
        for name, parameter in owner._parameters.items():
            if parameter is None or not parameter.is_meta:
                continue
            if id(parameter) not in made:
                values = self._read(self._names[id(parameter)]).to(parameter.dtype)
                made[id(parameter)] = nn.Parameter(values, parameter.requires_grad)
            kept.append((owner, name, parameter))
            owner._parameters[name] = made[id(parameter)]

    @contextlib.contextmanager
    def outside_of(self, paths: Iterable[str]) -> Iterator[None]:
        """All modules that are in none of ``paths`` have their weights inside."""
        inner = {id(m) for path in paths for m in self.model.get_submodule(path).modules()}
        alone = [_Alone(m) for m in self.model.modules() if id(m) not in inner]
        with self.of(alone):
            yield


class _Alone(nn.Module):
    """A module without those in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["only"] = module

    def modules(self) -> Iterator[nn.Module]:  # type: ignore[override]
        yield self.__dict__["only"]


def _paths(files: str | Path | Iterable[str | Path]) -> list[Path]:
    if isinstance(files, str | Path):
        path = Path(files)
        found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not found:
            raise FileNotFoundError(f"{path} holds no safetensors file")
        return found
    return [Path(path) for path in files]


def _shapes(path: Path) -> dict[str, list[int]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error

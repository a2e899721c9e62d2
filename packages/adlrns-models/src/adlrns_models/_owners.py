"""Who holds which parameter: what is tied has more than one holder."""

from torch import nn


class Owners:
    """The modules that hold each parameter of a model, by name."""

    def __init__(self) -> None:
        self.names: dict[int, dict[int, str]] = {}

    def reason_of_tie(self, module: nn.Module) -> str | None:
        """Returns which of the module's parameters is also another module's, None if none is."""
        for part, parameter in module._parameters.items():
            holders = {} if parameter is None else self.names.get(id(parameter), {})
            others = [name for holder, name in holders.items() if holder != id(module)]
            if others:
                return f"its {part} is tied to another module's: {others[0]}"
        return None


def owners_of(model: nn.Module) -> Owners:
    """Returns who holds which parameter of ``model``; a shared module counts once."""
    owners = Owners()
    for name, module in model.named_modules():
        for part, parameter in module._parameters.items():
            if parameter is not None:
                holders = owners.names.setdefault(id(parameter), {})
                holders.setdefault(id(module), f"{name}.{part}".lstrip("."))
    return owners

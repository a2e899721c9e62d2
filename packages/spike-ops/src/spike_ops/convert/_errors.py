"""What of a network cannot be converted, and why."""


class ConversionError(ValueError):
    """A network with a part that spiking neurons cannot stand for.

    Attributes:
        node: The part, by the name it has in the network.
        rule: What can be converted, and what came.

    Example:
        >>> print(ConversionError("head", "Softmax cannot be converted"))
        head: Softmax cannot be converted
    """

    def __init__(self, node: str, rule: str) -> None:
        super().__init__(f"{node}: {rule}")
        self.node, self.rule = node, rule

    def __reduce__(self) -> tuple[type["ConversionError"], tuple[str, str]]:
        return type(self), (self.node, self.rule)

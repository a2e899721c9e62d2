"""What is wrong with a graph, and where."""


class NirError(ValueError):
    """A graph or a file that is damaged, foreign, or says what cannot be run or exported.

    Attributes:
        node: The node or the file at which it was noticed.
        rule: What must hold there, and what came.

    Example:
        >>> try:
        ...     raise NirError("lif", "tau must be at least dt, got 0.0")
        ... except NirError as error:
        ...     print(error)
        lif: tau must be at least dt, got 0.0
    """

    def __init__(self, node: str, rule: str) -> None:
        super().__init__(f"{node}: {rule}")
        self.node, self.rule = node, rule

    def __reduce__(self) -> tuple[type["NirError"], tuple[str, str]]:
        return type(self), (self.node, self.rule)

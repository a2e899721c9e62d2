"""What growth raises."""


class GrowthRefusedError(RuntimeError):
    """An edit cannot be done, or did not keep what the network computes; nothing has changed."""

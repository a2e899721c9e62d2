"""The errors a caller may want to catch by name."""


class BudgetError(ValueError):
    """No choice of ranks meets the limit; the message says the nearest one that can be met."""


class MeterError(RuntimeError):
    """An energy meter cannot be read, or cannot answer for the window it was asked about."""

"""Rules of operations: what they do to axes, and to the values of new units."""

from neuro_morph._rules import _attention, _moves, _norms, _pointwise, _products, _recurrent, _sums
from neuro_morph._rules._rule import RULES, Rule, add_rule

__all__ = ["RULES", "Rule", "add_rule"]

_LOADED = (
    _attention,
    _moves,
    _norms,
    _pointwise,
    _products,
    _recurrent,
    _sums,
)  # each adds its own

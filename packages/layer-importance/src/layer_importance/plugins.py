"""What a package of one's own can add by entry points, and what it is made of.

``layer_importance.methods``
    A subclass of :class:`~layer_importance.Method`.
``layer_importance.tasks``
    A subclass of :class:`~layer_importance.tasks.Task` that needs no arguments.
``layer_importance.adapters``
    A subclass of :class:`~layer_importance.modalities.Modality`, likewise.
``layer_importance.planners``
    A :data:`Planner`, for ``plan(planner=...)``.
``layer_importance.executors``
    An :data:`Executor`, for ``carry_out(executor=...)``: changes the model that it is given, a
    copy, or raises :class:`Refused`; what it did is verified as any other way is.

Each is known by its name, before what comes with the package, and loaded when it is first asked
for. One that cannot be loaded is left out with a warning. ``LAYER_IMPORTANCE_NO_PLUGINS=1`` leaves
all of them out.
"""

from layer_importance._entry_points import broken
from layer_importance._execute.cut import Cut
from layer_importance._execute.stand_in import Refused, StandIn
from layer_importance._execute.surgery import Executor
from layer_importance._plan_search import Damages
from layer_importance._plan_space import Space
from layer_importance._planner import Planner

__all__ = ["Planner", "Space", "Damages", "Executor", "Cut", "Refused", "StandIn", "broken"]

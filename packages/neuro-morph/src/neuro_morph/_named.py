"""Whether a model has what an edit names."""

from neuro_morph._edit import Edit
from neuro_morph._edit_connect import Connect
from neuro_morph._edit_deepen import Deepen
from neuro_morph._edit_heads import AddHeads
from neuro_morph._edit_split import SplitSteepest
from neuro_morph._edit_together import Together
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._morpher import Morpher
from neuro_morph._visits import module_at


def check_names(edit: Edit, morpher: Morpher) -> None:
    """Raises what the edit itself would if a run's model does not have what it names.

    Of edits that are made together only the first is looked at: others may name what it makes.

    Raises:
        KeyError: for a group that is not there.
        ValueError: for a module that is not there.
    """
    if isinstance(edit, Together):
        check_names(edit.edits[0], morpher)
    elif isinstance(edit, Widen | SplitSteepest):
        _ = morpher.graph[edit.group]
    elif isinstance(edit, Deepen):
        module_at(morpher.model, edit.after, "after")
    elif isinstance(edit, Connect):
        module_at(morpher.model, edit.source, "source")
        module_at(morpher.model, edit.target, "target")
    elif isinstance(edit, AddHeads):
        try:
            edit.group(morpher.site())
        except GrowthRefusedError:  # for which it is tried, and noted
            return

"""What a configuration says that `adlrns experiment` does not ask for."""

from pydantic import BaseModel

from adlrns._config_file import Config

# by section: full rank has no gates, and ranks come from run.budgets
_UNUSED = {
    "model": ("r_min", "r_max", "scorer_hidden", "num_gate_blocks", "gate", "granularity"),
    "train": ("energy_penalty_weight", "sandwich", "distill_weight", "keep_last"),
    "scheduler": (
        *("type", "energy_budget_mJ_per_sample", "budget_batch", "alpha", "beta"),
        *("r_min", "r_max"),
    ),
}


def unused(config: Config) -> list[str]:
    """Returns the keys that are not at their defaults and change nothing in a comparison."""
    return [
        f"{section}.{key}"
        for section, keys in _UNUSED.items()
        for key in keys
        if _is_changed(getattr(config, section), key)
    ]


def note(config: Config) -> str | None:
    """Returns what a reader must know of them; None where all is used."""
    names = unused(config)
    if not names:
        return None
    return (
        f"of no effect in experiment, which trains at full rank and takes ranks from run.budgets: "
        f"{', '.join(names)}"
    )


def _is_changed(section: BaseModel, key: str) -> bool:
    return bool(getattr(section, key) != type(section).model_fields[key].default)

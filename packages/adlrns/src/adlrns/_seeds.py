"""Seeds that a folder of runs holds beside those that are asked for."""

from pathlib import Path

import yaml

from adlrns._config_file import Config
from adlrns._console import remark
from adlrns._run_folder import NAME

# what decides when a run ends
_ENDS = ("epochs", "patience", "min_delta")


def with_finished(config: Config, out: Path, result: str) -> Config:
    """Returns the configuration with the seeds that are done in `out`: tables are of all of them.

    Seeds that ended by other rules are left out, and named on stderr.

    Args:
        config: its seeds come first.
        out: the folder of an earlier run, if there is one.
        result: the file that says that a seed is done.
    """
    found = sorted(_finished(out, result) - set(config.run.seeds))
    if not found:
        return config
    if not _ended_alike(out, config):
        named = ",".join(map(str, found))
        remark(
            f"left out of the tables: seeds {named}, which ended by other rules; --seeds {named}"
        )
        return config
    run = config.run.model_copy(update={"seeds": [*config.run.seeds, *found]})
    return config.model_copy(update={"run": run})


def _finished(out: Path, result: str) -> set[int]:
    numbers = (path.parent.name.removeprefix("seed-") for path in out.glob(f"seed-*/{result}"))
    return {int(number) for number in numbers if number.isdecimal()}


def _ended_alike(out: Path, config: Config) -> bool:
    try:
        before = yaml.safe_load((out / NAME).read_text(encoding="utf-8"))["train"]
        now = yaml.safe_load(config.to_yaml())["train"]
        return all(before.get(key) == now.get(key) for key in _ENDS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return False  # opening the folder says what is wrong with it

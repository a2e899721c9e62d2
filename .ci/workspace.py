"""The packages of the repository, found under packages/, and what they need."""

import re
from collections.abc import Iterable
from pathlib import Path

from nox.project import dependency_groups, load_toml

ROOT = Path(__file__).resolve().parent.parent
WORKSPACE = load_toml(ROOT / "pyproject.toml")
PACKAGES = {
    config["project"]["name"]: config
    for config in map(load_toml, sorted(ROOT.glob("packages/*/pyproject.toml")))
}


def module(package: str) -> str:
    """Return the name a package is imported by."""
    return package.replace("-", "_")


def folder(package: str) -> str:
    """Return the folder of a package, seen from the root."""
    return f"packages/{package}"


def tools(*groups: str) -> list[str]:
    """Return the requirements of the root's dependency groups."""
    return list(dependency_groups(WORKSPACE, *groups))


def named_in(needs: Iterable[str]) -> set[str]:
    """Return the packages of the repository among requirements."""
    return {re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs} & PACKAGES.keys()


def closure(packages: Iterable[str], extra: str = "") -> set[str]:
    """Return the packages and all packages of the repository that they need."""
    found = set(packages)
    for name in packages:
        project = PACKAGES[name]["project"]
        extras = project.get("optional-dependencies", {}).get(extra, [])
        found |= closure(named_in([*project.get("dependencies", []), *extras]) - {name}, extra)
    return found


def requirements(packages: Iterable[str], *groups: str, extra: str = "") -> list[str]:
    """Return what to install: the closure of the packages by path, their groups and the root's.

    A package may add to a group of the root in a dependency group of the same name; an extra is
    taken where a package has it.
    """
    needs = tools(*groups)
    for name in packages:
        if own := PACKAGES[name].get("dependency-groups", {}).keys() & set(groups):
            needs += dependency_groups(PACKAGES[name], *sorted(own))
    here = sorted(closure({*packages, *named_in(needs)}, extra))
    needs = [need for need in needs if not named_in([need])]
    for name in here:
        extras = PACKAGES[name]["project"].get("optional-dependencies", {})
        needs.append(f"--editable={folder(name)}" + (f"[{extra}]" if extra in extras else ""))
    return list(dict.fromkeys(needs))


def breaking_part(version: str) -> tuple[int, int]:
    """Return what grows with a change that breaks callers: the minor in 0.x, else the major."""
    major, minor = map(int, version.split(".")[:2])
    return (major, minor if major == 0 else 0)

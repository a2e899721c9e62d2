"""Versions, and the files around them, agree across the packages."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECTS: dict[str, dict[str, Any]] = {
    file.parent.name: tomllib.loads(file.read_text())["project"]
    for file in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
HEADING = re.compile(r"^## \[?(\d+\.\d+\.\d+)\b", flags=re.MULTILINE)
each_package = pytest.mark.parametrize("name", PROJECTS)


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project.get("optional-dependencies", {}).values()
    return [Requirement(need) for part in (project["dependencies"], *extras) for need in part]


def test_there_are_packages() -> None:
    assert PROJECTS


@each_package
def test_is_named_as_its_folder(name: str) -> None:
    assert PROJECTS[name]["name"] == name


@each_package
def test_pins_admit_the_siblings_as_they_are(name: str) -> None:
    for need in requirements(PROJECTS[name]):
        if need.name in PROJECTS and need.name != name:
            sibling = PROJECTS[need.name]["version"]
            assert need.specifier.contains(sibling), f"{need} does not admit {sibling}"


@each_package
def test_pins_bound_the_siblings_from_above(name: str) -> None:
    for need in requirements(PROJECTS[name]):
        if need.name in PROJECTS and need.name != name:
            assert not need.specifier.contains("999"), f"{need} admits every later version"


@each_package
def test_newest_heading_of_the_changelog_is_the_version(name: str) -> None:
    text = (ROOT / "packages" / name / "CHANGELOG.md").read_text()
    assert HEADING.findall(text)[:1] == [PROJECTS[name]["version"]]


@each_package
def test_installed_version_is_the_declared_one(name: str) -> None:
    assert version(name) == PROJECTS[name]["version"]

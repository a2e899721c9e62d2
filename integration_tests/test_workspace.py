"""The repository keeps its promises about itself."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(file.parent.name for file in ROOT.glob("packages/*/pyproject.toml"))
TESTS, DEMO = "python noxfile.py -s tests", "python noxfile.py -s demo"
each_readme = pytest.mark.parametrize("readme", sorted(p.name for p in ROOT.glob("README*.md")))
each_package = pytest.mark.parametrize("name", PACKAGES)


def first_python_block(page: str) -> str:
    found = re.search(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    assert found, f"{page} has no python block"
    return found[1]


def lines(page: str) -> list[str]:
    return [line.strip() for line in (ROOT / page).read_text().splitlines()]


@each_readme
def test_readme_shows_the_two_commands(readme: str) -> None:
    assert {TESTS, DEMO} <= set(lines(readme))


def test_what_is_run_on_each_change_is_what_the_readme_says() -> None:
    assert [line for line in lines(".ci/run") if line.startswith("python ")] == [
        f"{TESTS} < /dev/null"
    ]


def test_readme_and_documentation_begin_with_the_same_code() -> None:
    assert first_python_block("README.md") == first_python_block("docs/index.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r" *#.*", "", block) for block in found]


def test_chinese_readme_shows_the_same_code_commands_and_numbers() -> None:
    english, chinese = "README.md", "README.zh.md"
    for language in ("python", "console"):
        assert blocks(english, language) == blocks(chinese, language)
    numbers = re.compile(r"\d[\d.,]*(?: ?%|×)?")
    rows = [
        [numbers.findall(line) for line in lines(page) if line.startswith("|")]
        for page in (english, chinese)
    ]
    assert rows[0] == rows[1]


@each_readme
def test_readme_lists_each_package_and_no_other(readme: str) -> None:
    linked = re.findall(
        r"^\| \[([\w-]+)\]\(packages/\1/?\)", (ROOT / readme).read_text(), re.MULTILINE
    )
    assert sorted(linked) == PACKAGES


@each_package
@pytest.mark.parametrize("file", ["README.md", "CHANGELOG.md", "src/{module}/py.typed", "tests"])
def test_has_what_a_package_must_have(name: str, file: str) -> None:
    path = ROOT / "packages" / name / file.format(module=name.replace("-", "_"))
    assert path.exists(), f"{path.relative_to(ROOT)} is missing"


@each_package
def test_writes_metadata_that_every_upload_checker_reads(name: str) -> None:
    config = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())
    targets = config["tool"]["hatch"]["build"]["targets"]
    assert {targets[kind]["core-metadata-version"] for kind in ("wheel", "sdist")} == {"2.4"}
    assert config["project"]["license"] == "MIT"
    assert config["project"]["requires-python"] == ">=3.11"


@each_package
def test_public_names_are_there_once_and_documented(name: str) -> None:
    package = importlib.import_module(name.replace("-", "_"))
    assert len(package.__all__) == len(set(package.__all__))
    for public in package.__all__:
        assert not public.startswith("_")
        value = getattr(package, public)
        assert not callable(value) or value.__doc__, f"{public} has no docstring"


@each_package
def test_has_a_page_in_the_documentation(name: str) -> None:
    page = (ROOT / "docs" / "api" / f"{name}.md").read_text()
    assert f"::: {name.replace('-', '_')}\n" in page

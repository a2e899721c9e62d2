"""What all tests of the repository share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent

settings.register_profile("repository", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repository")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real data sets: `$ADLRNS_DATA`, else `../shared/data`."""
    folder = Path(os.environ.get("ADLRNS_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        reason = f"no data in {folder}; set ADLRNS_DATA to the folder that holds it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --snippets: collect the code of pages and docstrings, and no tests."""
    parser.addoption("--snippets", action="store_true", help="run the code in *.md and docstrings")


def pytest_configure(config: pytest.Config) -> None:
    """Read pages and docstrings only where asked: other environments do not have sybil."""
    if config.getoption("snippets"):
        config.pluginmanager.register(_Snippets())


class _Snippets:
    def __init__(self) -> None:
        from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

        from sybil import Sybil
        from sybil.document import PythonDocStringDocument
        from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
        from sybil.parsers.rest import DocTestParser

        flags = ELLIPSIS | NORMALIZE_WHITESPACE
        # all blocks of a page share one namespace, as a reader types them one after the other
        pages = Sybil(
            parsers=[PythonCodeBlockParser(doctest_optionflags=flags), SkipParser()],
            pattern="*.md",
        )
        docstrings = Sybil(
            parsers=[DocTestParser(optionflags=flags)],
            pattern="*.py",
            document_types={".py": PythonDocStringDocument},
        )
        self.collect = (pages + docstrings).pytest()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> object:
        return self.collect(file_path, parent)

    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> pytest.Collector:
        # a named file of a package would be run a second time, beside the one that is imported
        nothing: pytest.Collector = _Nothing.from_parent(parent, path=module_path)
        return nothing


class _Nothing(pytest.File):
    def collect(self) -> list[pytest.Item]:
        return []

#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2026.4"]
# ///
"""Every task of the repository, with Python >= 3.11 and git alone.

    python noxfile.py                        all that must hold, the same as -s tests
    python noxfile.py -l                     what else there is
    python noxfile.py -s unit -- fd-sketch   one package, in an environment of its own

`nox`, `pipx run nox` and `uvx nox` read this file as well. Environments live in .nox.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if sys.version_info < (3, 11):  # noqa: UP036 - this line is for those who have an older one
    sys.exit(f"this repository needs Python 3.11 or newer, got {sys.version.split()[0]}")
sys.path.insert(0, str(ROOT / ".ci"))

from toolchain import configure_uv, start_nox  # noqa: E402 - found through the path above

configure_uv()
try:
    import nox
except ImportError:
    if __name__ != "__main__":
        raise
    sys.exit(start_nox(__file__, sys.argv[1:]))

from workspace import (  # noqa: E402
    PACKAGES,
    breaking_part,
    closure,
    folder,
    module,
    requirements,
    tools,
)

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
nox.options.sessions = ["tests"]
each_package = nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
# distributions whose module has another name
MODULE_NAMES = "PyYAML=yaml,scikit-learn=sklearn"


def install(session: nox.Session, *needs: str) -> None:
    """Bring the environment to what is needed and nothing beside it."""
    session.install("--exact", *needs)


def named(session: nox.Session) -> tuple[list[str], list[str]]:
    """Return the packages named after `--`, all if none is, and the other arguments."""
    names = [arg for arg in session.posargs if arg in PACKAGES]
    return names or list(PACKAGES), [arg for arg in session.posargs if arg not in PACKAGES]


def skip_unless_named(session: nox.Session, package: str) -> None:
    """Leave the session of a package if only others are named."""
    if package not in named(session)[0]:
        session.skip("another package is named")


def pytest(session: nox.Session, *places: str, **env: str) -> None:
    """Run pytest on the places, or on those after `--`; choosing nothing there is no failure.

    Several tests run at a time, each worker from its own stretch of them; `-n 0` after `--` runs
    one after the other.
    """
    chosen = named(session)[1]
    if any((ROOT / arg.partition("::")[0]).exists() for arg in chosen):
        places = tuple(place for place in places if place.startswith("--"))
    env = {
        # small tensors: a second thread costs more than it brings
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        # many tests start Python anew: it should not compile all of torch each time
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(ROOT / ".nox" / "pycache"),
        **env,
    }
    # worksteal is the fastest, loadfile (named after it) keeps the tests of a file together
    workers = (f"--numprocesses={min(4, os.cpu_count() or 1)}", "--dist=worksteal")
    codes = [0, 5] if chosen else [0]
    session.run("pytest", *workers, *places, *chosen, env=env, success_codes=codes)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run all that must hold, to the end; fails if any part failed."""
    for part in ("lint", "types", "imports", "deps", "docs"):
        session.notify(part, posargs=())
    for part in (*(f"unit({name})" for name in PACKAGES), "integration", "snippets"):
        session.notify(part)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format (-- --fix repairs what can be repaired)."""
    install(session, *tools("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--diff"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all packages, or of the named ones."""
    names, arguments = named(session)
    install(session, *requirements(names, "types"))
    session.run("mypy", *(f"{folder(name)}/src" for name in names), *arguments)


@nox.session
def imports(session: nox.Session) -> None:
    """Check who imports whom: floors, neighbours, private modules, triton."""
    install(session, *tools("lint"))
    contracts = f"{session.virtualenv.location}/contracts.toml"
    session.run("python", ".ci/contracts.py", contracts)
    sources = os.pathsep.join(str(ROOT / folder(name) / "src") for name in PACKAGES)
    command = ["lint-imports", "--no-logo", "--no-cache", f"--config={contracts}"]
    session.run(*command, env={"PYTHONPATH": sources})


@nox.session
def deps(session: nox.Session) -> None:
    """Check that each package declares what it imports, and nothing else."""
    install(session, *tools("lint"))
    broken = []
    for name in named(session)[0]:
        declared = f"--config={folder(name)}/pyproject.toml"
        command = ["deptry", "--no-ansi", f"{folder(name)}/src", declared]
        try:
            session.run(*command, f"--package-module-name-map={MODULE_NAMES}")
        except nox.command.CommandFailed:
            broken.append(name)
    if broken:
        session.error(f"imports and declarations differ in {', '.join(broken)}")


@nox.session
@each_package
def unit(session: nox.Session, package: str) -> None:
    """Test one package, in an environment with nothing but what it declares."""
    skip_unless_named(session, package)
    install(session, *requirements([package], "test"))
    pytest(session, f"{folder(package)}/tests")


@nox.session
def integration(session: nox.Session) -> None:
    """Test what only the packages together can show."""
    install(session, *requirements(PACKAGES, "integration", "test"))
    # what the tests of a file share takes a minute to make
    pytest(session, "--dist=loadfile", "integration_tests")


@nox.session
def snippets(session: nox.Session) -> None:
    """Run the code in README.md, docs/ and docstrings (named packages: only theirs)."""
    names = named(session)[0]
    install(session, *requirements(names, "snippets", "test"))
    places = [
        place for name in names for place in (f"{folder(name)}/README.md", f"{folder(name)}/src")
    ]
    if names == list(PACKAGES):
        places += [*(page.name for page in sorted(ROOT.glob("README*.md"))), "docs"]
    pytest(session, "--snippets", "--dist=loadfile", *places)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/, strictly (-- serve shows it while you write)."""
    install(session, *tools("docs"))
    command = session.posargs or ["build", "--strict"]
    session.run("mkdocs", *command, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
@each_package
def bench(session: nox.Session, package: str) -> None:
    """Measure one package: ratios within one run."""
    skip_unless_named(session, package)
    if not any(ROOT.glob(f"{folder(package)}/benchmarks/bench_*.py")):
        session.skip("no benchmarks")
    install(session, *requirements([package], "bench"))
    session.run("pytest", "-s", f"{folder(package)}/benchmarks", *named(session)[1])


@nox.session
@each_package
def api(session: nox.Session, package: str) -> None:
    """Compare a package's public API with that of its last tag."""
    skip_unless_named(session, package)
    list_tags = ["git", "tag", "--sort=-version:refname", "--list", f"{package}-v*"]
    tags = session.run(*list_tags, external=True, silent=True).split()
    if not tags:
        session.skip(f"no tag {package}-v* yet, so there is nothing to compare with")
    now, before = PACKAGES[package]["project"]["version"], tags[0].removeprefix(f"{package}-v")
    grew = breaking_part(now) > breaking_part(before)
    session.log(f"{before} -> {now}: may {'' if grew else 'not '}break callers")
    install(session, *tools("api"))
    command = ["griffe", "check", module(package), f"--search={folder(package)}/src"]
    session.run(*command, f"--against={tags[0]}", success_codes=[0, 1] if grew else [0])


@nox.session
def build(session: nox.Session) -> None:
    """Build all distributions into dist/; install and import each wheel alone, then all."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    for name in PACKAGES:
        session.run("uv", "build", "--quiet", "--out-dir=dist", folder(name))
    wheels = {name: str(*ROOT.glob(f"dist/{module(name)}-*.whl")) for name in PACKAGES}
    fresh = [f"--reinstall-package={name}" for name in PACKAGES]
    for names in (*(closure([name]) for name in PACKAGES), PACKAGES):
        install(session, *fresh, *(wheels[name] for name in sorted(names)))
        session.run("uv", "pip", "check")
        # -I: nothing of this folder is on the path
        session.run("python", "-I", "-c", f"import {', '.join(map(module, sorted(names)))}")


@nox.session
def kernels(session: nox.Session) -> None:
    """Run the Triton kernels in the interpreter, then compile them for sm_80 and sm_90."""
    suites = [str(file) for file in sorted(ROOT.glob("packages/*/tests/test_*triton*.py"))]
    names = [name for name in PACKAGES if any(folder(name) + "/" in suite for suite in suites)]
    if not names:
        session.skip("no Triton kernels")
    install(session, *requirements(names, "kernels", "test", extra="triton"))
    pytest(session, "--numprocesses=0", *suites, TRITON_INTERPRET="1")
    for script in sorted(ROOT.glob("packages/*/benchmarks/aot_resources.py")):
        session.run("python", str(script))


@nox.session
def timm(session: nox.Session) -> None:
    """Wrap architectures of timm, which brings a torchvision made for one build of torch."""
    install(session, *requirements(["adlrns"], "test", extra="timm"))
    pytest(session, "integration_tests/test_timm.py")


@nox.session
def demo(session: nox.Session) -> None:
    """Show the main job on real data (-- --out DIR chooses where the report goes)."""
    install(session, *requirements(PACKAGES, extra="demo"))
    session.run("adlrns", "demo", *session.posargs)


if __name__ == "__main__":
    sys.argv[1:1] = ["-f", __file__]
    nox.main()

"""What the machine must bring before a task can run: nox, and a uv that finds what pip finds."""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOX = "nox[uv]>=2026.4"


def start_nox(noxfile: str, arguments: list[str]) -> int:
    """Run the noxfile with the nox in .nox/bootstrap, installed there first unless complete."""
    home = ROOT / ".nox" / "bootstrap"
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    # written last, so that an interrupted installation is begun anew
    stamp, want = home / "complete", f"{NOX}\n{sys.executable}\n{sys.version}\n"
    if not stamp.is_file() or stamp.read_text() != want:
        print(f"installing {NOX} into {home}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        pip = [programs / "python", "-m", "pip", "install", "--quiet", NOX]
        subprocess.run(pip, check=True)
        stamp.write_text(want)
    return subprocess.call([programs / "nox", "-f", noxfile, *arguments])


@cache
def pip_config() -> str:
    """Return the lines of `pip config list`, from the first pip there is."""
    for pip in ([sys.executable, "-m", "pip"], ["pip"], ["python3", "-m", "pip"]):
        if shutil.which(pip[0]):
            listing = [*pip, "config", "list"]
            done = subprocess.run(listing, check=False, capture_output=True, text=True)
            if done.returncode == 0:
                return done.stdout
    return ""


def pip_setting(key: str) -> list[str]:
    """Return what pip has for a key such as find-links, in the environment or in its files."""
    if value := os.environ.get("PIP_" + key.upper().replace("-", "_")):
        return value.split()
    # global.find-links='/some/folder https://some.site'
    values = re.findall(rf"^\S+\.{key}=(.+)$", pip_config(), flags=re.MULTILINE)
    return [word for value in values for word in ast.literal_eval(value).split()]


def reachable(host: str) -> bool:
    """Tell whether a connection to the host opens within two seconds."""
    try:
        with socket.create_connection((host, 443), timeout=2):
            return True
    except OSError:
        return False


def configure_uv() -> None:
    """Let uv look where pip looks, keep it to constraints.txt, and prefer torch without CUDA."""
    if links := pip_setting("find-links"):
        os.environ.setdefault("UV_FIND_LINKS", ",".join(dict.fromkeys(links)))
    elif "UV_FIND_LINKS" not in os.environ and reachable("download.pytorch.org"):
        os.environ.setdefault("UV_TORCH_BACKEND", "cpu")
    if index := pip_setting("index-url"):
        os.environ.setdefault("UV_DEFAULT_INDEX", index[-1])
    os.environ.setdefault("UV_CONSTRAINT", "constraints.txt")
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")

"""Running qgis_process with this checkout's plugin in a profile of its own."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Mapping

ROOT = Path(__file__).resolve().parent.parent


def program() -> str:
    """qgis_process; Debian 12's wrapper of that name does not work, the program behind it does."""
    for name in ("qgis_process.bin", "qgis_process"):
        found = shutil.which(name)
        if found:
            return found
    raise RuntimeError("qgis_process is not installed; run 'make setup'")


@functools.lru_cache(maxsize=1)
def _profile() -> str:
    return new_profile()


def new_profile(settings_text: str = "") -> str:
    """A folder with a fresh profile in which the plugin is enabled; `settings_text` are further lines of QGIS3.ini."""
    folder = Path(tempfile.mkdtemp(prefix="s2landcover-profile-"))
    (folder / "runtime").mkdir(mode=0o700)
    (folder / "home").mkdir()
    settings = folder / "profiles" / "default" / "QGIS"
    settings.mkdir(parents=True)
    (settings / "QGIS3.ini").write_text(f"[PythonPlugins]\ns2landcover_plugin=true\n{settings_text}")
    return str(folder)


def environment(plugin_path: str | None = None) -> dict[str, str]:
    """Environment for QGIS programs: offscreen, a fresh profile with the plugin enabled, packages of this virtual environment."""
    profile = _profile()
    packages = [str(ROOT), sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
    return {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "LC_ALL": "C.UTF-8",
        "XDG_RUNTIME_DIR": f"{profile}/runtime",
        "HOME": f"{profile}/home",
        "QGIS_CUSTOM_CONFIG_PATH": profile,
        "QGIS_PLUGINPATH": plugin_path or str(ROOT),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(packages)),
    }


def run_process(
    algorithm: str, parameters: Mapping[str, Any], timeout_s: float = 600, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an algorithm or a model file; lists become repeated keys. `variables` are added to the environment."""
    command = [program(), "run", algorithm]
    for name, value in parameters.items():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            command.append(f"--{name}={each}")
    where = {**environment(), **(variables or {})}
    return subprocess.run(command, env=where, capture_output=True, text=True, timeout=timeout_s, check=False)


def results(output: str) -> dict[str, str]:
    """The `KEY:<tab>value` lines of the Results part of qgis_process's output."""
    _, _, tail = output.partition("\nResults\n")
    return dict(line.split(":\t", 1) for line in tail.splitlines() if ":\t" in line)


def qgis_process(algorithm: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Run an algorithm for the demo: print what it says and stop if it fails."""
    print(f"\n== {algorithm}")
    done = run_process(algorithm, parameters)
    _, _, said = done.stdout.partition("\n\n\n")
    print(said.partition("\n\n----")[0].strip())
    if done.returncode:
        raise SystemExit(f"{algorithm} failed:\n{done.stderr}")
    found = results(done.stdout)
    for name, value in found.items():
        print(f"   {name} = {value}")
    return found

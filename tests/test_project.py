"""Layers, versions and what the plugin repository checks."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from s2landcover_plugin.engine.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
ENGINE = sorted((ROOT / "s2landcover_plugin" / "engine").glob("*.py"))
ALGORITHMS = sorted((ROOT / "algorithms").glob("*.py"))
FOUNDATION = [
    "errors",
    "progress",
    "options",
    "version",
    "packages",
    "products",
    "legend",
    "palette",
    "waiting",
    "grid",
    "crs",
    "files",
    "shifting",
    "raster",
    "geotiff",
    "vector",
    "blocks",
    "addresses",
    "credentials",
    "http",
    "access",
    "cache",
    "remote",
]
"""Modules that operations stand on, lowest first; one may import only those before it."""
OPERATIONS = {"fetch", "bandfiles", "spectral", "clustering", "applying", "areas", "aligning", "accuracy", "detecting", "segmenting"}
MAY_OPEN_DATASETS = {"raster.py", "geotiff.py", "vector.py"}
MAY_USE_NETWORK = {"http.py", "remote.py", "stac.py"}


def imports(path):
    """(module, names) of every import of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def engine_imports(path):
    """Names of the engine's own modules that a module of it imports at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


def required(path):
    """Names of the packages that a file asks for with `require`."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    return {call.args[0].value for call in calls if call.func.id == "require" and isinstance(call.args[0], ast.Constant)}


def test_engine_runs_without_qgis():
    names = ", ".join(f"s2landcover_plugin.engine.{path.stem}" for path in ENGINE if path.stem != "__init__")
    code = f"import sys\nsys.modules['qgis'] = None\nimport {names}\nassert not [m for m in sys.modules if m.startswith('qgis.')]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: p.name)
def test_engine_layers(path):
    modules = [module for module, _ in imports(path)]
    assert not [m for m in modules if m.startswith("qgis")]
    if path.stem in FOUNDATION:
        allowed = set(FOUNDATION[: FOUNDATION.index(path.stem)])
        assert engine_imports(path) <= allowed
    if path.stem in OPERATIONS:
        assert not (engine_imports(path) & OPERATIONS - {path.stem}) - {"areas"}
    names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    if path.name not in MAY_OPEN_DATASETS:
        assert not names & {"OpenEx", "Open", "ReadAsArray", "WriteArray", "Warp", "Translate"}
    if path.name not in MAY_USE_NETWORK:
        network = {"requests", "urllib", "urllib3", "http", "socket", "pystac_client"}
        assert not [m for m in modules if m.split(".")[0] in network and m != "urllib.parse"]
        assert not {text.split(".")[0] for text in required(path)} & network


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda p: p.name)
def test_algorithms_are_thin(path):
    modules = [module for module, _ in imports(path)]
    assert not [m for m in modules if m.split(".")[0] in ("numpy", "osgeo", "sklearn")]
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    assert all(n.end_lineno - n.lineno < 40 for n in functions)


@pytest.mark.parametrize("path", [*ENGINE, *ALGORITHMS, *(ROOT / "s2landcover_plugin").glob("*.py")], ids=lambda p: p.name)
def test_nothing_that_the_plugin_repository_refuses(path):
    tree = ast.parse(path.read_text())
    assert not {m.split(".")[0] for m, _ in imports(path)} & {"pickle", "marshal", "random", "PyQt5", "PyQt6"}
    calls = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not calls & {"eval", "exec", "compile", "__import__"}
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Assert)]


def test_versions_agree():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "metadata.txt")
    general = metadata["general"]
    assert general["version"] == VERSION
    assert general["hasProcessingProvider"] == "yes"
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "s2landcover_plugin" / general["icon"]).exists()


def test_package_has_no_links_and_imports(tmp_path):
    subprocess.run(["make", "-s", "package"], check=True, cwd=ROOT, capture_output=True)
    with zipfile.ZipFile(ROOT / "build" / "s2landcover_plugin.zip") as package:
        package.extractall(tmp_path)
        names = package.namelist()
    assert "s2landcover_plugin/algorithms/clusterraster.py" in names and "s2landcover_plugin/LICENSE" in names
    assert (tmp_path / "s2landcover_plugin" / "metadata.txt").read_text().startswith("[general]")
    subprocess.run([sys.executable, "-c", "import s2landcover_plugin.engine.clustering"], check=True, cwd=tmp_path)


def test_checkout_without_links_still_finds_its_algorithms(tmp_path):
    shutil.copytree(ROOT / "s2landcover_plugin", tmp_path / "s2landcover_plugin", symlinks=True)
    shutil.copytree(ROOT / "algorithms", tmp_path / "algorithms")
    for name in ("algorithms", "metadata.txt"):
        (tmp_path / "s2landcover_plugin" / name).unlink()
        (tmp_path / "s2landcover_plugin" / name).write_text(f"../{name}")
    code = "import importlib.machinery as m, s2landcover_plugin as p; print(m.PathFinder.find_spec('algorithms', p.__path__).origin)"
    found = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert Path(found) == tmp_path / "algorithms" / "__init__.py"


def test_make_help_lists_every_command():
    said = subprocess.run(["make", "help"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    phony = (ROOT / "Makefile").read_text().split(".PHONY:")[1].splitlines()[0].split()
    assert len(phony) > 5 and all(f"{name} " in said for name in phony)

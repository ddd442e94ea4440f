"""The one place that asks for packages which QGIS does not bring along."""

from __future__ import annotations

import importlib
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import ModuleType
from typing import Iterator

from .errors import EngineError

DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "cv2": "opencv-python-headless",
    "onnxruntime": "onnxruntime",
    "pystac_client": "pystac-client",
    "pystac": "pystac-client",
    "threadpoolctl": "scikit-learn",
    "matplotlib": "matplotlib",
    "jinja2": "Jinja2",
    "requests": "requests",
}
"""Import name -> name of the package to install."""


def one_blas_thread() -> AbstractContextManager[object]:
    """Keeps NumPy's matrix products in the thread that asks for them; for threads that compute beside each other.

    Where threadpoolctl is not installed nothing changes.
    """
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return nullcontext()
    limits: AbstractContextManager[object] = threadpoolctl.threadpool_limits(1, user_api="blas")
    return limits


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Keeps OpenCV in the thread that calls it: on images of some hundred pixels its threads cost more than they save."""
    cv2 = require("cv2")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


DRAWING = ("matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2")
"""What pages with pictures are made with."""


@contextmanager
def importing(*modules: str) -> Iterator[None]:
    """Imports packages in a thread of its own meanwhile; what is missing is told by `require` afterwards."""

    def load() -> None:
        for module in modules:
            with suppress(ImportError):
                importlib.import_module(module)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def require(module: str) -> ModuleType:
    """Import a package (or a submodule, `sklearn.cluster`) or say how to get it.

    Raises:
        EngineError: it is not installed, or does not work in this Python.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        package = DISTRIBUTIONS.get(module.split(".")[0], module)
        raise EngineError(
            f"The Python package {package} cannot be imported",
            str(err),
            f"install it for the Python of QGIS (python3 -m pip install {package}; on Debian and Ubuntu the README names the apt package)",
        ) from err

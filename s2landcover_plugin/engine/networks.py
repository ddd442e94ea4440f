"""A network in onnxruntime: opened safely, run in batches, and what its graph and its answers say about it."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import numpy as np

from .errors import Cancelled, EngineError
from .onnx_file import OnnxFacts, file_stamp
from .packages import require
from .progress import Progress
from .waiting import in_background

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
PREFERENCE = ("cuda", "directml", "coreml", "openvino", "cpu")
"""What `auto` takes: the first that the installed runtime has."""
INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(uint16)": "uint16"}
MEMORY_WORDS = ("failed to allocate", "out of memory", "bad allocation", "bad_alloc", "alloc_failed", "not enough memory")
TOO_NEW_WORDS = ("ir version", "opset", "under development")
FATAL = 4
"""Severity of the runtime's messages that reach the console: none of its warnings."""


@dataclass(frozen=True)
class InputFacts:
    """The one image input of a network.

    Attributes:
        shape: sizes of its four dimensions; None where free.
        dtype: name of the NumPy type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Network:
    """A network ready to run. Can be sent to another process, where it is opened again; runs one batch at a time.

    Attributes:
        input: its image input.
        provider: the name (of PROVIDERS) that really runs it.
    """

    def __init__(self, path: str, facts: OnnxFacts, provider: str = "auto", threads: int = 0) -> None:
        """
        Args:
            facts: from inspect_model, so that the file has been checked.
            threads: of one run; 0: one for each core.

        Raises:
            EngineError: the runtime cannot run it, or it takes something else than one image.
        """
        self.path = path
        self.facts = facts
        self.asked = provider
        self.threads = threads
        self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "facts": self.facts, "asked": self.asked, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        runtime = require("onnxruntime")
        available = {name: full for name, full in PROVIDERS.items() if full in runtime.get_available_providers()}
        if self.asked != "auto" and self.asked not in available:
            fix = f"choose from {', '.join(('auto', *available))}, or install the onnxruntime package that has it"
            raise EngineError(f"The installed onnxruntime has no provider {self.asked}", "PROVIDER", fix)
        wanted = [self.asked] if self.asked != "auto" else [name for name in PREFERENCE if name in available]
        options = runtime.SessionOptions()
        options.log_severity_level = FATAL
        options.intra_op_num_threads = self.threads or os.cpu_count() or 1
        names = list(dict.fromkeys([*(available[name] for name in wanted), PROVIDERS["cpu"]]))
        try:
            self._session = runtime.InferenceSession(self.path, options, providers=names)
        except Exception as err:  # the runtime's exceptions have no common class
            raise self._refusal(str(err), str(runtime.__version__)) from err
        if file_stamp(self.path) != self.facts.stamp:
            raise EngineError("The model was changed while it was opened", self.path, "run again when nobody writes to it")
        used = self._session.get_providers()[0]
        self.provider = next((name for name, full in PROVIDERS.items() if full == used), used)
        try:
            self.input = self._image_input()
        except UnicodeDecodeError as err:
            raise EngineError("The model has names that are no text", self.path, "the file is damaged: get it again") from err
        self._lock = threading.Lock()
        self._watch: Progress | None = None
        self._run_options = runtime.RunOptions()
        self._run_options.log_severity_level = FATAL
        self._largest = 2**31

    def _refusal(self, said: str, version: str) -> EngineError:
        text = " ".join(said.split())[:300]
        if any(word in said.lower() for word in TOO_NEW_WORDS):
            stated = f"IR version {self.facts.ir_version}, opset {self.facts.opsets.get('', '?')}"
            fix = f"it needs a newer onnxruntime, you have {version}; update it, or export the model with an older opset"
            return EngineError(f"The model is newer than the runtime ({stated})", self.path, fix)
        if "not a registered function" in said.lower():
            return EngineError(f"The model has an operator that onnxruntime {version} does not know ({text})", self.path, "export it anew")
        return EngineError(f"The model cannot be loaded ({text})", self.path, "export it anew, and check it with onnx.checker")

    def _image_input(self) -> InputFacts:
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs[:5])
            fix = "use a model with one image input"
            raise EngineError(f"The model takes {len(inputs)} inputs ({names}), not one image", self.path, fix)
        (only,) = inputs
        if len(only.shape) != 4:
            what = f"The model takes an input with {len(only.shape)} dimensions, not the 4 of a batch of images"
            fix = "use a model for single images (no time series, no volumes)"
            raise EngineError(what, f"{self.path}, input {only.name} {only.shape}", fix)
        if only.type not in INPUT_TYPES:
            fix = f"export it with an input of {', '.join(INPUT_TYPES.values())}"
            raise EngineError(f"The model takes numbers of a type that is not known ({only.type})", self.path, fix)
        shape = tuple(size if isinstance(size, int) and size > 0 else None for size in only.shape)
        return InputFacts(only.name, shape, INPUT_TYPES[only.type])

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """All outputs for a batch in the network's own layout and type.

        Where the device has too little memory the batch is halved, now and from then on.

        Raises:
            EngineError: the network fails, or was told to stop.
            Cancelled: the user asked to stop, while it was watched.
        """
        batch = np.ascontiguousarray(batch)
        if self._watch is None:
            return self._in_turn(batch)
        try:
            return in_background(lambda _: self._in_turn(batch), self._watch)
        except Cancelled:
            self.stop()
            raise

    def _in_turn(self, batch: np.ndarray) -> list[np.ndarray]:
        with self._lock:
            return self._run(batch)

    @contextlib.contextmanager
    def watched(self, progress: Progress) -> Iterator[None]:
        """Ends runs early meanwhile when the user asks to stop; for runs of the thread that `progress` belongs to."""
        self._watch = progress
        try:
            yield
        finally:
            self._watch = None

    def stop(self) -> None:
        """End the run that is going on, and refuse others: large tiles take seconds."""
        self._run_options.terminate = True

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        fixed = self.input.shape[0]
        step = min(fixed or len(batch), self._largest)
        try:
            parts = [self._once(batch[start : start + step], fixed) for start in range(0, len(batch), step)]
        except Exception as err:  # as above
            text = " ".join(str(err).split())
            if step > 1 and not fixed and any(word in text.lower() for word in MEMORY_WORDS):
                self._largest = step // 2
                return self._run(batch)
            raise EngineError(f"The model cannot be run ({text[:300]})", self.path, self._advice(text, batch)) from err
        return [np.concatenate(arrays) if len(parts) > 1 else arrays[0] for arrays in zip(*parts)]

    def _once(self, batch: np.ndarray, fixed: int | None) -> list[np.ndarray]:
        lacking = (fixed or 0) - len(batch)
        if lacking > 0:
            batch = np.concatenate([batch, np.repeat(batch[-1:], lacking, axis=0)])
        outputs: list[np.ndarray] = self._session.run(None, {self.input.name: batch}, self._run_options)
        return [each[:-lacking] if lacking > 0 else each for each in outputs]

    @staticmethod
    def _advice(text: str, batch: np.ndarray) -> str:
        if any(word in text.lower() for word in MEMORY_WORDS):
            return "there is too little memory: use a smaller TILE_SIZE, or PROVIDER cpu"
        return f"its input was {batch.shape} {batch.dtype}: check BANDS and TILE_SIZE"

    @property
    def output_shapes(self) -> list[tuple[Any, ...]]:
        """Shapes that the graph states for its outputs."""
        return [tuple(each.shape) for each in self._session.get_outputs()]


def layout_of(shape: Sequence[int | None], n_bands: int | None) -> tuple[str, str]:
    """NCHW or NHWC of an input, and why: where a small fixed number stands beside free or larger ones.

    Args:
        n_bands: bands that were asked for, if any.
    """
    _, second, third, last = shape
    if n_bands is not None and (second == n_bands) != (last == n_bands):
        return ("NCHW" if second == n_bands else "NHWC"), "graph"
    if second is not None and last is None:
        return "NCHW", "graph"
    if last is not None and second is None:
        return "NHWC", "graph"
    if second is not None and last is not None and second != last:
        return ("NCHW" if second < last else "NHWC"), "graph"
    return "NCHW", "assumed"

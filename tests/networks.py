"""Tiny networks made with onnx.helper, and what plain onnxruntime says of a whole image."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16}


class Net:
    """A graph that grows node by node; `x` is the input as NCHW float32 (or float16)."""

    def __init__(self, bands=3, *, dtype="float32", layout="NCHW", size=(None, None), batch=None, seed=0, name="image"):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.count = [], [], 0
        rows, columns = (each or side for each, side in zip(size, ("rows", "columns")))
        shape = [batch or "batch", bands, rows, columns] if layout == "NCHW" else [batch or "batch", rows, columns, bands]
        self.inputs = [helper.make_tensor_value_info(name, TYPES[dtype], shape)]
        self.outputs = []
        self.bands, self.layout = bands, layout
        self.kind = np.float16 if dtype == "float16" else np.float32
        self.x = name
        if layout == "NHWC":
            self.add("Transpose", perm=[0, 3, 1, 2])
        if dtype.startswith("uint"):
            self.add("Cast", to=TensorProto.FLOAT)

    def add(self, op, *more, given=None, domain="", **attributes):
        """Append a node that takes what there is (and more), and go on with its output."""
        self.count += 1
        out = f"v{self.count}"
        self.nodes.append(helper.make_node(op, [given or self.x, *more], [out], domain=domain, **attributes))
        self.x = out
        return self

    def constant(self, values):
        """A constant's name."""
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(values), f"c{self.count}"))
        return f"c{self.count}"

    def scale(self, factor):
        return self.add("Mul", self.constant(self.kind(factor)))

    def conv(self, channels, kernel=3, *, pad=True, stride=1, gain=1.0):
        """A convolution with random weights."""
        weights = self.rng.normal(0, gain / np.sqrt(self.bands * kernel**2), (channels, self.bands, kernel, kernel))
        self.bands = channels
        rim = kernel // 2 if pad else 0
        return self.add("Conv", self.constant(weights.astype(self.kind)), pads=[rim] * 4, strides=[stride, stride])

    def body(self, classes=4, scale=1.0):
        """Two convolutions: a reach of 2 pixels."""
        return self.scale(scale).conv(8, gain=4).add("Relu").conv(classes, gain=4)

    def output(self, dtype=TensorProto.FLOAT, rank=4, name="classes"):
        """What there is becomes an output."""
        self.nodes.append(helper.make_node("Identity", [self.x], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, [None] * rank))
        return self

    def save(self, path, *, metadata=None, opset=17, ir=8, domains=(), external=None):
        """Write the file; returns its path as text."""
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
        for key, value in (metadata or {}).items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value
        if external:
            onnx.save_model(model, str(path), save_as_external_data=True, location=external, size_threshold=0, convert_attribute=False)
        else:
            path.write_bytes(model.SerializeToString())
        return str(path)


def whole_image(path, image, index=0):
    """The output of plain onnxruntime on a whole image (bands, rows, cols) in the network's layout."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image[np.newaxis]})[index][0]

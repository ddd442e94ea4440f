"""Networks in int8: used where the map stays the same, else not."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import onnx
import pytest

from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.segmenting import SegmentOptions, SegmentOutputs, run_segmentation

from .conftest import Messages, read, write_raster
from .networks import Net, whole_image

NAMES = ("B04", "B03", "B02")
COVERS = np.array([(300, 500, 400), (2000, 1500, 1000), (900, 2200, 600), (3500, 3400, 3300)])
"""DN of four covers in three bands, far from each other."""


@pytest.fixture
def scene(tmp_path):
    """Fields of four covers with noise: (path, DN)."""
    rng = np.random.default_rng(3)
    kinds = rng.integers(0, 4, (30, 34)).repeat(9, 0).repeat(9, 1)
    pixels = np.moveaxis(COVERS[kinds], -1, 0) + rng.normal(0, 60, (3, *kinds.shape))
    pixels = pixels.astype(np.uint16)
    return write_raster(tmp_path / "scene.tif", pixels, names=NAMES, scale=(1e-4, 0)), pixels


@pytest.fixture
def temp(tmp_path, monkeypatch):
    """An empty folder for everything temporary."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def nearest(levels=1):
    """A network that gives the nearest cover: -|x - c|^2 without the part that all share; `levels` of brightness for each cover."""
    net = Net()
    centers = (COVERS[:, np.newaxis] / 1e4 * np.linspace(0.8, 1.2, levels)[:, np.newaxis] if levels > 1 else COVERS / 1e4).reshape(-1, 3)
    weights = (2 * centers)[:, :, np.newaxis, np.newaxis].astype(np.float32)
    # what goes in comes out of the first: three channels pass a rectifier unchanged
    net.add("Conv", net.constant(np.eye(3, dtype=np.float32)[:, :, np.newaxis, np.newaxis])).add("Relu")
    net.add("Conv", net.constant(weights), net.constant(-(centers**2).sum(axis=1).astype(np.float32)))
    return net.scale(200).output()


def segment(model, scene, folder, messages=None, **options):
    progress = messages.progress if messages else Progress()
    target = str(folder / "classes.tif")
    outputs = SegmentOutputs(target, probabilities=str(folder / "p.tif"))
    report = run_segmentation(scene, model, outputs, SegmentOptions(probability_type="float", **options), progress)
    return read(target)[0], read(str(folder / "p.tif")), {each.what: each.value for each in report.decisions}


def test_a_map_that_stays_the_same_is_made_in_int8(tmp_path, scene, temp):
    source, pixels = scene
    model = nearest().save(tmp_path / "m.onnx")
    answers = whole_image(model, (pixels / 1e4).astype(np.float32))
    codes, shares, decided = segment(model, source, tmp_path, quantize=True)
    assert not os.listdir(temp)
    assert decided["precision"].startswith("int8")
    assert (codes == answers.argmax(0) + 1).mean() >= 0.995
    # rounded to 8 bits, so not what float32 gives
    _, exact, _ = segment(model, source, tmp_path)
    assert 0 < np.abs(shares - exact).max() and np.abs(shares - exact).mean() < 0.02


def test_a_map_that_would_change_is_made_in_float32(tmp_path, scene):
    source, pixels = scene
    model = nearest(levels=40).save(tmp_path / "m.onnx")
    messages = Messages()
    codes, shares, decided = segment(model, source, tmp_path, messages, quantize=True)
    assert decided["precision"].startswith("float32") and "99.5%" in decided["precision"]
    assert any("QUANTIZE" in text for text in messages.warnings)
    assert (codes == whole_image(model, (pixels / 1e4).astype(np.float32)).argmax(0) + 1).mean() > 0.9999
    exact = segment(model, source, tmp_path)
    assert np.array_equal(codes, exact[0]) and np.array_equal(shares, exact[1])


def test_the_share_that_keeps_its_class_is_true(tmp_path, scene):
    """Of a network between the two, the share in the decision is about that of the whole map in int8, made here by onnxruntime alone."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source, pixels = scene
    model = nearest(levels=40).save(tmp_path / "m.onnx")
    *_, decided = segment(model, source, tmp_path, quantize=True)
    image = (pixels / 1e4).astype(np.float32)
    inputs = iter([{"image": image[np.newaxis]}])

    class All:
        def get_next(self):
            return next(inputs, None)

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    own = str(tmp_path / "int8.onnx")
    quantize_static(model, own, All(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], **kinds)
    same = (whole_image(own, image).argmax(0) == whole_image(model, image).argmax(0)).mean()
    told = float(decided["precision"].split("only ")[1].split("%")[0]) / 100
    assert told == pytest.approx(same, abs=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "NHWC"},
        {"dtype": "uint16"},
        {"size": (64, 64)},
        {"size": (64, 64), "batch": 3},
    ],
    ids=str,
)
def test_every_kind_of_input(tmp_path, scene, options):
    source, pixels = scene
    net = Net(**options)
    if options.get("dtype"):
        net.scale(1e-4)
    weights = (2 * COVERS / 1e4)[:, :, np.newaxis, np.newaxis].astype(np.float32)
    net.add("Conv", net.constant(weights), net.constant(-((COVERS / 1e4) ** 2).sum(axis=1).astype(np.float32)))
    model = net.output().save(tmp_path / "m.onnx")
    codes, _, decided = segment(model, source, tmp_path, quantize=True, output_kind="logits")
    expected = ((pixels[np.newaxis].astype(float) - COVERS[:, :, np.newaxis, np.newaxis]) ** 2).sum(axis=1).argmin(0) + 1
    assert decided["precision"].startswith("int8")
    assert (codes == expected).mean() > 0.99


def test_one_class_with_a_threshold(tmp_path, scene):
    source, pixels = scene
    net = Net()
    weights = np.zeros((1, 3, 1, 1), np.float32)
    weights[0, 0] = 100
    net.add("Conv", net.constant(weights), net.constant(np.array([-28], np.float32))).add("Sigmoid").output()
    codes, _, decided = segment(net.save(tmp_path / "m.onnx"), source, tmp_path, quantize=True)
    assert decided["precision"].startswith("int8")
    assert ((codes == 2) == (pixels[0] > 2800)).mean() > 0.99


def test_too_small_a_raster(tmp_path):
    source = write_raster(tmp_path / "small.tif", np.full((3, 60, 60), 500, np.uint16), names=NAMES, scale=(1e-4, 0))
    net = Net(size=(64, 64)).conv(4)
    *_, decided = segment(net.output().save(tmp_path / "m.onnx"), source, tmp_path, quantize=True)
    assert "too small" in decided["precision"]


def test_without_the_package(tmp_path, scene, monkeypatch):
    model = nearest().save(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match="onnx"):
        segment(model, scene[0], tmp_path, quantize=True)
    assert not (tmp_path / "classes.tif").exists()


def test_a_model_that_cannot_be_quantised(tmp_path, scene, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no such thing")

    source, pixels = scene
    model = nearest().save(tmp_path / "m.onnx")
    monkeypatch.setattr("onnxruntime.quantization.quantize_static", refuse)
    codes, _, decided = segment(model, source, tmp_path, quantize=True)
    assert "no such thing" in decided["precision"]
    assert (codes == whole_image(model, (pixels / 1e4).astype(np.float32)).argmax(0) + 1).all()


def test_cancel(tmp_path, scene, temp, monkeypatch):
    """Seen while the copy is calibrated; nothing is left."""
    model = nearest().save(tmp_path / "m.onnx")
    asked = []
    real = onnx.load

    def load(*args, **kwargs):
        asked.append(True)
        return real(*args, **kwargs)

    monkeypatch.setattr("onnx.load", load)
    progress = Progress(is_cancelled=lambda: bool(asked))
    with pytest.raises(Cancelled):
        run_segmentation(scene[0], model, SegmentOutputs(str(tmp_path / "c.tif")), SegmentOptions(quantize=True), progress)
    assert not (tmp_path / "c.tif").exists()
    assert not os.listdir(temp)

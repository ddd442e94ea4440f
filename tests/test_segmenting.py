"""Segmentation by ONNX networks: every tile as if the network had seen the whole image, and models as they come."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from osgeo import gdal
from scipy import ndimage

from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.networks import Network
from s2landcover_plugin.engine.onnx_file import inspect_model
from s2landcover_plugin.engine.probing import OutputFacts
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe, read_legend
from s2landcover_plugin.engine.segmentation import Segment, Tiling, Wanted, largest_plane, uncertainty
from s2landcover_plugin.engine.segmenting import SegmentOptions, SegmentOutputs, run_segmentation

from .conftest import Messages, read, shared_data, write_raster
from .networks import Net, whole_image

NAMES = ("B04", "B03", "B02")
RIM = 8
"""Pixels at the edge of a raster, where padding decides."""


def image(rows=150, columns=170, bands=3, seed=0, dtype=np.uint16, high=4000):
    """Random DN of coarse and fine structure; the coarse one is 7 px wide, so that it does not fall on the lines between tiles."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((bands, rows // 7 + 2, columns // 7 + 2)).repeat(7, 1).repeat(7, 2)[:, :rows, :columns]
    return (1 + coarse * high * 0.8 + rng.random((bands, rows, columns)) * high * 0.2).astype(dtype)


@pytest.fixture
def raster(tmp_path):
    """Three bands of DN: (path, pixels)."""
    pixels = image()
    return write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0)), pixels


def segment(model, source, folder, options=None, messages=None, **outputs):
    """Run; returns the classes and the report."""
    target = str(folder / "classes.tif")
    paths = {name: str(folder / file) for name, file in outputs.items()}
    progress = messages.progress if messages else Progress()
    report = run_segmentation(source, model, SegmentOutputs(target, **paths), options or SegmentOptions(), progress)
    return read(target)[0], report


def expected_classes(path, pixels):
    """Codes of the whole image by plain onnxruntime, from reflectance in the network's layout."""
    return whole_image(path, pixels).argmax(0) + 1


def decided(report, what):
    """(value, source) of a decision."""
    return next((each.value, each.source) for each in report.decisions if each.what == what)


@pytest.mark.parametrize("tile", [0, 16, 31, 64, 100, 512])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_tiles_equal_the_whole_image(tmp_path, raster, tile, batch):
    source, pixels = raster
    model = Net().body().output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=tile, batch_size=batch))
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    assert (codes[inner] != expected[inner]).sum() == 0
    assert report.tiling.margin == 2 and report.tiling.multiple == 1 and report.tiling.exact
    assert decided(report, "margin") == ("2 px", "measured")
    assert sum(report.pixels) == pixels[0].size and report.hectares[0] == pytest.approx(0.01 * report.pixels[0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (15, 15), (16, 16), (17, 17), (16, 17), (3, 200), (33, 16)])
@pytest.mark.parametrize("padding", ["reflect", "edge"])
def test_rasters_smaller_than_a_tile_and_thin_ones(tmp_path, shape, padding):
    """As if NumPy had padded the image, which is long enough for the network to forget its own zeros."""
    pixels = image(*shape)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = Net().body().output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=16, padding=padding))
    margin = report.tiling.margin
    padded = np.pad((pixels / 10000).astype(np.float32), ((0, 0), (margin, margin), (margin, margin)), mode=padding)
    expected = expected_classes(model, padded)[margin:-margin, margin:-margin]
    np.testing.assert_array_equal(codes, expected)


def nhwc(net):
    return net.add("Transpose", perm=[0, 2, 3, 1])


CASES = {
    "NHWC": (lambda: nhwc(Net(layout="NHWC").body()).output(), lambda x: np.moveaxis(x, 0, -1), lambda y: y.argmax(-1)),
    "NHWC in, NCHW out": (lambda: Net(layout="NHWC").body().output(), lambda x: np.moveaxis(x, 0, -1), lambda y: y.argmax(0)),
    "softmax": (lambda: Net().body().add("Softmax", axis=1).output(), None, lambda y: y.argmax(0)),
    "one channel, logit": (lambda: Net().body(1).output(), None, lambda y: (y[0] >= 0).astype(int)),
    "one channel, sigmoid": (lambda: Net().body(1).add("Sigmoid").output(), None, lambda y: (y[0] >= 0.5).astype(int)),
    "index map int64": (lambda: Net().body().add("ArgMax", axis=1, keepdims=0).output(TensorProto.INT64, 3), None, lambda y: y),
    "index map with a channel": (lambda: Net().body().add("ArgMax", axis=1, keepdims=1).output(TensorProto.INT64), None, lambda y: y[0]),
    "index map uint8": (
        lambda: Net().body().add("ArgMax", axis=1, keepdims=0).add("Cast", to=TensorProto.UINT8).output(TensorProto.UINT8, 3),
        None,
        lambda y: y.astype(int),
    ),
    "index map of real numbers": (
        lambda: Net().body(6).add("ArgMax", axis=1, keepdims=1).add("Cast", to=TensorProto.FLOAT).output(),
        None,
        lambda y: y[0].astype(int),
    ),
    "fixed batch": (lambda: Net(batch=1).body().output(), None, lambda y: y.argmax(0)),
    "smaller than its input": (lambda: Net().conv(8, 3, pad=False, gain=4).add("Relu").conv(4, 3, pad=False).output(), None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_of_every_kind(tmp_path, raster, case):
    source, pixels = raster
    build, arrange, decide = CASES[case]
    model = build().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=40))
    reflectance = (pixels / 10000).astype(np.float32)
    found = whole_image(model, arrange(reflectance) if arrange else reflectance)
    expected = np.pad(found.argmax(0), 2) if decide is None else decide(found)
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    np.testing.assert_array_equal(codes[inner], expected[inner] + 1)
    assert len(np.unique(expected[inner])) > 1, "a test that can fail"
    # of an index map twice what is seen, and that is not called exact
    assert (report.tiling.margin, report.tiling.exact) == ((4, False) if "index" in case else (2, True))


@pytest.mark.parametrize("batch", [2, 4])
def test_fixed_size_and_batch(tmp_path, raster, batch):
    """64 x 64, so many at once: the last batch is filled up."""
    source, pixels = raster
    model = Net(size=(64, 64), batch=batch).body().output().save(tmp_path / "m.onnx")
    free = Net().body().output().save(tmp_path / "free.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=256))
    expected = expected_classes(free, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert report.tiling.tile == 64 and decided(report, "tile size")[1] == "graph"


@pytest.mark.parametrize(("dtype", "scale", "kind"), [("float16", 1.0, "/10000"), ("uint16", 1e-4, "none"), ("uint8", 1 / 255, "*255")])
def test_types_of_the_input(tmp_path, raster, dtype, scale, kind):
    source, pixels = raster
    net = Net(dtype=dtype).body(4, scale)
    model = (net.add("Cast", to=TensorProto.FLOAT) if dtype == "float16" else net).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    given = {"float16": pixels / 10000, "uint16": pixels, "uint8": np.rint(pixels / 10000 * 255)}[dtype].astype(dtype)
    expected = expected_classes(model, given)
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    # half precision is computed in another order for other shapes
    assert (codes[inner] != expected[inner]).mean() <= (0.01 if dtype == "float16" else 0)
    assert decided(report, "type of the input") == (dtype, "graph")


def test_numbers_never_wrap(tmp_path):
    """DN up to 65535 into a byte network with SCALE none: 255, not the remainder."""
    pixels = image(high=60000)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = Net(dtype="uint8").body(4, 1 / 255).output().save(tmp_path / "m.onnx")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50, scale="none"))
    expected = expected_classes(model, np.minimum(pixels, 255).astype(np.uint8))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])


@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_networks_that_halve_their_input(tmp_path, raster, multiple):
    """Origins and sizes on the multiple, which is measured."""
    source, pixels = raster
    net = Net().conv(8, gain=4).add("Relu")
    net.add("MaxPool", kernel_shape=[multiple] * 2, strides=[multiple] * 2).conv(8, gain=4)
    net.add("Resize", "", net.constant(np.array([1, 1, multiple, multiple], np.float32)), mode="nearest").conv(4, gain=4).output()
    model = net.save(tmp_path / "m.onnx")
    padded = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 8), (0, -pixels.shape[2] % 8)), mode="reflect")
    expected = expected_classes(model, (padded / 10000).astype(np.float32))[: pixels.shape[1], : pixels.shape[2]]
    for tile in (33, 50, 64):
        codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=tile))
        inner = np.s_[3 * multiple + RIM : -3 * multiple - RIM, 3 * multiple + RIM : -3 * multiple - RIM]
        np.testing.assert_array_equal(codes[inner], expected[inner])
        assert decided(report, "tiles begin on multiples of") == (f"{multiple} px", "measured")
        assert report.tiling.tile % multiple == report.tiling.margin % multiple == report.tiling.step % multiple == 0


def test_answers_at_half_the_resolution(tmp_path, raster):
    source, pixels = raster
    model = Net().conv(8, gain=4).add("Relu").conv(4, 2, pad=False, stride=2).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=64))
    found = whole_image(model, (pixels / 10000).astype(np.float32)).argmax(0) + 1
    expected = found.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert "1 / 2" in decided(report, "size of the answers")[0]


def unet(levels, *, scale_to="skip"):
    """A U-Net with skip connections: halved `levels` times, doubled again."""
    net = Net().conv(6, gain=4).add("Relu")
    skips = []
    for _ in range(levels):
        skips.append((net.x, net.bands))
        net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).conv(6, gain=4).add("Relu")
    for skip, bands in reversed(skips):
        net.add("Resize", "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
        net.add("Concat", skip, axis=1)
        net.bands += bands
        net.conv(6, gain=4).add("Relu")
    return net.conv(4, 1)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_u_nets_of_every_depth(tmp_path, levels):
    """Rasters whose sides are on no multiple: what the reach is, 128 pixels may not tell."""
    pixels = image(331, 345)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = unet(levels).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path)
    padded = np.pad(pixels, ((0, 0), (0, -331 % 16), (0, -345 % 16)), mode="reflect")
    expected = expected_classes(model, (padded / 10000).astype(np.float32))[:331, :345]
    rim = report.tiling.margin + 16
    assert report.tiling.exact and report.tiling.multiple == 2**levels
    assert (codes != expected)[rim:-rim, rim:-rim].sum() == 0


@pytest.mark.parametrize(("patch", "kernel"), [(8, 7), (14, 3), (16, 7), (32, 3)])
def test_networks_that_cut_patches(tmp_path, patch, kernel):
    """As vision transformers begin; of 14 px, which do not divide the pieces that are tried, the run asks for `multiple`."""
    pixels = image(420, 448)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    net = Net().conv(8, patch, pad=False, stride=patch, gain=4).conv(4, kernel, gain=4)
    net.add("Resize", "", net.constant(np.array([1, 1, patch, patch], np.float32)), mode="nearest").output()
    model = net.save(tmp_path / "m.onnx")
    try:
        codes, report = segment(model, source, tmp_path)
    except EngineError as err:
        assert patch == 14 and "cannot be told where they belong" in str(err) and "multiple" in err.fix
        (tmp_path / "m.json").write_text(json.dumps({"multiple": 14}))
        codes, report = segment(model, source, tmp_path)
    expected = expected_classes(model, (pixels / 10000).astype(np.float32)[:, : 420 // patch * patch, : 448 // patch * patch])
    rim = report.tiling.margin + patch
    inner = np.s_[rim : expected.shape[0] - rim, rim : expected.shape[1] - rim]
    assert report.tiling.exact and report.tiling.multiple == patch and (codes[inner] != expected[inner]).sum() == 0


@pytest.mark.parametrize("pads", [[8, 8, 0, 0], [0, 0, 8, 8], [8, 0, 0, 8]])
def test_networks_that_look_one_way(tmp_path, raster, pads):
    source, pixels = raster
    net = Net()
    weights = net.constant(net.rng.normal(0, 0.3, (4, 3, 9, 9)).astype(np.float32))
    model = net.add("Conv", weights, pads=pads).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=64))
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    assert report.tiling.margin == 8 and (codes != expected)[9:-9, 9:-9].sum() == 0


def test_of_several_outputs_the_named_one(tmp_path, raster, messages):
    """Features first, then classes: as many as there are names."""
    source, pixels = raster
    net = Net().scale(1.0).conv(16, gain=4).add("Relu").output(name="features")
    model = net.conv(4, gain=4).output(name="classes").save(tmp_path / "m.onnx")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(class_names="a,b,c,d", tile_size=64), messages)
    expected = whole_image(model, (pixels / 10000).astype(np.float32), 1).argmax(0) + 1
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert any("number 2 is taken" in text for text in messages.warnings)


def test_a_model_that_is_exchanged_is_not_run(tmp_path, raster, monkeypatch):
    source, _ = raster
    model = Net().body(4).output().save(tmp_path / "m.onnx")
    other = Net().body(7).output().save(tmp_path / "other.onnx")
    facts = inspect_model(model)
    os.replace(other, model)
    with pytest.raises(EngineError, match="changed while it was opened"):
        Network(model, facts, "cpu")


def test_black_is_a_colour_in_pictures(tmp_path):
    pixels = image(dtype=np.uint8, high=250)
    pixels[2, ::5] = 0
    source = write_raster(tmp_path / "photo.tif", pixels, nodata=None)
    model = Net().body().output().save(tmp_path / "m.onnx")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    assert (codes > 0).all()


def everything(folder, **more):
    """A network in which every pixel's class depends on the mean of the tile."""
    net = Net(**more).body(4)
    before = net.x
    mean = net.add("GlobalAveragePool").x
    return net.add("Sub", mean, given=before).output().save(folder / "global.onnx")


@pytest.mark.parametrize("fixed", [False, True])
def test_a_network_that_sees_everything_has_no_seams(tmp_path, messages, fixed):
    """Tiles fade into each other: classes change across their lines no more often than elsewhere; cut tiles do."""
    # light and shade of some 40 px: the mean of a tile differs from that of its neighbour
    shade = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=(3, 500, 560)), (0, 20, 20))
    pixels = np.clip(image(500, 560, high=800) + 1500 + 40000 * shade, 1, 9000).astype(np.uint16)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = everything(tmp_path, **({"size": (64, 64)} if fixed else {}))
    _, report = segment(model, source, tmp_path, SegmentOptions(tile_size=64), messages)
    assert not report.tiling.exact and report.tiling.blended and report.tiling.margin == 16
    assert any("overlap by 32 px" in text for text in messages.warnings)
    assert report.seam_ratio <= 1.05 and not report.has_seams
    assert decided(report, "tiles")[0] == "fade into each other over 32 px"
    stated = {"margin": 8, "multiple": 1}
    (tmp_path / "global.json").write_text(json.dumps(stated))
    _, cut = segment(model, source, tmp_path, SegmentOptions(tile_size=64))
    assert not cut.tiling.blended and cut.seam_ratio > 1.3, "a picture in which seams would show"


def test_fading_is_the_weighted_mean_of_whole_tiles(tmp_path):
    """By hand: tiles of 32 every 16 pixels over the padded image, weights that rise over 16 pixels."""
    pixels = image(90, 100)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = everything(tmp_path)
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=32), probabilities="p.tif")
    tile, margin, step = report.tiling.tile, report.tiling.margin, report.tiling.step
    assert (tile, margin, step) == (32, 8, 16)
    reach = margin + 2 * step
    padded = np.pad((pixels / 10000).astype(np.float32), ((0, 0), (reach, reach + step), (reach, reach + step)), mode="reflect")
    total = np.zeros((4, *padded.shape[1:]))
    ramp = np.minimum(np.minimum((np.arange(tile) + 0.5) / 16, 1), np.minimum((np.arange(tile)[::-1] + 0.5) / 16, 1))
    for y in range(step, padded.shape[1] - tile + 1, step):
        for x in range(step, padded.shape[2] - tile + 1, step):
            logits = whole_image(model, np.ascontiguousarray(padded[:, y : y + tile, x : x + tile]))
            powers = np.exp(logits - logits.max(0))
            total[:, y : y + tile, x : x + tile] += powers / powers.sum(0) * np.outer(ramp, ramp)
    expected = total[:, reach : reach + 90, reach : reach + 100]
    inner = np.s_[:, 20:-20, 20:-20]
    np.testing.assert_allclose(expected.sum(0)[inner[1:]], 1, atol=1e-6)
    assert np.abs(read(tmp_path / "p.tif") / 254 - expected)[inner].max() < 0.5 / 254 + 1e-5
    assert (codes[inner[1:]] != expected.argmax(0)[inner[1:]] + 1).mean() < 1e-3


@pytest.mark.parametrize(("block", "batch"), [(1, 1), (2, 5), (9, 2)])
def test_fading_does_not_depend_on_windows(tmp_path, monkeypatch, block, batch):
    pixels = image(150, 140)
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = everything(tmp_path)
    usual, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=32))
    monkeypatch.setattr("s2landcover_plugin.engine.network_setup.BLENDED_ROWS", block)
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=32, batch_size=batch))
    assert (codes != usual).mean() < 1e-4, "but for rounding"


def test_probabilities_and_uncertainty(tmp_path, raster):
    source, pixels = raster
    model = Net().body().output().save(tmp_path / "m.onnx", metadata={"class_names": '["water", "trees", "crops", "built"]'})
    given = {"probabilities": "p.tif", "uncertainty": "u.tif"}
    logits = whole_image(model, (pixels / 10000).astype(np.float32)).astype(np.float64)
    expected = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    inner = np.s_[:, RIM:-RIM, RIM:-RIM]
    for kind, tolerance in (("float", 1e-5), ("byte", 0.5 / 254 + 1e-6)):
        segment(model, source, tmp_path, SegmentOptions(tile_size=50, probability_type=kind), **given)
        info = describe(str(tmp_path / "p.tif"))
        assert [band.name for band in info.bands] == ["water", "trees", "crops", "built"]
        found = read(tmp_path / "p.tif").astype(float) * (info.bands[0].scale or 1)
        assert np.abs(found - expected)[inner].max() <= tolerance
    entropy, margin = read(tmp_path / "u.tif")
    wanted = -(expected * np.log(expected)).sum(0) / np.log(4)
    np.testing.assert_allclose(entropy[RIM:-RIM, RIM:-RIM], wanted[RIM:-RIM, RIM:-RIM], atol=1e-4)
    ordered = np.sort(expected, axis=0)
    np.testing.assert_allclose(margin[RIM:-RIM, RIM:-RIM], (ordered[-1] - ordered[-2])[RIM:-RIM, RIM:-RIM], atol=1e-4)


def test_uncertainty_at_its_ends():
    sure, unsure = np.array([1.0, 0, 0]), np.full(3, 1 / 3)
    entropy, margin = uncertainty(np.stack([sure, unsure], axis=1)[:, None, :])
    np.testing.assert_allclose(entropy, [[0, 1]], atol=1e-6)
    np.testing.assert_allclose(margin, [[1, 0]], atol=1e-6)


def test_augmentation_is_the_mean_of_eight(tmp_path, raster):
    source, pixels = raster
    model = Net().body().add("Softmax", axis=1).output().save(tmp_path / "m.onnx")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50, augment=True))
    reflectance = (pixels / 10000).astype(np.float32)
    total = 0
    for turns in range(4):
        for flip in (1, -1):
            turned = np.ascontiguousarray(np.rot90(reflectance[:, :, ::flip], turns, (1, 2)))
            total = total + np.rot90(whole_image(model, turned), -turns, (1, 2))[:, :, ::flip]
    inner = np.s_[RIM:-RIM, RIM:-RIM]
    assert (codes[inner] != total.argmax(0)[inner] + 1).mean() < 1e-4
    plain, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    assert (plain != codes).any()


def test_invalid_pixels_stay_so(tmp_path):
    pixels = image()
    pixels[:, 40:90, 30:120] = 0
    pixels[1, 5, 5] = 0
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = Net().body().output().save(tmp_path / "m.onnx")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=32))
    np.testing.assert_array_equal(codes == 0, (pixels == 0).any(0))


DEEPNESS = {
    "model_type": '"Segmentor"',
    "class_names": '{"0": "_background", "1": "road", "2": "roof", "3": "water"}',
    "resolution": "1000",
    "tiles_size": "48",
    "tiles_overlap": "10",
    "standardization_mean": "[0.2, 0.1, 0.15]",
    "standardization_std": "[0.1, 0.12, 0.2]",
}


def test_metadata_of_deepness(tmp_path, raster, messages):
    source, pixels = raster
    model = Net().body().output().save(tmp_path / "m.onnx", metadata=DEEPNESS)
    codes, report = segment(model, source, tmp_path, messages=messages)
    mean, std = np.array([0.2, 0.1, 0.15])[:, None, None], np.array([0.1, 0.12, 0.2])[:, None, None]
    expected = expected_classes(model, ((pixels / 10000 - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert [each.name for each in report.legend] == ["_background", "road", "roof", "water"]
    assert decided(report, "names of classes")[1] == decided(report, "tile size")[1] == decided(report, "scaling")[1] == "metadata"
    assert report.tiling.tile <= 48 and report.tiling.margin == 2 and not messages.warnings


def test_older_keys_and_python_literals(tmp_path, raster):
    source, _ = raster
    metadata = {"names": "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}", "tile_size": "40", "seg_thresh": "0.3"}
    model = Net().body().output().save(tmp_path / "m.onnx", metadata=metadata)
    _, report = segment(model, source, tmp_path)
    assert [each.name for each in report.legend] == ["a", "b", "c", "d"] and decided(report, "tile size")[1] == "metadata"


@pytest.mark.parametrize(("scale", "divisor"), [("none", 1), ("/10000", 10000), ("/65535", 65535), ("/255", 255), ("*255", 10000 / 255)])
def test_every_scale(tmp_path, raster, scale, divisor):
    """Biases make a wrong factor show."""
    source, pixels = raster
    net = Net().scale(divisor / 3000)
    model = net.add("Sub", net.constant(np.float32(0.4))).conv(8, gain=4).add("Relu").conv(4, gain=4).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(scale=scale, tile_size=50))
    expected = expected_classes(model, (pixels / divisor).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert decided(report, "scaling")[1] == "parameter"


@pytest.mark.parametrize(("dtype", "nodata", "seen"), [("float32", -9999, -9999), ("uint16", -9999, 0), ("uint16", 70000, 65535)])
def test_what_pixels_without_a_value_become(tmp_path, dtype, nodata, seen):
    """The network sees what is stated in their place, clipped to its type: it decides the pixels around them."""
    pixels = image(high=6000)
    pixels[:, 60:80, 70:90] = 0
    source = write_raster(tmp_path / "image.tif", pixels, names=NAMES, scale=(1e-4, 0))
    model = Net(dtype=dtype).body(4, 1e-4).output().save(tmp_path / "m.onnx")
    (tmp_path / "m.json").write_text(json.dumps({"nodata": nodata, "scale": "none"}))
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    filled = pixels.astype(dtype)
    filled[:, 60:80, 70:90] = seen
    expected = np.where((pixels == 0).any(0), 0, expected_classes(model, filled))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])


def test_stated_overlap_where_the_whole_tile_matters(tmp_path, raster):
    """deepness: tiles_overlap in percent."""
    source, _ = raster
    net = Net().body(4)
    before = net.x
    mean = net.add("GlobalAveragePool").x
    net.add("Sub", mean, given=before)
    model = net.output().save(tmp_path / "m.onnx", metadata={"tiles_overlap": "25", "tiles_size": "128"})
    _, report = segment(model, source, tmp_path, SegmentOptions(tile_size=128))
    assert report.tiling.blended and report.tiling.margin == 16 and decided(report, "margin")[1] == "metadata"


def test_threshold_of_a_single_class(tmp_path, raster):
    source, pixels = raster
    metadata = {"seg_thresh": "0.7", "class_names": '{"0": "slide"}'}
    model = Net().body(1).add("Sigmoid").output().save(tmp_path / "m.onnx", metadata=metadata)
    probability = whole_image(model, (pixels / 10000).astype(np.float32))[0]
    for options, threshold in ((SegmentOptions(), 0.7), (SegmentOptions(threshold=0.2), 0.2)):
        codes, report = segment(model, source, tmp_path, options)
        np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], (probability >= threshold)[RIM:-RIM, RIM:-RIM] + 1)
        assert [each.name for each in report.legend] == ["Not slide", "slide"]


def test_a_json_beside_the_model(tmp_path):
    """Bands by name in another order than in the raster, means and standard deviations of DN, colours."""
    pixels = image(bands=4)
    source = write_raster(tmp_path / "image.tif", pixels, names=("B02", "B03", "B04", "B08"), scale=(1e-4, 0))
    model = Net().body().output().save(tmp_path / "m.onnx")
    statement = {
        "bands": ["B08", "B04", "B03"],
        "mean": [2000, 1500, 1200],
        "std": [900, 800, 700],
        "class_names": ["water", "trees", "crops", "built"],
        "colors": ["#0000ff", "#00ff00", "#ffff00", "#ff0000"],
        "margin": 6,
        "multiple": 2,
        "tile_size": 40,
    }
    (tmp_path / "m.json").write_text(json.dumps(statement))
    codes, report = segment(model, source, tmp_path)
    mean, std = np.array(statement["mean"])[:, None, None], np.array(statement["std"])[:, None, None]
    expected = expected_classes(model, ((pixels[[3, 2, 1]] - mean) / std).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert [each.rgb for each in read_legend(str(tmp_path / "classes.tif"))] == [(0, 0, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
    assert report.tiling.margin >= 6 and decided(report, "bands") == ("B08, B04, B03", "JSON")


def test_parameters_win_over_metadata_and_these_over_the_json(tmp_path, raster):
    source, _ = raster
    model = Net().body().output().save(tmp_path / "m.onnx", metadata={"class_names": '["a", "b", "c", "d"]', "tile_size": "40"})
    (tmp_path / "m.json").write_text(json.dumps({"class_names": ["p", "q", "r", "s"], "scale": "none", "tile_size": 64}))
    _, report = segment(model, source, tmp_path)
    assert report.legend[0].name == "a" and decided(report, "scaling") == ("DN = reflectance x 10000", "JSON")
    _, report = segment(model, source, tmp_path, SegmentOptions(class_names="w,x,y,z", scale="/10000", tile_size=32))
    assert report.legend[0].name == "w" and decided(report, "scaling")[1] == decided(report, "tile size")[1] == "parameter"


def test_bad_metadata_warns_and_never_stops(tmp_path, raster, messages):
    source, pixels = raster
    bad = {
        "class_names": "{0: __import__('os').system('false')}",
        "tile_size": "a lot",
        "standardization_mean": "[0.1, 0.2]",
        "standardization_std": "[0.1, 0]",
        "seg_thresh": "7",
        "s2landcover": '{"layout": "HCNW", "margin": -3, "colors": ["red"]}',
    }
    model = Net().body().output().save(tmp_path / "m.onnx", metadata=bad)
    (tmp_path / "m.json").write_text("{not json")
    codes, _ = segment(model, source, tmp_path, messages=messages)
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    keys = ("class_names", "tile_size", "standardization_std", "seg_thresh", "layout", "margin", "colors", "m.json", "2 numbers as mean")
    for key in keys:
        assert any(key in text for text in messages.warnings), key


def test_names_are_untrusted(tmp_path, raster):
    source, _ = raster
    names = ["=cmd|' /C calc'!A0", "<script>alert(1)</script>", "a\x00b\nc", "x" * 5000]
    model = Net().body().output().save(tmp_path / "m.onnx", metadata={"class_names": json.dumps(names)})
    _, report = segment(model, source, tmp_path, html="r.html", probabilities="p.tif")
    page = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in page and all(len(each.name) <= 100 and each.name.isprintable() for each in report.legend)
    assert "&lt;script&gt;" in (tmp_path / "classes.qml").read_text()


def test_many_classes_need_two_bytes(tmp_path, raster):
    source, pixels = raster
    model = Net().body(300).output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=64))
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert codes.dtype == np.uint16 and "UInt16" in decided(report, "type of the map")[0]


def test_template_is_read_back(tmp_path, raster, messages):
    """What the model states, completed by hand, decides the run."""
    from s2landcover_plugin.engine.model_template import run_template

    source, pixels = raster
    model = Net(size=(64, 64)).body().output().save(tmp_path / "m.onnx", metadata={"class_names": '{"1": "trees"}', "resolution": "1000"})
    values = run_template(model, str(tmp_path / "template.json"), Progress())
    assert values["bands"] == ["B04", "B03", "B02"] and values["tile_size"] == 64 and values["class_names"] == ["Class 0", "trees"]
    template = json.loads((tmp_path / "template.json").read_text())
    assert template["scale"] is None and "none, /10000" in template["hints"]["scale"]
    template.update(scale="/10000", class_names=["water", "trees", "crops", "built"])
    (tmp_path / "m.json").write_text(json.dumps(template))
    codes, report = segment(model, source, tmp_path, messages=messages)
    assert decided(report, "scaling")[1] == decided(report, "bands")[1] == "JSON" and not messages.warnings
    free = Net().body().output().save(tmp_path / "free.onnx")
    expected = expected_classes(free, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])


def test_pixels_of_another_size_are_told(tmp_path, raster, messages):
    source, _ = raster
    model = Net().body().output().save(tmp_path / "m.onnx", metadata={"resolution": "300"})
    segment(model, source, tmp_path, messages=messages)
    assert any("trained on pixels of 3 m" in text and "10 m" in text for text in messages.warnings)


def refused(folder, model, source, said, options=None, **outputs):
    """A run that fails with one sentence and leaves no file."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(EngineError, match=said):
        segment(model, source, folder, options, **outputs)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_networks_for_other_tasks(tmp_path, raster):
    source, _ = raster
    classify = Net().body(5).add("GlobalAveragePool").add("Flatten").output(rank=2).save(tmp_path / "classify.onnx")
    refused(tmp_path, classify, source, "classifies whole images.*semantic-segmentation")
    net = Net(size=(64, 64)).body(7).add("GlobalAveragePool")
    net.add("Expand", net.constant(np.array([1, 7, 900, 1]))).add("Squeeze", net.constant(np.array([3])))
    refused(tmp_path, net.output(rank=3).save(tmp_path / "detect.onnx"), source, "does not give one class per pixel")
    two = Net().body()
    two.inputs.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["batch", 3, "rows", "columns"]))
    two.add("Add", two.constant(np.float32(0)))
    refused(tmp_path, two.output().save(tmp_path / "two.onnx"), source, r"takes 2 inputs \(image, second\)")
    series = Net().body()
    series.inputs[0] = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", "time", 3, "rows", "columns"])
    series.nodes.insert(0, helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=0))
    series.nodes[1].input[0] = "mean"
    refused(tmp_path, series.output().save(tmp_path / "series.onnx"), source, "5 dimensions")
    words = Net().body()
    words.inputs[0] = helper.make_tensor_value_info("image", TensorProto.DOUBLE, ["batch", 3, "rows", "columns"])
    words.nodes.insert(0, helper.make_node("Cast", ["image"], ["single"], to=TensorProto.FLOAT))
    words.nodes[1].input[0] = "single"
    refused(tmp_path, words.output().save(tmp_path / "double.onnx"), source, "type that is not known")


def test_class_names_that_cannot_be_read(tmp_path, raster):
    source, _ = raster
    model = Net().body().output().save(tmp_path / "m.onnx")
    refused(tmp_path, model, source, "class names cannot be read.*CLASS_NAMES", SegmentOptions(class_names='["a", '))
    _, report = segment(model, source, tmp_path, SegmentOptions(class_names='{"0": "a", "3": "d"}'))
    assert [each.name for each in report.legend] == ["a", "Class 1", "Class 2", "d"]


def test_much_effort_is_told(tmp_path, raster, messages):
    """A reach of 24 px in tiles of 64: each pixel goes through the network sixteen times."""
    source, pixels = raster
    net = Net(size=(64, 64))
    for _ in range(6):
        net.conv(6, 9, gain=2).add("Relu")
    model = net.conv(4, 1).output().save(tmp_path / "m.onnx")
    _, report = segment(model, source, tmp_path, messages=messages)
    assert report.tiling.margin == 24 and any("16 times" in text for text in messages.warnings)


def test_wrong_bands(tmp_path, raster):
    source, _ = raster
    five = Net(bands=5).body().output().save(tmp_path / "five.onnx")
    refused(tmp_path, five, source, r"takes 5 bands, the raster has 3 \(B04, B03, B02\)")
    refused(tmp_path, five, source, "takes 5 bands, not 2", SegmentOptions(bands=("B04", "B03")))
    named = Net().body().output().save(tmp_path / "named.onnx", metadata={"s2landcover": '{"bands": ["B08", "B11", "B02"]}'})
    refused(tmp_path, named, source, "needs B08, B11, which the raster lacks")


def test_versions_and_operators_that_the_runtime_does_not_know(tmp_path, raster):
    source, _ = raster
    version = onnxruntime.__version__
    newer = Net().body().output().save(tmp_path / "newer.onnx", ir=99)
    refused(tmp_path, newer, source, f"newer than the runtime.*IR version 99.*you have {version}")
    future = Net().body().output().save(tmp_path / "future.onnx", opset=99)
    refused(tmp_path, future, source, f"newer than the runtime.*opset 99.*you have {version}")
    custom = Net().body().add("Magic", domain="org.example").output().save(tmp_path / "custom.onnx", domains=("org.example",))
    refused(tmp_path, custom, source, "custom operators .org.example.Magic")
    unknown = Net().body().add("NoSuchOperator").output().save(tmp_path / "unknown.onnx")
    refused(tmp_path, unknown, source, "does not know|cannot be loaded")


def test_files_that_are_no_models(tmp_path, raster):
    source, _ = raster
    whole = Path(Net().body().output().save(tmp_path / "m.onnx")).read_bytes()
    for name, content, said in (
        ("cut.onnx", whole[: len(whole) // 2], "cut off or damaged"),
        ("lfs.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        ("empty.onnx", b"", "is empty"),
        ("page.onnx", b"<!DOCTYPE html><html><body>Not found</body></html>", "no ONNX model"),
        ("zeros.onnx", bytes(1000), "no ONNX model"),
        ("picture.onnx", Path(source).read_bytes()[:5000], "no ONNX model|cut off"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path, str(tmp_path / name), source, said)
    refused(tmp_path, str(tmp_path / "none.onnx"), source, "cannot be opened")
    refused(tmp_path, str(tmp_path), source, "not a file|cannot be opened")


def test_every_cut_is_one_sentence(tmp_path, raster):
    source, _ = raster
    whole = Path(Net().body().output().save(tmp_path / "m.onnx", metadata=DEEPNESS)).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        broken = bytearray(whole)
        if number % 2:
            broken = broken[: int(rng.integers(1, len(whole)))]
        for place in rng.integers(0, len(broken), 3):
            broken[place] = int(rng.integers(0, 256))
        path = tmp_path / "broken.onnx"
        path.write_bytes(bytes(broken))
        try:
            facts = inspect_model(str(path))
            Network(str(path), facts, "cpu")
        except EngineError as err:
            assert str(err).count("\n") == 0


def test_external_data_from_the_own_folder_only(tmp_path, raster):
    source, pixels = raster
    folder = tmp_path / "models"
    folder.mkdir()
    model = Net().body().output().save(folder / "m.onnx", external="m.onnx.data")
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    content = (folder / "m.onnx").read_bytes()
    secret = tmp_path / "secret.bin0"
    secret.write_bytes((folder / "m.onnx.data").read_bytes())
    for name, said in ((b"../secret", "outside its folder"), (b"/etc/passw", "outside its folder"), (b"C:\\secret", "outside its folder")):
        # a name of the same length keeps the file whole
        location = (name + b"x" * 20)[: len(b"m.onnx.data")]
        (folder / "bad.onnx").write_bytes(content.replace(b"m.onnx.data", location))
        refused(folder, str(folder / "bad.onnx"), source, said)
    (folder / "bad.onnx").unlink()
    (folder / "m.onnx.data").unlink()
    refused(folder, model, source, "data file m.onnx.data of the model is missing")
    os.symlink(secret, folder / "m.onnx.data")
    refused(folder, model, source, "is a link")


def test_values_that_are_no_numbers(tmp_path, raster):
    source, _ = raster
    net = Net().body()
    net.add("Sub", net.constant(np.float32(1e4))).add("Sqrt")
    refused(tmp_path, net.output().save(tmp_path / "nan.onnx"), source, "not numbers")


def test_logits_of_impossible_classes():
    """Minus infinity does not hide the class of a pixel, not a number does; probabilities are all numbers."""
    model = SimpleNamespace(output=OutputFacts(0, "NCHW", "logits", 3, 1, 0))
    answers = np.array([[0.5, 1], [-np.inf, 2], [1, 0]])
    op, with_probabilities = (Segment(model, Tiling(16, 2, 1), wanted=Wanted(kind)) for kind in ("", "byte"))
    assert op._has_classes(answers) and not with_probabilities._has_classes(answers)
    assert not op._has_classes(np.where(answers == 2, np.nan, answers))


def test_index_maps_have_no_probabilities(tmp_path, raster):
    source, _ = raster
    model = Net().body().add("ArgMax", axis=1, keepdims=0).output(TensorProto.INT64, 3).save(tmp_path / "m.onnx")
    refused(tmp_path, model, source, "gives classes only", probabilities="p.tif")


def test_all_nodata(tmp_path):
    source = write_raster(tmp_path / "empty.tif", np.zeros((3, 50, 60), np.uint16), names=NAMES)
    model = Net().body().output().save(tmp_path / "m.onnx")
    refused(tmp_path, model, source, "no valid pixel")


@pytest.mark.parametrize("after", [0, 2, 5, 9])
def test_cancel_leaves_no_file(tmp_path, raster, after):
    source, _ = raster
    model = Net().body().output().save(tmp_path / "m.onnx")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        segment(model, source, tmp_path, SegmentOptions(tile_size=16, batch_size=1), Messages(cancel_after=after), html="r.html")
    assert sorted(tmp_path.iterdir()) == before


def endless(above):
    """A network that takes hours for inputs wider than `above` pixels: a loop of ten million rounds for each column more."""
    net = Net().body()
    numbers = {
        name: net.constant(np.array(value, np.int64)) for name, value in (("axis", 3), ("above", above), ("none", 0), ("rounds", 10**7))
    }
    scores = net.x
    net.add("Shape").add("Gather", numbers["axis"], axis=0).add("Sub", numbers["above"]).add("Max", numbers["none"]).add(
        "Mul", numbers["rounds"]
    )
    kinds = (("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("v", TensorProto.FLOAT))
    inputs = [helper.make_tensor_value_info(name, kind, []) for name, kind in kinds]
    outputs = [helper.make_tensor_value_info(f"{name}_out", kind, []) for name, kind in kinds[1:]]
    nodes = [helper.make_node("Identity", ["go"], ["go_out"]), helper.make_node("Add", ["v", "v"], ["v_out"])]
    go, zero = net.constant(np.array(True)), net.constant(np.array(0, np.float32))
    net.add("Loop", go, zero, body=helper.make_graph(nodes, "round", inputs, outputs))
    return net.add("Add", scores).output()


@pytest.mark.parametrize("above", [160, 0], ids=["in the map", "while it is tried out"])
def test_cancel_ends_a_run_of_the_network(tmp_path, above):
    source = write_raster(tmp_path / "image.tif", image(400, 400), names=NAMES, scale=(1e-4, 0))
    model = endless(above).save(tmp_path / "m.onnx")
    before = sorted(tmp_path.iterdir())
    inside, ended = threading.Event(), []
    once = Network._once

    def seen(self, batch, fixed):
        if batch.shape[-1] > above:
            inside.set()
        return once(self, batch, fixed)

    def go():
        with pytest.raises(Cancelled):
            run_segmentation(source, model, SegmentOutputs(str(tmp_path / "c.tif")), SegmentOptions(tile_size=256), progress)
        ended.append(True)

    progress = Progress(is_cancelled=inside.is_set)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "_once", seen)
        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        thread.join(60)
    assert ended
    assert sorted(tmp_path.iterdir()) == before


def test_short_memory_halves_the_batch(tmp_path, raster, monkeypatch):
    source, pixels = raster
    model = Net().body().output().save(tmp_path / "m.onnx")
    sizes = []
    once = Network._once

    def short(self, batch, fixed):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 4096")
        return once(self, batch, fixed)

    monkeypatch.setattr(Network, "_once", short)
    codes, _ = segment(model, source, tmp_path, SegmentOptions(tile_size=32, batch_size=5))
    expected = expected_classes(model, (pixels / 10000).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert max(sizes) == 5 and sizes.count(5) == 1, "tried once, then smaller"


def test_providers(tmp_path, raster):
    source, _ = raster
    model = Net().body().output().save(tmp_path / "m.onnx")
    _, report = segment(model, source, tmp_path, SegmentOptions(provider="cpu"))
    assert report.provider == "cpu"
    if "CoreMLExecutionProvider" not in onnxruntime.get_available_providers():
        refused(tmp_path, model, source, "no provider coreml.*auto, cpu", SegmentOptions(provider="coreml"))


def test_a_network_can_be_sent_to_another_process(tmp_path):
    model = Net().body().output().save(tmp_path / "m.onnx")
    network = Network(model, inspect_model(model))
    batch = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    again = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(again.run(batch)[0], network.run(batch)[0])


def test_8_bit_pictures_without_names(tmp_path):
    """A photograph and a network that takes three bands of 0 to 1."""
    pixels = image(dtype=np.uint8, high=250)
    source = write_raster(tmp_path / "photo.tif", pixels, nodata=None)
    model = Net().body().output().save(tmp_path / "m.onnx")
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=50))
    expected = expected_classes(model, (pixels / 255).astype(np.float32))
    np.testing.assert_array_equal(codes[RIM:-RIM, RIM:-RIM], expected[RIM:-RIM, RIM:-RIM])
    assert decided(report, "scaling") == ("DN /255", "assumed")


@pytest.fixture(scope="module")
def t48que_stack(tmp_path_factory):
    """Twelve real bands at 10 m, and the nine of Dynamic World as an array."""
    target = str(tmp_path_factory.mktemp("t48que") / "stack.tif")
    files = [str(path) for path in sorted(shared_data("t48que_20200223_l2a").glob("B*.tif"))]
    run_stack(files, target, StackOptions(resolution="10"), None, Progress())
    names = [band.name for band in describe(target).bands]
    data = gdal.Open(target).ReadAsArray()
    return target, data[[names.index(name) for name in ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")]]


@pytest.fixture(scope="module")
def dynamic_world(t48que_stack):
    """Classes of the real scene by Dynamic World on the whole image."""
    return expected_classes(str(shared_data("models") / "dynamicworld_rawdn_nchw_u16.onnx"), t48que_stack[1])


@pytest.mark.parametrize("tile", [0, 128, 255, 256, 512])
def test_dynamic_world_equals_the_whole_image(tmp_path, t48que_stack, dynamic_world, tile):
    """100 % of the pixels farther than 22 px from the edge, without any parameter but the tile; the whole scene once, else a part of it."""
    model, (source, pixels), expected = str(shared_data("models") / "dynamicworld_rawdn_nchw_u16.onnx"), t48que_stack, dynamic_world
    if tile:
        part = str(tmp_path / "part.tif")
        gdal.Translate(part, source, srcWin=[301, 205, 560, 540])
        source, expected = part, expected_classes(model, pixels[:, 205:745, 301:861])
    codes, report = segment(model, source, tmp_path, SegmentOptions(tile_size=tile))
    assert (codes != expected)[22:-22, 22:-22].sum() == 0
    assert (report.tiling.margin, report.tiling.multiple) == (22, 2) and report.tiling.tile == (tile + tile % 2 if tile else 400)
    assert report.legend[4].name == "crops" and report.legend[4].hex == "#e49635"


@pytest.mark.parametrize("how", ["parameter", "json"])
def test_dynamic_world_with_its_logarithms(tmp_path, t48que_stack, dynamic_world, how):
    """The network as published: its scaling chosen by a parameter, or by a JSON beside it."""
    content = (shared_data("models") / "dynamicworld.onnx").read_bytes()
    model = tmp_path / "dw.onnx"
    model.write_bytes(content)
    if how == "json":
        model.with_suffix(".json").write_text(json.dumps({"scale": "percentile-log", "class_names": ["water", "trees"]}))
    part = str(tmp_path / "part.tif")
    gdal.Translate(part, t48que_stack[0], srcWin=[300, 204, 360, 340])
    codes, report = segment(str(model), part, tmp_path, SegmentOptions(scale="percentile-log" if how == "parameter" else "auto"))
    assert (codes != dynamic_world[204:544, 300:660])[22:-22, 22:-22].sum() == 0
    assert decided(report, "scaling") == ("percentile-log (Dynamic World)", "parameter" if how == "parameter" else "JSON")


@pytest.mark.parametrize("n", [1, 2, 9, 254, 255, 300])
def test_the_largest_plane_is_the_first_of_the_largest(n):
    planes = np.random.default_rng(n).integers(0, 7, (n, 130, 70)).astype(np.float32)
    planes[0, :5] = -np.inf
    planes[:, 5] = -np.inf
    np.testing.assert_array_equal(largest_plane(planes), planes.argmax(axis=0))

"""A U-Net to measure with: random convolutions with rectifiers, and a last layer fitted to clusters of the pixels of a scene.

No training is needed, and yet its classes mean something. The same scene gives the same network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from osgeo import gdal
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from tests.networks import Net

WIDTH = 24
CLASSES = 6
SIDE = 256
TILES = 6
PIXELS = 20_000


def write_unet(path: Path, scene: str) -> None:
    """Write the network (float32, NCHW, reflectance x 1, any size that 4 divides)."""
    tiles = _tiles(scene)
    body = path.with_suffix(".body.onnx")
    _body(tiles.shape[1]).output(name="features").save(body)
    session = onnxruntime.InferenceSession(str(body), providers=["CPUExecutionProvider"])
    features = np.concatenate([_flat(session.run(None, {"image": tile[np.newaxis]})[0][0]) for tile in tiles])
    pixels = np.concatenate([_flat(tile) for tile in tiles])
    used = np.random.default_rng(0).choice(len(pixels), PIXELS, replace=False)
    labels = KMeans(CLASSES, n_init=1, random_state=0).fit_predict(pixels[used])
    middle, spread = features[used].mean(axis=0), features[used].std(axis=0) + 1e-6
    fit = LogisticRegression(max_iter=300).fit((features[used] - middle) / spread, labels)
    weights = fit.coef_ / spread
    net = _body(tiles.shape[1])
    bias = fit.intercept_ - weights @ middle
    net.add("Conv", net.constant(weights[:, :, np.newaxis, np.newaxis].astype(np.float32)), net.constant(bias.astype(np.float32)))
    net.output().save(path)
    body.unlink()


def _tiles(scene: str) -> np.ndarray:
    """Reflectance (n, bands, SIDE, SIDE) of places along the diagonal."""
    source = gdal.Open(scene)
    places = np.linspace(source.RasterXSize // 4, source.RasterXSize - SIDE, TILES).astype(int)
    return np.stack([source.ReadAsArray(int(x), int(x), SIDE, SIDE) for x in places]).astype(np.float32) / 10000


def _flat(planes: np.ndarray) -> np.ndarray:
    """(pixels, channels) of (channels, rows, cols)."""
    return planes.reshape(len(planes), -1).T


def _body(bands: int) -> Net:
    """Three levels, two convolutions each, skips; WIDTH channels come out."""
    net: Any = Net(bands)
    skips = []
    for level in range(3):
        if level:
            net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        _pair(net, WIDTH << level)
        skips.append((net.x, net.bands))
    for name, channels in skips[-2::-1]:
        weights = net.rng.normal(0, np.sqrt(2 / net.bands), (net.bands, channels, 2, 2)).astype(np.float32)
        net.add("ConvTranspose", net.constant(weights), kernel_shape=[2, 2], strides=[2, 2]).add("Concat", name, axis=1)
        net.bands = 2 * channels
        _pair(net, channels)
    return net


def _pair(net: Any, channels: int) -> None:
    for _ in range(2):
        net.conv(channels, gain=np.sqrt(2)).add("Relu")

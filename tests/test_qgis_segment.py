"""Networks through qgis_process: the real Dynamic World, and errors."""

from __future__ import annotations

import json

import numpy as np
from osgeo import gdal

from s2landcover_plugin.engine.raster import read_legend

from .conftest import read, shared_data, write_raster
from .networks import Net, whole_image
from .processing import fails, run

NINE = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")


def test_dynamic_world_on_real_pixels(t48que, tmp_path):
    """Stack and segment without a parameter: the classes of plain onnxruntime, with names and colours."""
    model = str(shared_data("models") / "dynamicworld_rawdn_nchw_u16.onnx")
    stack, part, target = (str(tmp_path / name) for name in ("stack.tif", "part.tif", "classes.tif"))
    files = [str(path) for path in t48que if path.stem in NINE]
    run("bandstack", {"INPUTS": files, "BANDS": ",".join(NINE), "RESOLUTION": "10", "OUTPUT": stack})
    gdal.Translate(part, stack, srcWin=[300, 200, 300, 280])
    outputs = {"OUTPUT_PROBABILITIES": tmp_path / "p.tif", "OUTPUT_UNCERTAINTY": tmp_path / "u.tif", "OUTPUT_HTML": tmp_path / "r.html"}
    found = run("segmentraster", {"INPUT": part, "MODEL": model, "OUTPUT": target, **outputs})
    assert found["PROVIDER_USED"] in ("cpu", "cuda", "openvino")
    probabilities = whole_image(model, read(part))
    inner = np.s_[22:-22, 22:-22]
    np.testing.assert_array_equal(read(target)[0][inner], probabilities.argmax(0)[inner] + 1)
    assert [each.name for each in read_legend(target)][:3] == ["water", "trees", "grass"]
    page = (tmp_path / "r.html").read_text()
    assert "flooded_vegetation" in page and "22 px" in page and "measured" in page
    assert read(tmp_path / "p.tif").shape[0] == 9 and read(tmp_path / "u.tif").shape[0] == 2


def test_errors_are_one_sentence(tmp_path):
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    out.mkdir()
    pixels = np.random.default_rng(0).integers(1, 4000, (3, 40, 50)).astype(np.uint16)
    source = write_raster(tmp_path / "i.tif", pixels, names=("B04", "B03", "B02"), scale=(1e-4, 0))
    given = {"INPUT": source, "OUTPUT": out / "c.tif", "OUTPUT_HTML": out / "r.html"}
    (models / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\n")
    fails("segmentraster", {**given, "MODEL": models / "lfs.onnx"}, "Git LFS pointer", out)
    five = Net(bands=5).body().output().save(models / "five.onnx")
    fails("segmentraster", {**given, "MODEL": five}, "takes 5 bands, the raster has 3", out)
    three = Net().body().output().save(models / "three.onnx")
    fails("segmentraster", {**given, "MODEL": three, "BANDS": "B04,B08,B02"}, "needs B08, which the raster lacks", out)
    (models / "three.json").write_text(json.dumps({"class_names": ["a", "b", "c", "d"]}))
    found = run("segmentraster", {**given, "MODEL": three, "BANDS": "B02,B03,B04", "SCALE": "/10000", "TILE_SIZE": 32})
    expected = whole_image(three, (pixels[::-1] / 10000).astype(np.float32)).argmax(0) + 1
    assert (read(found["OUTPUT"])[0] == expected)[8:-8, 8:-8].all() and read_legend(found["OUTPUT"])[1].name == "b"

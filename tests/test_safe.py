"""SAFE products: real metadata with small JPEG 2000 images written into their places."""

from __future__ import annotations

import re
import shutil
import zipfile

import numpy as np
import pytest
from osgeo import gdal

from s2landcover_plugin.engine.bandfiles import StackOptions, run_stack
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.safe import read_product

from .conftest import read, shared_data

L2A_OLD = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE"
L2A_NEW = "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126.SAFE"
L1C = "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248.SAFE"


def pixels_of(pixels, ending):
    return next(data for stem, data in pixels.items() if stem.endswith(ending)).astype(int)


@pytest.mark.parametrize(("name", "offset", "baseline"), [(L2A_OLD, 0, "02.12"), (L2A_NEW, 1000, "04.00")])
def test_level_2a_folder_zip_and_metadata_file_give_the_same_stack(make_product, tmp_path, name, offset, baseline, messages):
    folder, pixels = make_product(name, offset)
    archive = tmp_path / "product.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in folder.rglob("*"):
            target.write(file, file.relative_to(tmp_path))
    product = read_product(str(folder))
    assert (product.baseline, product.quantification, product.name) == (baseline, 10000, name)
    assert set(product.offsets.values()) == ({-1000.0} if offset else set())
    for number, path in enumerate((folder, archive, folder / "MTD_MSIL2A.xml")):
        report = run_stack([], str(tmp_path / f"s{number}.tif"), StackOptions(), None, messages.progress, product=str(path))
        assert len(report.bands) == 12
    assert messages.warnings == []
    first = read(tmp_path / "s0.tif")
    for number in (1, 2):
        np.testing.assert_array_equal(read(tmp_path / f"s{number}.tif"), first)
    red = pixels_of(pixels, "_B04_10m")
    np.testing.assert_array_equal(first[3], np.where(red > 0, np.maximum(red - offset, 1), 0))
    dataset = gdal.Open(str(tmp_path / "s0.tif"))
    assert dataset.GetMetadataItem("S2LC_SCENES") == name
    assert dataset.GetRasterBand(9).GetDescription() == "B8A"
    run_stack([], str(tmp_path / "t.tif"), StackOptions(bands=("B11",), resolution="20"), None, Progress(), product=str(folder))
    swir = pixels_of(pixels, "_B11_20m")
    np.testing.assert_array_equal(read(tmp_path / "t.tif")[0], np.where(swir > 0, np.maximum(swir - offset, 1), 0))


def test_level_1c_has_thirteen_bands_and_no_scene_classification(make_product, tmp_path):
    folder, pixels = make_product(L1C, 0)
    report = run_stack([], str(tmp_path / "s.tif"), StackOptions(), None, Progress(), product=str(folder))
    assert len(report.bands) == 13 and "B10" in report.bands
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[7], pixels_of(pixels, "_B08"))
    with pytest.raises(EngineError, match="Level-1C products have none"):
        run_stack([], str(tmp_path / "m.tif"), StackOptions(mask_clouds=True), None, Progress(), product=str(folder))


def test_clouds_are_masked_by_the_products_own_classification(make_product, tmp_path):
    folder, _ = make_product(L2A_NEW, 1000)
    run_stack([], str(tmp_path / "s.tif"), StackOptions(bands=("B04",), mask_clouds=True), None, Progress(), product=str(folder))
    red = read(tmp_path / "s.tif")[0]
    assert not red[:4].any() and red[4:].all()


def test_missing_band_files_are_named(make_product, tmp_path):
    folder, _ = make_product(L2A_OLD, 0)
    for file in folder.rglob("*_B12_*.jp2"):
        file.unlink()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(EngineError, match=r"lacks the band files T07HFE_\w+_B12_20m.*name the bands"):
        run_stack([], str(out / "s.tif"), StackOptions(), None, Progress(), product=str(folder))
    assert list(out.iterdir()) == []
    assert run_stack([], str(out / "s.tif"), StackOptions(bands=("B04", "B8A")), None, Progress(), product=str(folder)).bands == (
        "B04",
        "B8A",
    )


def test_what_is_no_product_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a.txt", "a")
    for name, said in (
        ("empty", "no Sentinel-2 product"),
        ("text.zip", "cannot be read"),
        ("other.zip", "no Sentinel-2 product"),
        ("gone", "no Sentinel-2 product"),
    ):
        with pytest.raises(EngineError, match=said):
            read_product(str(tmp_path / name))
    with pytest.raises(EngineError, match="leave one of them out"):
        run_stack(["a.tif"], str(tmp_path / "s.tif"), StackOptions(), None, Progress(), product="b.zip")


@pytest.mark.parametrize(
    ("name", "offset"),
    [(L2A_OLD, None), (L2A_NEW, -1000), (L1C, None), ("S2A_MSIL2A_20230625T234621_N0509_R073_T01WCS_20230626T022157.SAFE", -1000)],
)
def test_radiometry_of_real_metadata(name, offset):
    product = read_product(str(shared_data("safe_metadata") / name))
    assert product.quantification == 10000
    assert set(product.offsets.values()) == ({offset} if offset else set())
    assert not offset or len(product.offsets) == 13
    assert len(product.missing) >= 13  # there are no images beside the metadata


def test_names_before_the_compact_format_and_several_tiles(make_product, tmp_path):
    """The older naming: long names for metadata and images, several granules in one product."""
    folder, pixels = make_product(L1C, 0)
    metadata = folder / "S2A_OPER_MTD_SAFL1C_PDMC_20210908T070248_R133_V20210908T042701.xml"
    (folder / "MTD_MSIL1C.xml").rename(metadata)
    images = next(folder.rglob("IMG_DATA"))
    text = metadata.read_text()
    for image in list(images.glob("*.jp2")):
        tile, _, band = image.stem.split("_")
        long_name = f"S2A_OPER_MSI_L1C_TL_EPA__20210908T070248_A032448_{tile}_{band}"
        image.rename(images / f"{long_name}.jp2")
        text = re.sub(rf"<IMAGE_FILE>[^<]*/{image.stem}</IMAGE_FILE>", f"<IMAGE_ID>{long_name}</IMAGE_ID>", text)
    metadata.write_text(text)
    report = run_stack([], str(tmp_path / "s.tif"), StackOptions(), None, Progress(), product=str(folder))
    assert len(report.bands) == 13
    np.testing.assert_array_equal(read(tmp_path / "s.tif")[3], pixels_of(pixels, "_B04"))
    shutil.copy(next(images.glob("*_B04.jp2")), images / "S2A_OPER_MSI_L1C_TL_EPA__20210908T070248_A032448_T46REQ_B04.jp2")
    with pytest.raises(EngineError, match="several tiles .46REQ, 46RER"):
        read_product(str(folder))

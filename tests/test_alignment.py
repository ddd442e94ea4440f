"""Displacements planted into real images, found again; and images that must not be moved."""

from __future__ import annotations

import csv
import io

import cv2
import numpy as np
import pytest
from osgeo import gdal

from demo.change_pair import BANDS as CHANGE_BANDS
from demo.change_pair import SHIFT_PX, make_pair
from s2landcover_plugin.engine.aligning import AlignOutputs, run_alignment
from s2landcover_plugin.engine.alignment import AlignOptions, estimate_alignment
from s2landcover_plugin.engine.errors import Cancelled, EngineError
from s2landcover_plugin.engine.geotiff import write_class_table
from s2landcover_plugin.engine.legend import LegendClass
from s2landcover_plugin.engine.progress import Progress
from s2landcover_plugin.engine.raster import describe, read_legend
from s2landcover_plugin.engine.structure import structure

from .conftest import Messages, read, shared_data, write_raster

BANDS = ("B02", "B03", "B04", "B08")
RIM = 32
SHIFTS = [(0.05, -0.05), (0.3, 0.2), (0.5, -0.5), (1.4, -0.7), (-5.25, 3.6), (12.35, -8.1), (20, -20), (-19.6, 0.45)]


def moved(band, x, y):
    """The content of a band moved to the right and down, by the Fourier shift theorem on the mirrored band."""
    padded = np.pad(band.astype(float), RIM, mode="symmetric")
    rows, columns = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.fftfreq(padded.shape[1])[None]
    shifted = np.fft.ifft2(np.fft.fft2(padded) * np.exp(-2j * np.pi * (columns * x + rows * y))).real
    return shifted[RIM:-RIM, RIM:-RIM]


def inner(planes):
    return np.asarray(planes)[..., RIM:-RIM, RIM:-RIM]


def displaced(bands, x, y):
    """Bands (n, rows, cols) UInt16, 0 = nodata, whose content is moved."""
    result = []
    for band in bands:
        valid = band > 0
        filled = np.where(valid, band, np.median(band[valid]))
        covered = moved(valid, x, y) > 0.99
        result.append(np.where(covered, np.clip(np.rint(moved(filled, x, y)), 1, 65535), 0).astype(np.uint16))
    return np.stack(result)


def clouds(shape, share, seed):
    """A mask (True = cloud) of smooth blobs that cover a share of the image."""
    field = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape).astype(np.float32), (0, 0), shape[0] / 25)
    return field > np.quantile(field, 1 - share)


def bands_of(files):
    return np.stack([read(path)[0] for path in files])


@pytest.fixture(scope="module")
def thailand():
    folder = shared_data("t48que_20200223_l2a")
    return bands_of(folder / f"{band}.tif" for band in BANDS)[:, :700, :700]


def austria(date):
    """Four bands and the scene classification of one date of 33TWM."""
    folder = next(shared_data("earth_search_33twm").glob(f"*{date}*"))
    return bands_of(folder / f"{band}.tif" for band in (*BANDS, "SCL"))


def punjab(date):
    folder = shared_data("t43rcp_pair") / date
    return bands_of(folder / f"{band}.tif" for band in BANDS)


def save(path, planes, **more):
    more.setdefault("names", (*BANDS, "SCL")[: len(planes)])
    more.setdefault("scale", (0.0001, 0))
    return write_raster(path, np.asarray(planes, np.uint16), **more)


def estimate(folder, reference, image, **options):
    first, second = save(folder / "first.tif", reference), save(folder / "second.tif", image)
    return estimate_alignment(describe(first), describe(second), AlignOptions(**options), Progress())


def check(errors):
    """Median and worst error in pixels, as they were promised."""
    assert np.median(errors) <= 0.05 and max(errors) <= 0.1, errors


def errors_of(folder, reference, image, prepare=lambda first, second: (first, second)):
    """Error of each planted shift, pixels; each must be trusted."""
    errors = []
    for x, y in SHIFTS:
        first, second = prepare(inner(reference), inner(image(x, y)))
        found = estimate(folder, first, second)
        assert found.trusted, ((x, y), found.registration.doubts)
        errors.append(np.hypot(found.shift_px[0] - x, found.shift_px[1] - y))
    return errors


def test_shifts_of_one_image(thailand, tmp_path):
    check(errors_of(tmp_path, thailand, lambda x, y: displaced(thailand, x, y)))


def test_shifts_under_clouds(thailand, tmp_path):
    """30 % of each date is masked, elsewhere in each."""

    def prepare(first, second):
        return tuple(np.where(clouds(planes.shape[1:], 0.3, seed), 0, planes) for seed, planes in enumerate((first, second)))

    check(errors_of(tmp_path, thailand, lambda x, y: displaced(thailand, x, y), prepare))


def test_shifts_with_a_change_and_another_season(thailand, tmp_path):
    """A tenth of the image is other ground, and the rest has other brightness and noise."""
    rng = np.random.default_rng(0)
    other = thailand * 0.7 + 350 + rng.normal(0, 40, thailand.shape)
    other[:, 200:420, 300:520] = other[:, 200:420, 300:520][:, ::-1, ::-1]
    other = np.clip(np.rint(other), 1, 65535).astype(np.uint16)
    check(errors_of(tmp_path, thailand, lambda x, y: displaced(other, x, y)))


@pytest.mark.parametrize("date", ["20230813", "20230820"])
def test_shifts_between_real_dates(tmp_path, date):
    """Two days or five between the scenes, other satellite, clouds by the scene classification, swath edges."""
    first, second = austria("20230815"), austria(date)

    def image(x, y):
        scl = np.roll(second[4], (round(y), round(x)), (0, 1))
        return np.concatenate([displaced(second[:4], x, y), scl[None]])

    check(errors_of(tmp_path, first, image))


@pytest.mark.parametrize("pair", [("l2a_20200604", "l2a_20200813"), ("l1c_20200604", "l1c_20200823")])
def test_fields_that_all_changed_are_found_or_not_trusted(tmp_path, pair):
    first, second = (punjab(date) for date in pair)
    for x, y in SHIFTS[:5]:
        found = estimate(tmp_path, inner(first), inner(displaced(second, x, y)))
        assert not found.trusted or np.hypot(found.shift_px[0] - x, found.shift_px[1] - y) <= 0.1


def test_a_small_image_of_fields(tmp_path):
    fields = punjab("l2a_20200604")
    check(errors_of(tmp_path, fields, lambda x, y: displaced(fields, x, y)))


def test_unrelated_images_are_never_trusted(thailand, tmp_path):
    rng = np.random.default_rng(1)
    austrian = austria("20230813")[:4, 200:900, 200:900]
    noise = rng.integers(100, 4000, thailand.shape).astype(np.uint16)
    smooth = np.stack([cv2.GaussianBlur(rng.normal(size=(700, 700)), (0, 0), 4) * 3000 + 3000 for _ in BANDS])
    flat = np.full_like(thailand, 900)
    images = [thailand, austrian, noise, smooth, flat, thailand[:, ::-1, :], thailand.transpose(0, 2, 1)]
    for number, first in enumerate(images):
        for second in images[number + 1 :]:
            found = estimate(tmp_path, first, second)
            assert not found.trusted and found.registration.doubts


@pytest.mark.parametrize(
    ("motion", "matrix"),
    [
        ("euclidean", [[np.cos(0.004), -np.sin(0.004), 2.5], [np.sin(0.004), np.cos(0.004), -1.2]]),
        ("affine", [[1.003, 0.002, -3.1], [-0.001, 0.998, 2.2]]),
    ],
)
def test_turned_and_stretched_images(thailand, tmp_path, motion, matrix):
    """Displacement known at every pixel: OpenCV moves the image by the matrix (reference -> image)."""
    matrix = np.array(matrix)
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    back = cv2.invertAffineTransform(matrix)
    image = np.stack([cv2.warpAffine(band.astype(np.float32), back, (700, 700), flags=flags) for band in thailand])
    found = estimate(tmp_path, thailand, np.clip(np.rint(image), 0, 65535), motion=motion)
    assert found.trusted, found.registration.doubts
    for column, row in ((20, 30), (350, 350), (600, 100), (680, 690)):
        expected = matrix @ (column, row, 1) - (column, row)
        assert found.registration.displacement(column, row) == pytest.approx(expected, abs=0.1)


def run(folder, reference, image, watcher=None, **options):
    out = AlignOutputs(str(folder / "out.tif"), str(folder / "out.csv"))
    return run_alignment(reference, image, out, AlignOptions(**options), (watcher or Messages()).progress), out


def test_the_image_is_moved_onto_the_reference(thailand, tmp_path, messages):
    """Real bands; the truth is the image before it was displaced."""
    scl = np.full((700, 700), 4)
    scl[300:, :200] = 6
    reference = save(tmp_path / "r.tif", inner([*thailand, scl]))
    shifted = np.concatenate([displaced(thailand, 3.3, -2.6), np.roll(scl, (-3, 3), (0, 1))[None]])
    image = save(tmp_path / "i.tif", inner(shifted))
    found, out = run(tmp_path, reference, image, messages)
    assert found.shift_m == pytest.approx((33, 26), abs=0.5)
    aligned, truth = read(out.raster).astype(float), inner(thailand).astype(float)
    assert aligned.shape[0] == 5 and gdal.Open(out.raster).GetGeoTransform() == gdal.Open(reference).GetGeoTransform()
    assert gdal.Open(out.raster).GetRasterBand(4).GetDescription() == "B08" and gdal.Open(out.raster).GetRasterBand(4).GetScale() == 0.0001
    middle = np.s_[:4, 8:-8, 8:-8]
    before = np.abs(read(image)[middle] - truth[middle]).mean()
    after = np.abs(aligned[middle] - truth[middle]).mean()
    assert after < 0.2 * before, "cubic resampling leaves 7 % of the difference here"
    assert set(np.unique(aligned[4])) <= {0, 4, 6}, "classes are never mixed"
    # where the image had nothing: 3.3 px on the left, 2.6 px below
    assert (aligned[:, :, -1] == 0).all() and (aligned[:, 0, :] == 0).all() and (aligned[:4, 10:-10, 10:-10] > 0).all()
    rows = list(csv.DictReader(open(out.table)))
    assert len(rows) == len(found.registration.patches)
    assert all(abs(float(row["residual_x_px"])) < 0.2 for row in rows if row["used"] == "yes")
    assert "Shift 3.3" in messages.infos[0] and not messages.warnings


def test_less_than_a_tenth_of_a_pixel_resamples_nothing(thailand, tmp_path, messages):
    reference, image = save(tmp_path / "r.tif", inner(thailand)), save(tmp_path / "i.tif", inner(displaced(thailand, 0.05, -0.06)))
    found, out = run(tmp_path, reference, image, messages)
    assert found.trusted and not found.moves and any("nothing is resampled" in text for text in messages.infos)
    np.testing.assert_array_equal(read(out.raster), read(image))


def test_what_cannot_be_trusted_stays_as_it_is(thailand, tmp_path, messages):
    reference, image = save(tmp_path / "r.tif", thailand), save(tmp_path / "i.tif", thailand[:, ::-1])
    found, out = run(tmp_path, reference, image, messages)
    assert not found.trusted and "left as it is" in messages.warnings[0]
    np.testing.assert_array_equal(read(out.raster), read(image))


@pytest.mark.parametrize("whole", [True, False])
def test_whole_pixels_move_the_grid_if_that_is_allowed(thailand, tmp_path, whole):
    reference, image = save(tmp_path / "r.tif", inner(thailand)), save(tmp_path / "i.tif", inner(displaced(thailand, 4, -3)))
    found, out = run(tmp_path, reference, image, move_grid=whole)
    aligned = gdal.Open(out.raster)
    if whole:
        np.testing.assert_array_equal(aligned.ReadAsArray(), read(image))
        x, _, _, y, _, _ = aligned.GetGeoTransform()
        assert (x, y) == pytest.approx((500000 - 40, 5200000 - 30), abs=1e-6)
    else:
        assert aligned.GetGeoTransform() == gdal.Open(reference).GetGeoTransform()
        np.testing.assert_allclose(aligned.ReadAsArray()[:, 10:-10, 10:-10], inner(thailand)[:, 10:-10, 10:-10], atol=120)


def test_other_grid_and_other_crs(thailand, tmp_path):
    """The image in degrees, and displaced by 30 m to the east and 20 m to the north."""
    reference = save(tmp_path / "r.tif", thailand, epsg=32648)
    moved_away = save(tmp_path / "m.tif", thailand, epsg=32648, transform=(500030, 10, 0, 5200020, 0, -10))
    degrees = str(tmp_path / "d.tif")
    gdal.Warp(degrees, moved_away, dstSRS="EPSG:4326", resampleAlg="cubic", dstNodata=0)
    found, out = run(tmp_path, reference, degrees)
    assert found.shift_m == pytest.approx((30, 20), abs=1)
    assert gdal.Open(out.raster).GetGeoTransform() == gdal.Open(reference).GetGeoTransform()
    aligned, truth = read(out.raster).astype(float), thailand.astype(float)
    ok = (aligned > 0).all(axis=0)
    assert ok.mean() > 0.9
    # two resamplings blur; compare with what one pixel more would do
    apart = [np.abs(aligned - np.roll(truth, step, 2))[:, 10:-10, 10:-10].mean() for step in (-1, 0, 1)]
    assert apart[1] < 0.4 * min(apart[0], apart[2])
    with pytest.raises(EngineError, match="can be shifted only.*MOTION translation"):
        run(tmp_path, reference, degrees, motion="affine")


def test_class_rasters_keep_codes_and_legend(thailand, tmp_path):
    codes = np.where(thailand[3] > 2500, 2, 1).astype(np.uint8)
    reference = write_raster(tmp_path / "r.tif", codes[None])
    image = write_raster(tmp_path / "i.tif", np.roll(codes, (4, -7), (0, 1))[None])
    legend = [LegendClass(1, "Dry", (200, 100, 0)), LegendClass(2, "Green", (0, 150, 0))]
    write_class_table(image, legend, [0, 0], [0, 0])
    found, out = run(tmp_path, reference, image)
    assert found.shift_px == pytest.approx((-7, 4), abs=0.1)
    aligned = read(out.raster)[0]
    np.testing.assert_array_equal(aligned[10:-10, 10:-10], codes[10:-10, 10:-10])
    assert [(each.code, each.name) for each in read_legend(out.raster)] == [(1, "Dry"), (2, "Green")]
    assert 'label="Green"' in (tmp_path / "out.qml").read_text()


def test_one_band_can_be_chosen(thailand, tmp_path):
    """Three bands of the image are noise."""
    noisy = np.random.default_rng(0).integers(1, 5000, thailand.shape).astype(np.uint16)
    noisy[3] = displaced(thailand[3:], 2.5, 1.25)[0]
    assert estimate(tmp_path, inner(thailand), inner(noisy), band="B08").shift_px == pytest.approx((2.5, 1.25), abs=0.1)
    with pytest.raises(EngineError, match="no band B11.*choose from B02"):
        estimate(tmp_path, thailand, noisy, band="B11")


def test_what_cannot_be_compared_is_one_sentence_and_no_file(thailand, tmp_path):
    reference = save(tmp_path / "r.tif", thailand)
    folder = tmp_path / "out"
    folder.mkdir()
    far = save(tmp_path / "far.tif", thailand, transform=(900000, 10, 0, 5200000, 0, -10))
    placeless = save(tmp_path / "placeless.tif", thailand, epsg=None)
    other = save(tmp_path / "other.tif", thailand[:2], names=("B11", "B12"))
    rotated = save(tmp_path / "rotated.tif", thailand, transform=(500000, 10, 1, 5200000, 1, -10))
    refused = {
        far: "do not overlap",
        placeless: "no coordinate reference system.*placeless",
        other: "no band in common",
        rotated: "rotated",
    }
    for image, said in refused.items():
        with pytest.raises(EngineError, match=said):
            run(folder, reference, image)
        assert list(folder.iterdir()) == []
    with pytest.raises(EngineError, match="MAX_SHIFT_PX"):
        run(folder, reference, reference, max_shift_px=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (40, 40), (47, 300), (60, 60)])
def test_tiny_images_are_no_crash(thailand, tmp_path, size, messages):
    part = thailand[:, : size[0], : size[1]]
    found, out = run(tmp_path, save(tmp_path / "r.tif", part), save(tmp_path / "i.tif", part), messages)
    np.testing.assert_array_equal(read(out.raster), part)
    assert found.trusted or messages.warnings


def test_nothing_but_nodata_is_not_aligned(thailand, tmp_path, messages):
    empty = np.zeros_like(thailand)
    found, out = run(tmp_path, save(tmp_path / "r.tif", thailand), save(tmp_path / "i.tif", empty), messages)
    assert not found.trusted and messages.warnings and not read(out.raster).any()


def test_cancel_leaves_nothing(thailand, tmp_path):
    reference, image = save(tmp_path / "r.tif", inner(thailand)), save(tmp_path / "i.tif", inner(displaced(thailand, 2, 2)))
    whole = Messages()
    run(tmp_path, reference, image, whole)
    folder = tmp_path / "out"
    folder.mkdir()
    for stop in range(0, whole.asked, 9):
        with pytest.raises(Cancelled):
            run(folder, reference, image, Messages(cancel_after=stop))
        assert list(folder.iterdir()) == []


def test_edges_of_either_sign_are_the_same():
    """A step from dark to bright and one from bright to dark have one structure; a turned one has another."""
    step = np.zeros((60, 60), np.float32)
    step[:, 30:] = 100
    valid = np.ones(step.shape, bool)
    rising, usable = structure(step[None], valid)
    falling, _ = structure(100 - step[None], valid)
    turned, _ = structure(step.T[None].copy(), valid)
    np.testing.assert_allclose(rising, falling, atol=1e-4)
    assert rising[0].max() > 0 and turned[0].min() < 0 and usable[5:-5, 5:-5].all()
    assert np.abs(rising[1]).max() < 1e-3 * rising[0].max()
    valid[:, 20:40] = False
    hidden, usable = structure(step[None], valid)
    assert not hidden.any() and not usable[:, 22:38].any()


def test_table_has_every_patch(thailand, tmp_path):
    found = estimate(tmp_path, inner(thailand), inner(displaced(thailand, 1.5, 0)))
    rows = list(csv.DictReader(io.StringIO(found.table())))
    assert [float(row["shift_x_px"]) for row in rows] == pytest.approx([patch.shift_x for patch in found.registration.patches], abs=1e-4)
    assert {row["used"] for row in rows} <= {"yes", "no"}


def test_the_demo_pair_with_landslides_and_a_muddy_river(tmp_path):
    """Planted shift of 1.4 and -0.7 px between two dates with scars, phenology and mud; with and without change."""
    for changed in (True, False):
        pair = make_pair(changed=changed)
        first, second = (
            write_raster(tmp_path / f"{n}.tif", planes, names=CHANGE_BANDS) for n, planes in enumerate((pair.before, pair.after))
        )
        found = estimate_alignment(describe(first), describe(second), AlignOptions(), Progress())
        assert found.trusted and found.shift_px == pytest.approx(SHIFT_PX, abs=0.05)
        assert 0.01 < pair.scars.mean() < 0.05 if changed else not pair.scars.any()

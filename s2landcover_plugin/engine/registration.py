"""The displacement of one image against another, from patches spread over both; and whether it can be trusted."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from .blocks import default_workers
from .packages import one_opencv_thread, require
from .progress import Progress

MOTIONS = ("translation", "euclidean", "affine")
ECC_STEPS = 50
ECC_STOP = 1e-4
ECC_BLUR_PX = 9
REACH_PX = 3.0
"""A patch may differ this much from the coarse shift."""
WHITENING = 0.7
"""Exponent of the cross-power spectrum's magnitude: 1 is plain phase correlation, which noise at high frequencies drowns."""
LEAST_PATCHES = 6
LARGEST_ERROR_PX = 0.03
"""Standard error of the displacement anywhere in the image up to which it is trusted: three of them are 0.1 px."""
LEAST_AGREEING = 0.5
"""Share of the patches that must agree with the motion."""
LEAST_PEAK = 8.0
"""Height of the coarse correlation's peak in standard deviations of its surface; unrelated images reach 5."""
LARGEST_DISAGREEMENT_PX = 1.0
"""Between ECC and phase correlation."""


@dataclass(frozen=True)
class Patch:
    """The same part of both images, with a margin for the search.

    Attributes:
        column, row: of its centre, pixels of the reference.
        reference, image: (channels, side, side) structure.
        reference_ok, image_ok: (side, side), True = use.
        margin: pixels on each side that may move in or out.
    """

    column: float
    row: float
    reference: np.ndarray
    reference_ok: np.ndarray
    image: np.ndarray
    image_ok: np.ndarray
    margin: int


@dataclass(frozen=True)
class PatchShift:
    """The displacement found in one patch; position and shift in pixels of the reference."""

    column: float
    row: float
    shift_x: float
    shift_y: float
    correlation: float


@dataclass(frozen=True)
class Registration:
    """How an image lies against its reference.

    Attributes:
        matrix: (2, 3) pixel of the reference -> pixel of the image, both on the reference's grid and from the centre of its first pixel.
        patches: what was found in each patch.
        agrees: for each patch whether it follows the motion.
        error_px: largest standard error of the displacement within the patches.
        peak: height of the coarse correlation's peak, standard deviations.
        correlation_before, correlation_after: of the structure of both images, -1 to 1.
        doubts: why it is not trusted; empty if it is.
    """

    matrix: np.ndarray
    patches: tuple[PatchShift, ...]
    agrees: tuple[bool, ...]
    error_px: float
    peak: float
    correlation_before: float
    correlation_after: float
    doubts: tuple[str, ...]

    @property
    def trusted(self) -> bool:
        """Whether the image should be moved by it."""
        return not self.doubts

    def displacement(self, column: float, row: float) -> tuple[float, float]:
        """How far the image is displaced at a pixel of the reference: x to the right, y down, pixels."""
        x, y = self.matrix @ (column, row, 1.0)
        return float(x - column), float(y - row)


IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def register(patches: Sequence[Patch], motion: str, max_shift_px: float, progress: Progress) -> Registration:
    """Find the motion between two images: coarse by phase correlation, in each patch by ECC (Evangelidis and Psarakis 2008, IEEE TPAMI 30),
    and one motion through the patches that agree.

    Images that do not fit each other are no error: the result is not trusted, and says why.

    Raises:
        Cancelled: the user asked to stop.
    """
    if len(patches) < LEAST_PATCHES:
        return _hopeless(f"only {len(patches)} parts of the two images have enough valid pixels and structure")
    coarse = _coarse_shift(patches, max_shift_px)
    progress.report(0.3)
    with one_opencv_thread():
        starts = (coarse if motion == "translation" else _own_start(patch, coarse, max_shift_px) for patch in patches)
        found: list[PatchShift] = []
        with ThreadPoolExecutor(default_workers()) as pool:
            for number, shift in enumerate(pool.map(_ecc, patches, starts), 1):
                progress.report(0.3 + 0.5 * number / len(patches))
                found += [shift] if shift is not None else []
    if len(found) < LEAST_PATCHES:
        return _hopeless(f"ECC converged in {len(found)} of {len(patches)} parts only")
    matrix, agrees, error = _fit(found, motion)
    error *= _overlap(patches)
    with one_opencv_thread():
        before, after = _correlation(patches, IDENTITY), _correlation(patches, matrix)
    centre = np.mean([(each.column, each.row) for each in found], axis=0)
    shift = matrix @ (*centre, 1) - centre
    doubts = []
    if coarse.height < LEAST_PEAK:
        doubts.append("phase correlation has no clear peak")
    if sum(agrees) < max(LEAST_AGREEING * len(patches), LEAST_PATCHES):
        doubts.append(f"only {sum(agrees)} of {len(patches)} parts of the image agree")
    if error > LARGEST_ERROR_PX:
        doubts.append(f"the shift is known to {3 * error:.2f} px only")
    if np.abs(shift - coarse.fine).max() > LARGEST_DISAGREEMENT_PX and motion == "translation":
        doubts.append("ECC and phase correlation disagree")
    if np.abs(shift).max() > max_shift_px + 0.5:
        doubts.append(f"the shift is larger than {max_shift_px:g} px")
    if after < before - 1e-3:
        doubts.append("the images fit less well after the shift than before")
    return Registration(matrix, tuple(found), tuple(bool(a) for a in agrees), error, coarse.height, before, after, tuple(doubts))


def _hopeless(why: str) -> Registration:
    return Registration(IDENTITY, (), (), float("inf"), 0.0, float("nan"), float("nan"), (why,))


@dataclass(frozen=True)
class _Coarse:
    """What phase correlation finds.

    Attributes:
        whole: shift (x, y) in whole pixels.
        fine: the same with the top of the peak between pixels.
        height: of the peak, standard deviations of the surface.
    """

    whole: np.ndarray
    fine: np.ndarray
    height: float


def _cross_power(patch: Patch) -> np.ndarray:
    """Cross-power spectrum of a patch, summed over its channels."""
    fft = require("scipy.fft")
    side = patch.reference.shape[1]
    taper = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    # NumPy 1 would compute in float64
    first, second = (fft.rfft2(channels * taper) for channels in (patch.reference, patch.image))
    return np.asarray((second * first.conj()).sum(axis=0))


def _coarse_shift(patches: Sequence[Patch], max_shift_px: float) -> _Coarse:
    """By phase correlation over all patches."""
    spectrum = sum(_cross_power(patch) for patch in patches)
    return _peak(np.asarray(spectrum), patches[0].reference.shape[1], max_shift_px)


def _peak(spectrum: np.ndarray, side: int, max_shift_px: float) -> _Coarse:
    white = spectrum / np.maximum(np.abs(spectrum), 1e-12) ** WHITENING
    surface = np.fft.fftshift(np.fft.irfft2(white, (side, side)))
    middle, reach = side // 2, int(min(max_shift_px + 1, side // 2 - 1))
    near = surface[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    height = float((near[row, column] - near.mean()) / (near.std() + 1e-30))
    whole = np.array([column - reach, row - reach], float)
    inside = 0 < row < 2 * reach and 0 < column < 2 * reach
    offset = (_vertex(near[row, column - 1 : column + 2]), _vertex(near[row - 1 : row + 2, column])) if inside else (0.0, 0.0)
    return _Coarse(whole, whole + offset, height)


def _vertex(three: np.ndarray) -> float:
    """Where the parabola through three neighbours has its top, relative to the middle one."""
    bend = three[0] - 2 * three[1] + three[2]
    return 0.0 if bend == 0 else float(np.clip((three[0] - three[2]) / (2 * bend), -0.5, 0.5))


def _own_start(patch: Patch, coarse: _Coarse, max_shift_px: float) -> _Coarse:
    """Where ECC starts in a patch of an image that is more than shifted: there the shift is not the same everywhere."""
    own = _peak(_cross_power(patch), patch.reference.shape[1], max_shift_px)
    return own if own.height >= LEAST_PEAK else coarse


def _ecc(patch: Patch, start: _Coarse) -> PatchShift | None:
    """The displacement of one patch near a start; None where ECC does not converge."""
    cv2 = require("cv2")
    side = patch.reference.shape[1]
    x, y = int(start.whole[0]), int(start.whole[1])
    room = patch.margin
    if max(abs(x), abs(y)) > room:
        return None
    inner = slice(room, side - room)
    moved = slice(room + y, side - room + y), slice(room + x, side - room + x)
    mask = patch.reference_ok[inner, inner] & patch.image_ok[moved]
    # channels lie one below the other; a rim keeps them from reaching into each other
    mask = mask.copy()
    rim = ECC_BLUR_PX
    mask[:rim] = mask[-rim:] = False
    mask[:, :rim] = mask[:, -rim:] = False
    if mask.mean() < 0.2:
        return None
    reference = np.ascontiguousarray(patch.reference[:, inner, inner].reshape(-1, mask.shape[1]))
    image = np.ascontiguousarray(patch.image[(slice(None), *moved)].reshape(-1, mask.shape[1]))
    everywhere = np.tile(mask.astype(np.uint8), (len(patch.reference), 1))
    warp = np.eye(2, 3, dtype=np.float32)
    # one or two steps fewer; rounded, because the last digits of a transform depend on where its numbers lie in memory
    warp[:, 2] = np.rint(16 * (start.fine - start.whole)) / 16
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ECC_STEPS, ECC_STOP)
    try:
        correlation, warp = cv2.findTransformECC(reference, image, warp, cv2.MOTION_TRANSLATION, criteria, everywhere, ECC_BLUR_PX)
    except cv2.error:
        return None
    dx, dy = float(warp[0, 2]), float(warp[1, 2])
    if not max(abs(dx), abs(dy)) <= REACH_PX or not np.isfinite(correlation):
        return None
    return PatchShift(patch.column, patch.row, x + dx, y + dy, float(correlation))


def _overlap(patches: Sequence[Patch]) -> float:
    """How much larger an error is because patches share pixels: the square root of how often a pixel is in one."""
    side = patches[0].reference.shape[1] - 2 * patches[0].margin
    columns, rows = [each.column for each in patches], [each.row for each in patches]
    area = (max(columns) - min(columns) + side) * (max(rows) - min(rows) + side)
    return float(np.sqrt(max(1.0, len(patches) * side**2 / area)))


def _fit(found: Sequence[PatchShift], motion: str) -> tuple[np.ndarray, np.ndarray, float]:
    """One motion through the shifts of the patches: weighted least squares, patches beyond three robust deviations left out.

    Returns:
        matrix (2, 3), agrees (n,), and the largest standard error of the displacement within the patches, pixels.
    """
    places = np.array([(each.column, each.row) for each in found])
    shifts = np.array([(each.shift_x, each.shift_y) for each in found])
    weights = np.maximum([each.correlation for each in found], 0.01) ** 2
    centre = places.mean(axis=0)
    # positions near 1 keep the normal equations well conditioned
    size = max(float(np.abs(places - centre).max()), 1.0)
    design = _design((places - centre) / size, motion)
    agrees = np.ones(len(found), bool)
    answer = np.zeros(design.shape[2])
    for _ in range(10):
        if agrees.sum() * 2 < design.shape[2] + 2:
            break
        rows = design[agrees].reshape(-1, design.shape[2])
        root = np.sqrt(np.repeat(weights[agrees], 2))
        answer = np.linalg.lstsq(rows * root[:, None], shifts[agrees].reshape(-1) * root, rcond=None)[0]
        residual = shifts - design @ answer
        spread = 1.4826 * np.median(np.abs(residual), axis=0) + 0.01
        again = (np.abs(residual) <= 3 * spread).all(axis=1)
        if (again == agrees).all():
            break
        agrees = again
    residual = shifts - design @ answer
    error = _standard_error(design, weights, residual, agrees)
    return _matrix(answer, centre, size, motion), agrees, error


def _design(places: np.ndarray, motion: str) -> np.ndarray:
    """(n, 2, parameters) so that design @ parameters is the shift at each place (n, 2)."""
    x, y = places.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    columns = [(one, zero), (zero, one)]
    if motion == "euclidean":
        columns.append((-y, x))
    elif motion == "affine":
        columns += [(x, zero), (y, zero), (zero, x), (zero, y)]
    return np.stack([np.stack(each, axis=1) for each in columns], axis=2)


def _standard_error(design: np.ndarray, weights: np.ndarray, residual: np.ndarray, agrees: np.ndarray) -> float:
    """Largest standard error of the fitted displacement at a patch (sandwich estimator: patches differ in how sure they are)."""
    parameters = design.shape[2]
    if agrees.sum() * 2 <= parameters:
        return float("inf")
    rows = design[agrees].reshape(-1, parameters)
    weight = np.repeat(weights[agrees], 2)
    bread = np.linalg.pinv(rows.T @ (rows * weight[:, None]))
    scores = rows * (weight * residual[agrees].reshape(-1))[:, None]
    covariance = bread @ (scores.T @ scores) @ bread * (2 * agrees.sum()) / (2 * agrees.sum() - parameters)
    at_patches = np.einsum("nip,pq,niq->n", design, covariance, design)
    return float(np.sqrt(at_patches.max()))


def _matrix(answer: np.ndarray, centre: np.ndarray, size: float, motion: str) -> np.ndarray:
    """Parameters of the fit -> (2, 3) matrix in pixels."""
    linear = np.eye(2)
    if motion == "euclidean":
        angle = answer[2] / size
        linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    elif motion == "affine":
        linear = np.eye(2) + answer[2:].reshape(2, 2) / size
    return np.column_stack([linear, centre + answer[:2] - linear @ centre])


def _correlation(patches: Sequence[Patch], matrix: np.ndarray) -> float:
    """Correlation of the structure of both images when the image is moved back by a motion; mean over the patches."""
    cv2 = require("cv2")
    values = []
    for patch in patches:
        side = patch.reference.shape[1]
        corner = np.array([patch.column, patch.row]) - (side - 1) / 2
        local = matrix.copy()
        local[:, 2] = matrix @ (*corner, 1) - corner
        warp = local.astype(np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = np.stack([cv2.warpAffine(channel, warp, (side, side), flags=flags) for channel in patch.image])
        both = patch.reference_ok & (cv2.warpAffine(patch.image_ok.astype(np.float32), warp, (side, side), flags=flags) > 0.99)
        if np.count_nonzero(both) > 100:
            values.append(_pearson(patch.reference * both, moved * both, len(moved) * np.count_nonzero(both)))
    return float(np.nanmean(values)) if values else float("nan")


def _pearson(first: np.ndarray, second: np.ndarray, count: int) -> float:
    """Correlation coefficient of `count` numbers of each; all others are 0 in both. NaN where one is constant."""

    def total(values: np.ndarray) -> float:
        return float(values.sum(dtype=np.float64))

    sums = total(first), total(second)
    spread = (total(first * first) - sums[0] ** 2 / count) * (total(second * second) - sums[1] ** 2 / count)
    return (total(first * second) - sums[0] * sums[1] / count) / math.sqrt(spread) if spread > 0 else float("nan")

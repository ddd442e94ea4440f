"""How often suggested names are right: clusters of labelled 30 m chips (one chip of each place) against ESA WorldCover.

python -m bench.names FOLDER        # the folder hls_worldcover_30m of the development data
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from osgeo import gdal
from sklearn.cluster import KMeans

from s2landcover_plugin.engine.features import Feature
from s2landcover_plugin.engine.signatures import suggest

BANDS = [Feature(name) for name in ("B01", "B02", "B03", "B04", "B8A", "B11", "B12")]
COVERS = {10: "trees", 20: "shrub", 30: "grass", 40: "crop", 50: "built-up", 60: "bare", 80: "water", 90: "wetland", 100: "moss"}
PURE = 0.6
"""Clusters count for a cover that more than this share of their pixels has."""


def labelled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reflectances (n, 7) and WorldCover codes (n,) of the pixels without cloud and shadow, and where both agree on water."""
    data = gdal.Open(str(path)).ReadAsArray().reshape(9, -1)
    flags, label = data[7], data[8]
    use = (flags != 255) & (flags & 0b1010 == 0) & ((flags >> 5 & 1) == (label == 80))
    return data[:7, use].T * 1e-4, label[use]


def main(folder: Path) -> None:
    """Print a table: cover of most pixels of a cluster, how many clusters got which name."""
    of_place = {row["site"]: row["file"] for row in csv.DictReader(open(folder / "chips.csv"))}
    counts: dict[str, Counter[str]] = {}
    for file in of_place.values():
        values, label = labelled(folder / file)
        if len(values) < 2000:
            continue
        for seed in range(3):
            fit = KMeans(6, n_init=1, random_state=seed).fit((values - values.mean(0)) / values.std(0))
            for number in range(6):
                mine = fit.labels_ == number
                codes, pixels = np.unique(label[mine], return_counts=True)
                if pixels.max() > PURE * mine.sum():
                    cover = COVERS[int(codes[pixels.argmax()])]
                    found = suggest(BANDS, values[mine].mean(axis=0)[None])[0]
                    counts.setdefault(cover, Counter())[found.text or "none"] += 1
    for cover, names in counts.items():
        print(f"{cover:9s} {sum(names.values()):4d}  " + ", ".join(f"{name} {n}" for name, n in names.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

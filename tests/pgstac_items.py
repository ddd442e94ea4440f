"""Collections and items of the pgstac suite as ndjson: `python -m tests.pgstac_items FOLDER`.

120 items, more than one page of a search, on a line of small footprints; cloud cover such that text order differs from numeric order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLLECTION = {
    "type": "Collection",
    "stac_version": "1.0.0",
    "id": "sentinel-2-l2a",
    "description": "Items for tests",
    "license": "CC0-1.0",
    "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]}},
    "links": [],
}
N_ITEMS = 120


def item(number: int) -> dict:
    """One item of 2023; every tenth says nothing of clouds."""
    x = 10 + number * 0.001
    ring = [[x, 46], [x + 1, 46], [x + 1, 47], [x, 47], [x, 46]]
    properties = {"datetime": f"2023-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}T10:00:00Z", "platform": "sentinel-2a"}
    if number % 10:
        properties["eo:cloud_cover"] = (number * 37 % 113) * 0.9
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": f"S2A_T32TPS_{number:03d}",
        "collection": COLLECTION["id"],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [x, 46, x + 1, 47],
        "properties": properties,
        "links": [],
        "assets": {},
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "collections.ndjson").write_text(json.dumps(COLLECTION) + "\n")
    (folder / "items.ndjson").write_text("".join(json.dumps(item(i)) + "\n" for i in range(N_ITEMS)))

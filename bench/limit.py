"""What GDAL alone needs: reading rasters, and writing one of the size, type and content of a result.

`python -m bench.limit SOURCE [SOURCE …] [--result RESULT TARGET]` reads all bands of all sources in strips of 1024 rows and, with --result,
writes a raster like RESULT: one strip from its middle, again and again, so that the same kind of content is compressed but hardly anything
is read.
`python -m bench.limit --stack SOURCE [SOURCE …] --result RESULT TARGET`: GDAL's own stack (a VRT of the sources, translated).
"""

from __future__ import annotations

import argparse

import numpy as np
from osgeo import gdal

STRIP = 1024
THREADS = "2"


def main() -> None:
    """Read, and maybe write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--result", nargs=2, metavar=("RESULT", "TARGET"))
    parser.add_argument("--stack", action="store_true")
    arguments = parser.parse_args()
    gdal.UseExceptions()
    gdal.SetConfigOption("GDAL_NUM_THREADS", THREADS)
    gdal.SetCacheMax(256 << 20)
    if arguments.stack:
        stack(arguments.sources, *arguments.result)
    else:
        stream(arguments.sources, arguments.result)


def stream(sources: list[str], result: list[str] | None) -> None:
    """Read strip by strip; write as many strips."""
    inputs = [gdal.OpenEx(path, gdal.OF_RASTER, open_options=[f"NUM_THREADS={THREADS}"]) for path in sources]
    like = gdal.Open(result[0]) if result else None
    output = strip = None
    if result and like:
        output = gdal.GetDriverByName("GTiff").Create(
            result[1], like.RasterXSize, like.RasterYSize, like.RasterCount, like.GetRasterBand(1).DataType, options_of(like)
        )
        top = max(0, like.RasterYSize // 2 - STRIP) // STRIP * STRIP
        strip = like.ReadAsArray(0, top, like.RasterXSize, min(STRIP, like.RasterYSize))
        strip = strip.reshape(like.RasterCount, -1, like.RasterXSize)
    height = inputs[0].RasterYSize
    for top in range(0, height, STRIP):
        for each in inputs:
            each.ReadAsArray(0, top, each.RasterXSize, min(STRIP, height - top))
        if output is not None and strip is not None:
            output.WriteArray(np.ascontiguousarray(strip[:, : min(STRIP, height - top)]).squeeze(), 0, top)
    if output is not None:
        output.FlushCache()


def stack(sources: list[str], result: str, target: str) -> None:
    """All bands of the sources on the grid of the result, by GDAL's own means."""
    like = gdal.Open(result)
    left, width, _, top, _, height = like.GetGeoTransform()
    bounds = (left, top + height * like.RasterYSize, left + width * like.RasterXSize, top)
    singles = [
        gdal.BuildVRT(f"/vsimem/{number}_{band}.vrt", [path], bandList=[band])
        for number, path in enumerate(sources)
        for band in range(1, gdal.Open(path).RasterCount + 1)
    ]
    for each in singles:
        each.FlushCache()
    together = gdal.BuildVRT(
        "", singles, separate=True, resampleAlg="bilinear", outputBounds=bounds, xRes=width, yRes=-height, resolution="user"
    )
    gdal.Translate(target, together, creationOptions=options_of(like))


def options_of(like: gdal.Dataset) -> list[str]:
    """Creation options with which a GeoTIFF was written."""
    width, height = like.GetRasterBand(1).GetBlockSize()
    structure = like.GetMetadata("IMAGE_STRUCTURE")
    options = ["TILED=YES", f"BLOCKXSIZE={width}", f"BLOCKYSIZE={height}", "BIGTIFF=IF_SAFER", f"NUM_THREADS={THREADS}"]
    options += [f"INTERLEAVE={structure.get('INTERLEAVE', 'BAND')}", f"COMPRESS={structure.get('COMPRESSION', 'NONE')}", "ZLEVEL=1"]
    return options + ([f"PREDICTOR={structure['PREDICTOR']}"] if "PREDICTOR" in structure else [])


if __name__ == "__main__":
    main()

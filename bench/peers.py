"""Other programs that do the same work, on the same scene: commands of those that are installed.

GRASS, SAGA and OTB come from Debian (`apt-get install grass-core saga otb-bin`); scikit-learn is there anyway; remotior_sensus, the engine
of SCP, runs if PEER_PYTHON is a Python that has it. They cluster into 8 classes with 10 iterations; OTB of Debian has no k-means, so its
Bayes classifier (full covariances, what a mixture is) is taken.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from osgeo import gdal, ogr

K, ITERATIONS = 8, 10
GRASS = """
set -e
r.external -o input={scene} output=b && g.region raster=b.1
for band in $(g.list raster pattern='b.*'); do r.null map=$band setnull=0 || true; done
i.group group=g subgroup=g input=$(g.list raster pattern='b.*' separator=comma)
i.cluster group=g subgroup=g signaturefile=s classes={k} iterations={n}
i.maxlik group=g subgroup=g signaturefile=s output=classes
r.out.gdal -f input=classes output={target} type=Byte createopt=COMPRESS=DEFLATE,TILED=YES --o
"""


def commands(scene: str, folder: Path) -> dict[str, list[str]]:
    """Name -> command, of the peers that can be run here; the first ones are compared with k-means, those named Bayes with the mixture."""
    found = {f"scikit-learn {method}, whole array": [sys.executable, "-m", "bench.peers", method, scene] for method in ("KMeans", "GMM")}
    if shutil.which("grass"):
        found["GRASS i.cluster + i.maxlik"] = grass(scene, folder)
    bands = []
    for number in range(1, gdal.Open(scene).RasterCount + 1):
        bands.append(str(folder / f"band{number}.tif"))
        gdal.Translate(bands[-1], scene, bandList=[number], creationOptions=["TILED=YES", "COMPRESS=DEFLATE", "PREDICTOR=2"])
    if "PEER_PYTHON" in os.environ:
        found["remotior_sensus k-means"] = [
            os.environ["PEER_PYTHON"],
            "-m",
            "bench.peers",
            "remotior",
            str(folder / "remotior.tif"),
            *bands,
        ]
    if shutil.which("saga_cmd"):
        options = ["-METHOD", "0", "-NCLUSTER", str(K), "-MAXITER", str(ITERATIONS), "-NORMALISE", "1"]
        where = ["-GRIDS", ";".join(bands), "-CLUSTER", str(folder / "saga.sgrd"), "-STATISTICS", str(folder / "saga.txt")]
        found["SAGA k-means"] = ["saga_cmd", "--cores=2", "imagery_classification", "1", *where, *options]
    if shutil.which("otbcli_ImageClassifier"):
        model = _otb_model(scene, folder)
        target = f"{folder / 'otb.tif'}?&gdal:co:COMPRESS=DEFLATE&gdal:co:TILED=YES&nodata=0"
        found["OTB Bayes classifier"] = ["otbcli_ImageClassifier", "-in", scene, "-model", model, "-out", target, "uint8", "-ram", "2048"]
    return found


def grass(scene: str, folder: Path) -> list[str]:
    """Clustering by GRASS."""
    script = folder / f"grass_{Path(scene).stem}.sh"
    script.write_text(GRASS.format(scene=scene, target=folder / "grass.tif", k=K, n=ITERATIONS))
    return ["grass", "--tmp-location", scene, "--exec", "bash", str(script)]


def _otb_model(scene: str, folder: Path) -> str:
    """A Bayes classifier of OTB, trained on the clusters of a sample."""
    import subprocess

    pixels, labels = _sample(scene)
    samples, model = folder / "otb.gpkg", str(folder / "otb.model")
    samples.unlink(missing_ok=True)
    source = ogr.GetDriverByName("GPKG").CreateDataSource(str(samples))
    layer = source.CreateLayer("samples", None, ogr.wkbNone)
    names = [f"b{number}" for number in range(pixels.shape[1])]
    layer.CreateField(ogr.FieldDefn("class", ogr.OFTInteger))
    for name in names:
        layer.CreateField(ogr.FieldDefn(name, ogr.OFTReal))
    layer.StartTransaction()
    for values, label in zip(pixels, labels):
        feature = ogr.Feature(layer.GetLayerDefn())
        feature["class"] = int(label) + 1
        for name, value in zip(names, values):
            feature[name] = float(value)
        layer.CreateFeature(feature)
    layer.CommitTransaction()
    del layer, source
    train = ["otbcli_TrainVectorClassifier", "-io.vd", str(samples), "-io.out", model, "-cfield", "class", "-feat", *names]
    subprocess.run([*train, "-classifier", "bayes"], check=True, capture_output=True)
    return model


def _sample(scene: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, bands) from the middle of a scene, and their clusters."""
    from sklearn.cluster import KMeans

    source = gdal.Open(scene)
    side = min(1000, source.RasterXSize // 2)
    pixels = source.ReadAsArray(side, side, side, side).reshape(source.RasterCount, -1).T.astype(float)
    pixels = pixels[np.random.default_rng(0).choice(len(pixels), 20000)]
    return pixels, KMeans(K, n_init=1, random_state=0).fit_predict(pixels)


def remotior(target: str, bands: list[str]) -> None:
    """Clustering by remotior_sensus (its minimum distance is k-means)."""
    from importlib import import_module

    session = import_module("remotior_sensus").Session(n_processes=2, available_ram=8000)
    how = {"algorithm_name": "minimum distance", "class_number": K, "max_iter": ITERATIONS, "seed_signatures": "random pixel"}
    session.band_clustering(input_bands=bands, output_raster_path=target, overwrite=True, **how)
    session.close()


def main() -> None:
    """The notebook's way: the whole raster in memory, fitted on all pixels (k-means) or on 50 000 (mixture), then predicted."""
    if sys.argv[1] == "remotior":
        return remotior(sys.argv[2], sys.argv[3:])
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    method, scene = sys.argv[1:3]
    source = gdal.Open(scene)
    pixels = source.ReadAsArray().reshape(source.RasterCount, -1).T.astype(np.float32)
    pixels = (pixels - pixels.mean(0)) / pixels.std(0)
    if method == "KMeans":
        labels = KMeans(K, n_init=1, max_iter=ITERATIONS, random_state=0, tol=0).fit(pixels).labels_
    else:
        few = pixels[np.random.default_rng(0).choice(len(pixels), 50000, replace=False)]
        labels = GaussianMixture(K, random_state=0).fit(few).predict(pixels)
    options = ["COMPRESS=DEFLATE", "TILED=YES"]
    target = str(Path(scene).parent / "sklearn.tif")
    output = gdal.GetDriverByName("GTiff").Create(target, source.RasterXSize, source.RasterYSize, 1, gdal.GDT_Byte, options)
    output.WriteArray(labels.reshape(source.RasterYSize, -1).astype(np.uint8) + 1)
    output.FlushCache()


if __name__ == "__main__":
    main()

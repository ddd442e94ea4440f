"""Write docs/landcover.model3, the chain fetch -> stack -> indices -> cluster -> areas: `python -m demo.make_model`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsProcessingModelAlgorithm,
    QgsProcessingModelChildAlgorithm,
    QgsProcessingModelChildParameterSource,
    QgsProcessingModelOutput,
    QgsProcessingModelParameter,
    QgsProcessingParameterDateTime,
    QgsProcessingParameterExtent,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
)
from qgis.PyQt.QtCore import QPointF

MODEL = Path(__file__).resolve().parent.parent / "docs" / "landcover.model3"
Source = QgsProcessingModelChildParameterSource


def add_input(model, definition, row):
    """A model input."""
    parameter = QgsProcessingModelParameter(definition.name())
    parameter.setPosition(QPointF(120, 60 + 60 * row))
    model.addModelParameter(definition, parameter)


def add_child(model, name, algorithm, row, sources, outputs=()):
    """A step; every mandatory parameter that `sources` leaves out gets its default."""
    child = QgsProcessingModelChildAlgorithm(f"s2landcover:{algorithm}")
    child.setChildId(name)
    child.setDescription(child.algorithm().displayName())
    child.setPosition(QPointF(400, 60 + 90 * row))
    for definition in child.algorithm().parameterDefinitions():
        if definition.name() in sources or definition.isDestination():
            continue
        if definition.defaultValue() is not None:
            child.addParameterSources(definition.name(), [Source.fromStaticValue(definition.defaultValue())])
    for parameter, value in sources.items():
        child.addParameterSources(parameter, value if isinstance(value, list) else [value])
    kept = {}
    for output, label in outputs:
        model_output = QgsProcessingModelOutput(label)
        model_output.setChildId(name)
        model_output.setChildOutputName(output)
        model_output.setPosition(QPointF(700, 60 + 90 * row))
        kept[label] = model_output
    child.setModelOutputs(kept)
    model.addChildAlgorithm(child)


def build():
    """The model."""
    model = QgsProcessingModelAlgorithm("Land cover of an area", "S2 Land Cover", "landcover")
    dates = QgsProcessingParameterDateTime.Type.Date
    add_input(model, QgsProcessingParameterString("STAC_URL", "STAC catalog", "https://earth-search.aws.element84.com/v1"), 0)
    add_input(model, QgsProcessingParameterExtent("EXTENT", "Extent"), 1)
    add_input(model, QgsProcessingParameterDateTime("START_DATE", "First date", dates), 2)
    add_input(model, QgsProcessingParameterDateTime("END_DATE", "Last date", dates), 3)
    number = QgsProcessingParameterNumber.Type.Integer
    add_input(model, QgsProcessingParameterNumber("N_CLUSTERS", "Number of clusters (0 = choose)", number, 0, False, 0, 254), 4)
    search = {name: Source.fromModelParameter(name) for name in ("STAC_URL", "EXTENT", "START_DATE", "END_DATE")}
    bands = Source.fromStaticValue(["B02", "B03", "B04", "B08", "B11", "SCL"])
    add_child(model, "fetch", "stacfetch", 0, {**search, "BANDS": bands})
    mask = {"MASK_CLOUDS": Source.fromStaticValue(True), "RESOLUTION": Source.fromStaticValue("20")}
    add_child(model, "stack", "bandstack", 1, {"INPUTS": [Source.fromChildOutput("fetch", "OUTPUT")], **mask}, [("OUTPUT", "Bands")])
    chosen = Source.fromStaticValue(["NDVI", "NDWI", "BSI"])
    add_child(
        model,
        "indices",
        "spectralindices",
        2,
        {"INPUT": Source.fromChildOutput("stack", "OUTPUT"), "INDICES": chosen},
        [("OUTPUT", "Indices")],
    )
    clusters = {"INPUT": Source.fromChildOutput("indices", "OUTPUT"), "N_CLUSTERS": Source.fromModelParameter("N_CLUSTERS")}
    add_child(model, "cluster", "clusterraster", 3, clusters, [("OUTPUT", "Classes"), ("OUTPUT_HTML", "Report")])
    add_child(model, "areas", "classareas", 4, {"INPUT": Source.fromChildOutput("cluster", "OUTPUT")}, [("OUTPUT_TABLE", "Areas")])
    return model


def main():
    """Build, check and save."""
    app = QgsApplication([], True)
    app.initQgis()
    sys.path.append(QgsApplication.pkgDataPath() + "/python/plugins")
    from processing.core.Processing import Processing

    from s2landcover_plugin.plugin import S2LandcoverPlugin

    Processing.initialize()
    plugin = S2LandcoverPlugin(None)
    plugin.initProcessing()
    model = build()
    valid, problems = model.validate()
    print("\n".join(problems) or MODEL)
    model.toFile(str(MODEL))
    sys.stdout.flush()
    os._exit(0 if valid else 1)


if __name__ == "__main__":
    main()

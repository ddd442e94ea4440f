"""Land cover by clusters."""

from qgis.core import QgsProcessingParameterFile

from ..engine.clustering import ClusterOptions, ClusterOutputs, run_clustering
from ..engine.index_table import INDICES
from .base import Algorithm
from .styling import show_own_style

GROUP = ("landcover", "Land cover")


def add_feature_parameters(algorithm):
    """Add the raster and what of it is used."""
    algorithm.add_raster(help="A stack of bands, such as the output of Fetch bands or Stack bands.")
    algorithm.add_text("BANDS", "Bands (empty: all)", "Names or numbers, comma-separated (B02,B03,B04,B08 or 1,2,3). Empty: all but SCL.")
    algorithm.add_choices("INDICES", "Spectral indices to add", [index.name for index in INDICES])
    algorithm.add_text("BAND_MAP", "Band map", "For indices of files without band names: red=3,nir=4.", advanced=True)


def cluster_options(algorithm, parameters, context):
    """ClusterOptions from the parameters."""
    lists = {name.lower(): algorithm.texts(parameters, name, context) for name in ("BANDS", "INDICES")}
    band_map = algorithm.parameterAsString(parameters, "BAND_MAP", context)
    return algorithm.options(ClusterOptions, parameters, context, band_map=band_map, **lists)


class ClusterRaster(Algorithm):
    """Unsupervised classification."""

    ID = "clusterraster"
    TITLE = "Cluster raster"
    GROUP = GROUP
    TAGS = ("k-means", "gmm", "mixture", "unsupervised", "classification", "isodata")
    HELP = (
        "Groups the pixels of a raster into clusters of similar reflectance and writes a class raster with names, colours and areas.\n\n"
        "Clusters are found on a seeded sample spread over the raster: by k-means (k-means++ starts, Lloyd), where every pixel goes to the "
        "nearest centre, or as a Gaussian mixture with full covariances (EM, from the k-means centres), where it goes to the most likely "
        "cluster. With 0 clusters the number is chosen by a quality index or by the votes of all.\n\n"
        "Class 1 is the darkest, the last the brightest. Names (water, dense vegetation, ...) are suggested from the mean spectrum where "
        "green, red and near infrared are there; the report shows the evidence, and which are ambiguous. Colours go with the names and can "
        "be told apart with colour vision deficiency. A table of your own replaces names and colours: edit the one of a first run.\n\n"
        "Confidence is 0 to 1: the posterior probability of the cluster (mixture), or by how much the second nearest centre is farther "
        "away than the nearest (k-means; 0: equally far). A pixel counts where all its bands are valid. The model (JSON) keeps clusters, "
        "scaling and class names, for Apply clusters; the table (CSV) and the report (HTML) keep the hectares per class."
    )

    def define(self):
        add_feature_parameters(self)
        self.add_options(ClusterOptions)
        reference = QgsProcessingParameterFile("REFERENCE_MODEL", self.tr("Reference model"), optional=True)
        help_text = "A model of an earlier date or a neighbouring scene: its clusters keep code, name and colour where found again."
        self.add(reference, help_text, advanced=True)
        table = QgsProcessingParameterFile("CLASS_TABLE", self.tr("Names and colours (CSV)"), optional=True)
        help_text = "Columns code, name and, if wanted, color (#rrggbb): they replace the suggested ones. The table of a run can be edited."
        self.add(table, help_text, advanced=True)
        self.add_output_raster("OUTPUT", "Clusters")
        self.add_output_raster("OUTPUT_CONFIDENCE", "Confidence", optional=True)
        self.add_output_polygons("OUTPUT_POLYGONS", "Clusters as polygons")
        self.add_output_file("OUTPUT_MODEL", "Model (JSON)", "json")
        self.add_output_file("OUTPUT_TABLE", "Areas (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(
            N_CLUSTERS="Number of clusters", INERTIA="Inertia of the sample", DAVIES_BOULDIN="Davies-Bouldin index of the sample"
        )

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        output, confidence = (self.destination(parameters, name, context) for name in ("OUTPUT", "OUTPUT_CONFIDENCE"))
        model, table, html = (self.file(parameters, name, context) for name in ("OUTPUT_MODEL", "OUTPUT_TABLE", "OUTPUT_HTML"))
        polygons = self.parameterAsOutputLayer(parameters, "OUTPUT_POLYGONS", context)
        outputs = ClusterOutputs(output, model, table, html, confidence, polygons)
        reference, names = (self.parameterAsFile(parameters, name, context) for name in ("REFERENCE_MODEL", "CLASS_TABLE"))
        report = run_clustering(source, outputs, cluster_options(self, parameters, context), progress, reference, names)
        self.style(context, output, report.legend)
        show_own_style(context, polygons)
        return {
            "OUTPUT": output,
            "OUTPUT_CONFIDENCE": confidence,
            "OUTPUT_POLYGONS": polygons,
            "OUTPUT_MODEL": model,
            "OUTPUT_TABLE": table,
            "OUTPUT_HTML": html,
            "N_CLUSTERS": report.n_clusters,
            "INERTIA": report.inertia,
            "DAVIES_BOULDIN": report.davies_bouldin,
        }

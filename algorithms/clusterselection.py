"""How many clusters?"""

from ..engine.clustering import ClusterOptions, run_selection
from .base import Algorithm
from .clusterraster import GROUP, add_feature_parameters, cluster_options

USED = ("method", "k_min", "k_max", "scaling", "sample_size", "seed")


class ClusterSelection(Algorithm):
    """Quality indices for a range of cluster numbers."""

    ID = "clusterselection"
    TITLE = "Choose the number of clusters"
    GROUP = GROUP
    TAGS = ("elbow", "davies-bouldin", "k-means")
    HELP = (
        "Fits k-means, or Gaussian mixtures, for every number of clusters in a range, on one seeded sample of the raster, and tells which "
        "number the elbow of the inertia curve (Satopaa et al. 2011) and the Davies-Bouldin index (1979; smaller is better) would choose."
    )

    def define(self):
        add_feature_parameters(self)
        self.add_options(ClusterOptions, only=USED)
        self.add_output_file("OUTPUT_TABLE", "Table (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(N_CLUSTERS="Number of clusters (elbow)", ELBOW_K="Elbow", DAVIES_BOULDIN_K="Smallest Davies-Bouldin index")

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        table, html = self.file(parameters, "OUTPUT_TABLE", context), self.file(parameters, "OUTPUT_HTML", context)
        selection = run_selection(source, cluster_options(self, parameters, context), table, html, progress)
        return {
            "OUTPUT_TABLE": table,
            "OUTPUT_HTML": html,
            "N_CLUSTERS": selection.chosen,
            "ELBOW_K": selection.elbow_k,
            "DAVIES_BOULDIN_K": selection.davies_bouldin_k,
        }

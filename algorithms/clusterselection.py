"""How many clusters?"""

from ..engine.clustering import ClusterOptions, run_selection
from .base import Algorithm
from .clusterraster import GROUP, add_feature_parameters, cluster_options

USED = ("method", "selection", "k_min", "k_max", "scaling", "sample_size", "seed")
OUTPUTS = {
    "ELBOW_K": "elbow",
    "DAVIES_BOULDIN_K": "davies-bouldin",
    "SILHOUETTE_K": "silhouette",
    "CALINSKI_HARABASZ_K": "calinski-harabasz",
    "STABILITY_K": "stability",
    "BIC_K": "bic",
}
"""Output -> the index it comes from; BIC_K has no value for k-means."""


class ClusterSelection(Algorithm):
    """Quality indices for a range of cluster numbers."""

    ID = "clusterselection"
    TITLE = "Choose the number of clusters"
    GROUP = GROUP
    TAGS = ("elbow", "davies-bouldin", "k-means")
    HELP = (
        "Fits k-means, or Gaussian mixtures, for every number of clusters in a range, on one seeded sample of the raster, and tells which "
        "number each index would choose: the elbow of the inertia curve (Satopaa et al. 2011), Davies-Bouldin (1979), silhouette "
        "(Rousseeuw 1987), Calinski-Harabasz (1974), stability over parts of the sample (Ben-Hur et al. 2002), and for mixtures BIC "
        "(Schwarz 1978). Consensus counts their votes, and says who voted for what."
    )

    def define(self):
        add_feature_parameters(self)
        self.add_options(ClusterOptions, only=USED)
        self.add_output_file("OUTPUT_TABLE", "Table (CSV)", "csv")
        self.add_output_file("OUTPUT_HTML", "Report (HTML)", "html")
        self.add_numbers(N_CLUSTERS="Number of clusters", **{name: f"Number by {index}" for name, index in OUTPUTS.items()})

    def compute(self, parameters, context, progress):
        source = self.raster(parameters, "INPUT", context)
        table, html = self.file(parameters, "OUTPUT_TABLE", context), self.file(parameters, "OUTPUT_HTML", context)
        selection = run_selection(source, cluster_options(self, parameters, context), table, html, progress)
        return {
            "OUTPUT_TABLE": table,
            "OUTPUT_HTML": html,
            "N_CLUSTERS": selection.chosen,
            **{name: selection.votes.get(index) for name, index in OUTPUTS.items()},
        }

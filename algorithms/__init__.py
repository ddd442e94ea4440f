"""The Processing algorithms; each translates parameters to the engine and back."""

from .alignrasters import AlignRasters
from .applyclusters import ApplyClusters
from .bandstack import BandStack
from .classareas import ClassAreas
from .clusterraster import ClusterRaster
from .clusterselection import ClusterSelection
from .detectchange import DetectChange
from .modeltemplate import ModelTemplate
from .segmentraster import SegmentRaster
from .spectralindices import SpectralIndices
from .stacfetch import StacFetch
from .stacsearch import StacSearch

ALGORITHMS = (
    StacSearch,
    StacFetch,
    BandStack,
    SpectralIndices,
    ClusterSelection,
    ClusterRaster,
    ApplyClusters,
    ClassAreas,
    SegmentRaster,
    ModelTemplate,
    AlignRasters,
    DetectChange,
)

"""S2 Land Cover, a QGIS Processing plugin. Importable without QGIS; only classFactory needs it."""

import os
import site
import sys

_here = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_here, "algorithms")):
    # a checkout whose symbolic links became text files (Windows): algorithms lies beside this folder
    __path__.append(os.path.dirname(_here))


def classFactory(iface):
    """What QGIS calls to load the plugin; `iface` is None in qgis_process."""
    _use_profile_packages()
    from .plugin import S2LandcoverPlugin

    return S2LandcoverPlugin(iface)


def _use_profile_packages():
    """Append <profile>/python/dependencies/<X.Y>, where QPIP and the README's pip line put packages.

    Appended, never inserted: another numpy before the system's would break GDAL's own bindings.
    """
    from qgis.core import QgsApplication

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = os.path.join(QgsApplication.qgisSettingsDirPath(), "python", "dependencies", version)
    if os.path.isdir(folder):
        site.addsitedir(folder)

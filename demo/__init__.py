"""A simulated Sentinel-2 area, real servers on loopback, and the main job run on them by qgis_process."""

"""Version of the plugin; metadata.txt says the same (a test compares them)."""

VERSION = "0.1.0"

#!/bin/bash
# Install what the project needs on Debian or Ubuntu: QGIS, GDAL, nginx by apt; the pinned Python packages into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
PACKAGES=(qgis python3-qgis python3-gdal python3-venv python3-matplotlib python3-jinja2 nginx-light xvfb xauth fonts-open-sans)

if ! command -v apt-get >/dev/null; then
    cat >&2 <<'TEXT'
This command installs with apt, on Debian and Ubuntu. On other systems install these yourself, then run
`python3 -m venv --system-site-packages .venv`, `.venv/bin/pip install -r requirements-lock.txt` and `touch .venv/.ready`:
QGIS 3.22 or later with its Python bindings, GDAL with Python bindings, matplotlib, Jinja2, nginx, and Python 3.9 or later with venv.
TEXT
    exit 2
fi

missing=()
for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    SUDO=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "As root, run: apt-get install ${missing[*]}" >&2; exit 2; }
        SUDO=(sudo)
    fi
    echo "Installing ${missing[*]}"
    "${SUDO[@]}" apt-get -q update
    "${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=600 install "${missing[@]}"
fi

# The bindings of GDAL are built for the system's numpy: the virtual environment sees it, and pip must not replace it.
/usr/bin/python3 -m venv --system-site-packages .venv
/usr/bin/python3 -c 'import numpy; print("numpy==" + numpy.__version__)' > .venv/constraints.txt
.venv/bin/pip install -q --disable-pip-version-check -c .venv/constraints.txt -r requirements-lock.txt
touch .venv/.ready

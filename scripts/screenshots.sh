#!/bin/bash
# Pictures of the plugin in the real QGIS under Xvfb, into docs/: toolbox, dialog, canvas with legend. Runs the demo first if needed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e build/demo/landcover.tif ] || .venv/bin/python -m demo.run
PROFILE=$(mktemp -d)
mkdir -p "$PROFILE/profiles/default/QGIS" "$PROFILE/home"
mkdir -m 700 "$PROFILE/run"
cat > "$PROFILE/profiles/default/QGIS/QGIS3.ini" <<'INI'
[PythonPlugins]
s2landcover_plugin=true
processing=true
[qgis]
showTips=false
checkVersion=false
[app]
plugin_installer\checkOnStart=false
[locale]
userLocale=en_US
overrideFlag=true
[news-feed]
httpsfeedqgisorg\disabled=true
INI
exec 4> "$PROFILE/display"
Xvfb -displayfd 4 -screen 0 1700x1100x24 -nolisten tcp 2> /dev/null &
XVFB=$!
trap 'kill $XVFB 2>/dev/null || true; rm -rf "$PROFILE"' EXIT
for _ in $(seq 50); do [ -s "$PROFILE/display" ] && break; sleep 0.1; done
unset QT_QPA_PLATFORM
export DISPLAY=":$(cat "$PROFILE/display")" HOME="$PROFILE/home" QGIS_CUSTOM_CONFIG_PATH="$PROFILE" XDG_RUNTIME_DIR="$PROFILE/run" LC_ALL=C.UTF-8
export QGIS_PLUGINPATH="$PWD" SHOTS="$PWD/docs" DEMO="$PWD/build/demo"
PYTHONPATH="$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
export PYTHONPATH
timeout -k 5 150 qgis --nologo --noversioncheck --code scripts/screenshots.py
ls -l docs/*.png

#!/bin/bash
# Start a pgstac STAC API (PostgreSQL with PostGIS by apt, the rest in .venv-pgstac) with the items of the tests, run a command, stop it.
#   scripts/pgstac.sh COMMAND [ARGS...]      the command finds the API's address in PGSTAC_URL
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
[ "$(id -u)" = 0 ] || { echo "This needs root, to install PostgreSQL and to run it as the user postgres." >&2; exit 2; }
if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ! ls /usr/share/postgresql/*/extension/postgis.control >/dev/null 2>&1; then
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install postgresql postgresql-postgis
fi
BIN=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
if [ ! -e .venv-pgstac/.ready ]; then
    /usr/bin/python3 -m venv .venv-pgstac
    .venv-pgstac/bin/pip install -q --disable-pip-version-check 'pypgstac[psycopg]==0.10.0' 'stac-fastapi.pgstac==7.2.0' uvicorn
    touch .venv-pgstac/.ready
fi
WORK=$(mktemp -d)
chmod 755 "$WORK"
mkdir "$WORK/db"
chown postgres "$WORK/db"
as_postgres() { runuser -u postgres -- "$@"; }
PGPORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
APIPORT=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
API=
stop() {
    [ -z "$API" ] || kill "$API" 2>/dev/null || true
    (cd "$WORK" && as_postgres "$BIN/pg_ctl" -D "$WORK/db/data" -m fast -w stop >/dev/null 2>&1) || true
    rm -rf "$WORK"
}
trap stop EXIT
cd "$WORK"
as_postgres "$BIN/initdb" -D "$WORK/db/data" -U stac -A trust -E UTF8 --no-locale >/dev/null
printf "fsync=off\nlisten_addresses='127.0.0.1'\nport=%s\nunix_socket_directories=''\nshared_buffers=64MB\n" "$PGPORT" >> "$WORK/db/data/postgresql.conf"
as_postgres "$BIN/pg_ctl" -D "$WORK/db/data" -w -l "$WORK/db/pg.log" start >/dev/null
export PGHOST=127.0.0.1 PGPORT PGUSER=stac PGDATABASE=stac PGPASSWORD=x
"$BIN/createdb" -U stac stac
"$ROOT/.venv-pgstac/bin/pypgstac" migrate >/dev/null
"$BIN/psql" -q -c "ALTER ROLE stac SET search_path TO pgstac, public"
cd "$ROOT"
.venv/bin/python -m tests.pgstac_items "$WORK"
"$ROOT/.venv-pgstac/bin/pypgstac" load collections "$WORK/collections.ndjson" --method upsert >/dev/null
"$ROOT/.venv-pgstac/bin/pypgstac" load items "$WORK/items.ndjson" --method upsert >/dev/null
"$ROOT/.venv-pgstac/bin/uvicorn" stac_fastapi.pgstac.app:create_app --factory --host 127.0.0.1 --port "$APIPORT" > "$WORK/api.log" 2>&1 &
API=$!
export PGSTAC_URL="http://127.0.0.1:$APIPORT"
for _ in $(seq 150); do
    python3 -c "import urllib.request as u; u.urlopen('$PGSTAC_URL', timeout=1)" 2>/dev/null && break
    kill -0 "$API" 2>/dev/null || { cat "$WORK/api.log" >&2; exit 1; }
    sleep 0.2
done
"$@"

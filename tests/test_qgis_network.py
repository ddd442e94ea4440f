"""QGIS's own proxy, certificates and authentication configurations, through qgis_process."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest

from demo.qgis import environment, new_profile, results, run_process

from .conftest import read
from .fault_server import FaultServer, Reply, running, s3_refusal
from .network import KEYS, Proxy, catalog, file_reply, files_over_https, s3_items

EXTENT = "500400,502600,5197400,5199600 [EPSG:32633]"

STORE = """
import sys
from qgis.core import QgsApplication, QgsAuthMethodConfig
from qgis.PyQt.QtNetwork import QSslCertificate
app = QgsApplication([], False)
app.initQgis()
manager = app.authManager()
if not manager.setMasterPassword("master", True):
    sys.exit("no master password")
kind, *pairs = sys.argv[1:]
if kind == "certificate":
    text = open(pairs[0], "rb").read()
    ok = manager.storeCertAuthority(QSslCertificate(text)) and manager.storeCertTrustPolicy(QSslCertificate(text), 1)
    manager.initSslCaches() if hasattr(manager, "initSslCaches") else None
    print("stored" if ok is not False else "failed")
else:
    config = QgsAuthMethodConfig(kind)
    config.setName("test")
    for pair in pairs:
        config.setConfig(*pair.split("=", 1))
    stored = manager.storeAuthenticationConfig(config)
    print(config.id())
sys.stdout.flush()
import os
os._exit(0)
"""


def store(variables, *arguments):
    """Put something into the authentication database of a profile; its id."""
    done = subprocess.run(
        [sys.executable, "-c", STORE, *arguments], env={**environment(), **variables}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def keyring(tmp_path):
    """Variables for an authentication database with a master password."""
    folder = tmp_path / "auth"
    folder.mkdir()
    (tmp_path / "master").write_text("master")
    return {
        "QGIS_AUTH_DB_DIR_PATH": str(folder),
        "QGIS_AUTH_PASSWORD_FILE": str(tmp_path / "master"),
        "QGIS_CUSTOM_CONFIG_PATH": new_profile(),
    }


def fetch(address, out, variables, **more):
    parameters = {"STAC_URL": address, "EXTENT": EXTENT, "BANDS": "B04", "OUTPUT": str(out / "o.tif"), **more}
    return run_process("s2landcover:stacfetch", {**parameters, "OUTPUT_LEDGER": str(out / "o.json")}, variables=variables)


def succeeded(done, out, expected):
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(done.stdout)["SCENES"] == "one"
    np.testing.assert_array_equal(read(out / "o.tif")[0], expected)
    return done


def test_the_proxy_of_qgis_is_used(root, out, proxy):
    host, port = proxy.split(":")
    lines = f"[proxy]\nproxyEnabled=true\nproxyType=HttpProxy\nproxyHost={host}\nproxyPort={port}\n"
    with running(FaultServer(root[0])) as server:
        address = f"{server.url}/items.json"
        succeeded(fetch(address, out, {"QGIS_CUSTOM_CONFIG_PATH": new_profile(lines)}), out, root[1])
        assert {urlsplit(url).path for url in Proxy.passed} == {"/items.json", "/B04.tif", "/SCL.tif"}
        Proxy.passed.clear()
        lines += f"noProxyUrls={server.url}\n"
        succeeded(fetch(address, out, {"QGIS_CUSTOM_CONFIG_PATH": new_profile(lines)}), out, root[1])
        assert Proxy.passed == []


def test_keys_of_an_authentication_configuration(root, out, keyring):
    hrefs = s3_items(root[0])

    def refuse(request):
        return (s3_refusal(request, KEYS) or file_reply(root[0], request)) if request.path.startswith("/eodata") else None

    with running(FaultServer(root[0], refuse=refuse)) as server:
        address = catalog(server, root[0], **hrefs)
        variables = {**keyring, "AWS_S3_ENDPOINT": server.url[7:], "AWS_HTTPS": "NO"}
        good = store(keyring, "Basic", "username=MYKEY", f"password={KEYS['MYKEY']}")
        bad = store(keyring, "Basic", "username=MYKEY", "password=hunter2")
        done = succeeded(fetch(address, out, variables, AUTHCFG=good), out, root[1])
        assert KEYS["MYKEY"] not in done.stdout + done.stderr + (out / "o.json").read_text()
        for wrong, said in ((bad, "refuses access"), ("nothere", "authentication configuration cannot be read"), ("", "need credentials")):
            done = fetch(address, out, variables, **({"AUTHCFG": wrong} if wrong else {}))
            assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
            assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "pair", "header", "value"),
    [("APIHeader", "X-Api-Key=shh", "X-Api-Key", "shh"), ("EsriToken", "token=shh", "X-Esri-Authorization", "Bearer shh")],
)
def test_a_header_of_an_authentication_configuration(root, out, keyring, kind, pair, header, value):
    """One kind that QGIS 3.22 cannot send itself, and one that it can."""

    def refuse(request):
        return None if (request.headers.get(header) or "").strip() == value else Reply(401)

    with running(FaultServer(root[0], refuse=refuse)) as server:
        name = store(keyring, kind, pair)
        done = succeeded(fetch(f"{server.url}/items.json", out, keyring, AUTHCFG=name), out, root[1])
        assert "shh" not in done.stdout + done.stderr


def test_a_certificate_that_qgis_trusts(root, out, keyring, certificate):
    _, pem, key = certificate
    with files_over_https(root[0], pem, key) as address:
        done = fetch(f"https://{address}/items.json", out, keyring)
        assert done.returncode == 1 and "certificate" in done.stderr
        store(keyring, "certificate", str(pem))
        succeeded(fetch(f"https://{address}/items.json", out, keyring), out, root[1])

"""How files of each provider are reached: tokens, keys, logins, proxies, certificates; and that no secret is told anywhere."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import time
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from osgeo import gdal

from s2landcover_plugin.engine import access, addresses
from s2landcover_plugin.engine.credentials import Credentials, known_credentials
from s2landcover_plugin.engine.errors import EngineError
from s2landcover_plugin.engine.http import Connection, Network
from s2landcover_plugin.engine.stac import SearchOptions, find_scenes

from .conftest import Messages, shared_data
from .fault_server import FaultServer, Reply, SasServer, running, s3_refusal
from .network import AOI, KEYS, SECRETS, Proxy, catalog, cdse_item, fetch, file_reply, files_over_https, s3_items, same

# Planetary Computer


def test_tokens_are_got_beside_the_api_and_renewed_before_they_end(root, out):
    """The stand-in says that they end soon, but would take them longer: none is ever refused."""
    sas = SasServer(life_s=60, stated_s=0.4)
    with running(FaultServer(root[0], refuse=sas.refuse, special=sas.special, delay_s=0.25)) as server:
        hrefs = {name: f"{server.url}/{name}.tif" for name in ("B03", "B04", "SCL")}
        fetch(catalog(server, root[0], "api/stac/v1/items.json", **hrefs), out, "planetary-computer")
        assert sas.issued > 3 and sas.refused == 0  # each of the files takes several requests of 0.25 s
    same(out, root[1])


@pytest.mark.parametrize(("life_s", "used_for_s"), [(3600, 3540), (10, 5), (-100, -50)])
def test_a_token_is_not_used_to_its_very_end(life_s, used_for_s):
    end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=life_s)
    assert access._good_until(end.isoformat()) - time.time() == pytest.approx(used_for_s, abs=1)
    assert access._good_until(None) == math.inf  # used until it is refused


def test_unsigned_requests_are_refused_by_the_stand_in(root, out):
    sas = SasServer()
    with running(FaultServer(root[0], refuse=sas.refuse, special=sas.special)) as server:
        with pytest.raises(EngineError, match="refuses access"):
            fetch(catalog(server, root[0]), out)
    assert list(out.iterdir()) == []


def test_the_token_server_can_be_stated(root, out):
    sas = SasServer()
    with running(FaultServer(root[0], refuse=sas.refuse, special=sas.special)) as server:
        where = Credentials(sas_url=f"{server.url}/elsewhere/sas/v1/token")
        fetch(catalog(server, root[0]), out, "planetary-computer", where)
    same(out, root[1])


def test_gdal_signs_the_same_way(root):
    """GDAL's own signing, on the same stand-in: the stand-in is right about the protocol."""
    sas = SasServer()
    with running(FaultServer(root[0], refuse=sas.refuse, special=sas.special)) as server:
        gdal.SetConfigOption("VSICURL_PC_SAS_SIGN_HREF_URL", f"{server.url}/api/sas/v1/sign?href=")
        try:
            assert known_credentials().sas_url == f"{server.url}/api/sas/v1/token"
            dataset = gdal.Open(f"/vsicurl?pc_url_signing=yes&url={server.url}/B04.tif")
            assert dataset.ReadAsArray(0, 0, 10, 10).any()
        finally:
            gdal.SetConfigOption("VSICURL_PC_SAS_SIGN_HREF_URL", None)


@pytest.mark.parametrize(
    ("href", "asked"),
    [
        ("https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/13/a.tif", "/token/sentinel2l2a01/sentinel2-l2"),
        ("http://127.0.0.1/a.tif", "/sign?href=http%3A%2F%2F127.0.0.1%2Fa.tif"),
    ],
)
def test_real_hrefs_get_one_token_for_their_container(tmp_path, href, asked):
    sas = SasServer()
    with running(FaultServer(tmp_path, special=sas.special)) as server:
        with Network(Connection(credentials=Credentials(sas_url=f"{server.url}/sas/v1/token"))) as network:
            tokens = access.Accesses(network, "https://planetarycomputer.microsoft.com/api/stac/v1", "planetary-computer")
            way = tokens.source(href, {}, {})
            url, headers = way.access.prepare(way.address)
            assert url.startswith(f"{href}?se=2030&sig=") and not headers
            again = tokens.source(href, {}, {})
            assert again.access.prepare(again.address)[0] == url and sas.issued == 1
        (request,) = server.requests
        assert request[1].endswith(urlsplit(asked).path)


# S3 and Copernicus Data Space


def test_gdal_is_let_in_by_the_s3_stand_in(root, tmp_path, monkeypatch):
    """Signature Version 4 as GDAL writes it passes the stand-in, and a wrong key does not: the stand-in is right."""
    (root[0] / "eodata").mkdir()
    shutil.copy(root[0] / "B04.tif", root[0] / "eodata" / "B04.tif")
    with running(FaultServer(root[0], refuse=lambda request: s3_refusal(request, KEYS))) as server:
        settings = {"AWS_S3_ENDPOINT": server.url[7:], "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_ACCESS_KEY_ID": "MYKEY"}
        for secret, passes in ((KEYS["MYKEY"], True), ("wrong", False)):
            for name, value in {**settings, "AWS_SECRET_ACCESS_KEY": secret, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}.items():
                gdal.SetThreadLocalConfigOption(name, value)
            gdal.VSICurlClearCache()
            try:
                opened = gdal.Open("/vsis3/eodata/B04.tif")
            except RuntimeError:
                opened = None
            assert (opened is not None) == passes
        for name in (*settings, "AWS_SECRET_ACCESS_KEY", "GDAL_DISABLE_READDIR_ON_OPEN"):
            gdal.SetThreadLocalConfigOption(name, None)


def test_s3_keys_sign_every_request(root, out):
    hrefs = s3_items(root[0])

    def refuse(request):
        if not request.path.startswith("/eodata"):
            return None
        answer = s3_refusal(request, KEYS)
        return answer or file_reply(root[0], request)

    with running(FaultServer(root[0], refuse=refuse)) as server:
        settings = {"AWS_S3_ENDPOINT": server.url[7:], "AWS_HTTPS": "NO"}
        good = Credentials(s3_key="MYKEY", s3_secret=KEYS["MYKEY"], s3=settings)
        address = catalog(server, root[0], **hrefs)
        fetch(address, out, "copernicus", good)
        same(out, root[1])
        before = (out / "o.tif").read_bytes()
        for bad in (replace(good, s3_secret="hunter2"), replace(good, s3_key="OTHER")):
            with pytest.raises(EngineError, match=r"refuses access \(HTTP 403\).*s3://eodata/a b/.*AUTHCFG"):
                fetch(address, out, "copernicus", bad)
        with pytest.raises(EngineError, match="need credentials: s3://eodata.*AUTHCFG.*AWS_ACCESS_KEY_ID"):
            fetch(address, out, "copernicus", Credentials(s3=settings))
        assert (out / "o.tif").read_bytes() == before


def test_a_bucket_in_another_region_is_found(root, out):
    hrefs = s3_items(root[0])

    def refuse(request):
        if not request.path.startswith("/eodata"):
            return None
        if "/eu-central-1/" not in request.headers["Authorization"]:
            return Reply(400, b"AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-central-1"})
        assert request.headers["x-amz-request-payer"] == "requester" and request.headers["x-amz-security-token"] == "shh"
        return s3_refusal(request, KEYS) or file_reply(root[0], request)

    with running(FaultServer(root[0], refuse=refuse)) as server:
        settings = {"AWS_S3_ENDPOINT": server.url, "AWS_REQUEST_PAYER": "requester"}
        keys = Credentials(s3_key="MYKEY", s3_secret=KEYS["MYKEY"], s3_session="shh", s3=settings)
        fetch(catalog(server, root[0], **hrefs), out, credentials=keys)
    same(out, root[1])


class LoginServer:
    """Stand-in for OpenID Connect: tokens for one user, each good for some requests."""

    def __init__(self, root, uses):
        self.root, self.uses, self.left, self.logins = root, uses, {}, 0

    def special(self, request):
        if request.path.endswith("openid-configuration"):
            return Reply(200, json.dumps({"token_endpoint": f"http://{request.headers['Host']}/realm/token"}).encode())
        if request.path == "/realm/token":
            form = {name: values[0] for name, values in request.form.items()}
            expected = {"grant_type": "password", "client_id": "cdse-public", "username": "me@x.org", "password": "hunter2&="}
            if form != expected:
                return Reply(401, b'{"error":"invalid_grant"}')
            self.logins += 1
            token = f"bearer-{self.logins}"
            self.left[token] = self.uses
            return Reply(200, json.dumps({"access_token": token, "expires_in": 600}).encode())
        if request.path.startswith("/odata/"):
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.left.get(token, 0) < 1:
                return Reply(401, b"expired")
            self.left[token] -= 1
            request.path = request.path.removeprefix("/odata").removesuffix("/$value")
            return file_reply(self.root, request)
        return None


def test_a_login_gets_tokens_and_renews_them(root, out):
    login = LoginServer(root[0], uses=3)
    with running(FaultServer(root[0], special=login.special)) as server:
        (root[0] / "items.json").write_text(json.dumps(cdse_item(server)))
        fetch(f"{server.url}/items.json", out, "copernicus", Credentials(user="me@x.org", password="hunter2&="))
        same(out, root[1])
        assert login.logins > 2
        with pytest.raises(EngineError, match=r"refuses access \(HTTP 401\): http://127.*/realm/token"):
            fetch(f"{server.url}/items.json", out, "copernicus", Credentials(user="me@x.org", password="shh"))
        with pytest.raises(EngineError, match=r"refuses access \(HTTP 401\)"):
            fetch(f"{server.url}/items.json", out, "copernicus", Credentials(token="bearer-77"))


def test_a_catalog_cannot_send_a_password_to_a_stranger(tmp_path):
    with Network(Connection(credentials=Credentials(user="me@x.org", password="hunter2"))) as network:
        for catalog_at in ("https://evil.example.org/stac", "http://stac.dataspace.copernicus.eu/v1"):
            ways = access.Accesses(network, catalog_at, "custom")
            for href, login in (
                ("https://evil.example.org/a.tif", "https://identity.dataspace.copernicus.eu/x"),
                ("https://zipper.dataspace.copernicus.eu/a.tif", "https://evil.example.org/x"),
                ("http://zipper.dataspace.copernicus.eu/a.tif", "https://identity.dataspace.copernicus.eu/x"),
            ):
                properties = {"auth:schemes": {"oidc": {"openIdConnectUrl": login}}}
                with pytest.raises(EngineError, match="on behalf of a stranger"):
                    ways.source(href, {"auth:refs": ["oidc"]}, {"properties": properties})


def test_a_login_chosen_for_one_catalog_is_not_sent_to_another(tmp_path):
    chosen = Credentials().chosen_login("me@x.org", "hunter2", s3_only=False, region="")
    with Network(Connection(credentials=chosen)) as network:
        ways = access.Accesses(network, "https://stac.example.org/v1", "custom")
        basic = {"properties": {"auth:schemes": {"basic": {"type": "http", "scheme": "basic"}}}}
        assert isinstance(ways.source("https://stac.example.org/a.tif", {"auth:refs": ["basic"]}, basic).access, access.Open)
        for href in ("https://stac.example.org/a.tif", "https://zipper.dataspace.copernicus.eu/a.tif"):
            login = {"properties": {"auth:schemes": {"oidc": {"openIdConnectUrl": access.CDSE_OIDC}}}}
            with pytest.raises(EngineError, match="on behalf of a stranger"):
                ways.source(href, {"auth:refs": ["oidc"]}, login)


def test_signed_requests_go_where_the_user_says(tmp_path):
    keys = Credentials(s3_key="MYKEY", s3_secret="SECRETKEY", s3_session="shh")
    schemes = {"properties": {"storage:schemes": {"e": {"platform": "https://evil.example.org"}}}}
    with Network(Connection(credentials=keys)) as network:
        ways = access.Accesses(network, "https://stac.example.org/v1", "custom")
        with pytest.raises(EngineError, match="S3 server that is not known: s3://b/a.tif; set AWS_S3_ENDPOINT=https://evil.example.org"):
            ways.source("s3://b/a.tif", {"storage:refs": ["e"]}, schemes)
        way = ways.source("s3://b/a.tif", {}, {"properties": {"storage:region": "eu-central-1"}})
        assert way.access.prepare(way.address)[0] == "https://s3.eu-central-1.amazonaws.com/b/a.tif"


def test_a_setting_that_says_no_is_no(tmp_path):
    account = Credentials(user="me@x.org", password="hunter2", s3={"AWS_NO_SIGN_REQUEST": "NO"})
    asset = {"alternate": {"https": {"href": "https://zipper.dataspace.copernicus.eu/a", "auth:refs": ["oidc"]}}}
    with Network(Connection(credentials=account)) as network:
        way = access.Accesses(network, "https://stac.dataspace.copernicus.eu/v1", "copernicus").source("s3://eodata/a.jp2", asset, {})
    assert isinstance(way.access, access.OidcTokens)


def test_a_refused_token_of_an_address_with_a_query_is_forgotten(tmp_path):
    sas = SasServer()
    with running(FaultServer(tmp_path, special=sas.special)) as server:
        with Network(Connection(credentials=Credentials(sas_url=f"{server.url}/sas/v1/token"))) as network:
            way = access.Accesses(network, "https://x.org", "planetary-computer").source("http://127.0.0.1/a.tif?v=2", {}, {})
            first, _ = way.access.prepare(way.address)
            assert way.access.refused(first, None)
            second, _ = way.access.prepare(way.address)
    assert first.startswith("http://127.0.0.1/a.tif?v=2&se=") and first != second


def test_the_real_copernicus_item_is_reached_with_keys_or_a_login():
    real = json.loads((shared_data("stac") / "cdse_sentinel-2-l2a_T36NYH_20200322_N0500.json").read_text())["features"][0]
    asset = real["assets"]["B04_10m"]

    def way(credentials):
        with Network(Connection(credentials=credentials)) as network:
            return access.Accesses(network, "https://stac.dataspace.copernicus.eu/v1", "copernicus").source(asset["href"], asset, real)

    keys = way(Credentials(s3_key="MYKEY", s3_secret="SECRETKEY"))
    url, headers = keys.access.prepare(keys.address)
    assert url == asset["href"].replace("s3://", "https://eodata.dataspace.copernicus.eu/") and "/default/s3/" in headers["Authorization"]
    login = way(Credentials(token="bearer-1"))
    url, headers = login.access.prepare(login.address)
    assert url == asset["alternate"]["https"]["href"] and headers == {"Authorization": "Bearer bearer-1"}
    assert way(Credentials(user="me@x.org", password="hunter2")).address == url
    with pytest.raises(EngineError, match="need credentials"):
        way(Credentials())


# credentials of the catalog itself


def test_a_chosen_login_is_given_to_the_catalog_that_asks_for_it(root, out):
    def refuse(request):
        if request.headers.get("Authorization") == "Basic bWU6c2ho":  # me:shh
            return None
        return Reply(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})

    with running(FaultServer(root[0], refuse=refuse)) as server:
        fetch(f"{server.url}/items.json", out, credentials=Credentials().chosen_login("me", "shh", s3_only=False, region=""))
        same(out, root[1])
        for not_chosen in (Credentials(user="me", password="shh"), Credentials(user="me", password="hunter2", chosen=True)):
            with pytest.raises(EngineError, match=r"refuses access \(HTTP 401\)"):
                fetch(f"{server.url}/items.json", out, credentials=not_chosen)


def test_chosen_headers_go_to_the_catalog_and_not_to_other_hosts(root, out):
    seen = {}

    def look(request):
        seen.setdefault(request.path, set()).add(request.headers.get("X-Key"))
        return None

    with running(FaultServer(root[0], refuse=look)) as server:
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        address = catalog(server, root[0], B04=f"{elsewhere}/B04.tif", SCL=f"{server.url}/SCL.tif")
        fetch(address, out, credentials=Credentials().chosen_headers({"X-Key": "shh"}))
    assert seen == {"/items.json": {"shh"}, "/SCL.tif": {"shh"}, "/B04.tif": {None}}


def test_a_redirect_does_not_carry_headers_to_a_stranger(root, out):
    seen = []

    def look(request):
        if request.path == "/B04.tif" and request.headers["Host"].startswith("127."):
            return Reply(302, b"", {"Location": f"http://localhost:{server.url.rpartition(':')[2]}/B04.tif"})
        if request.path == "/B04.tif":
            seen.append((request.headers.get("X-Key"), request.headers.get("Authorization")))
        return None

    with running(FaultServer(root[0], refuse=look)) as server:
        headers = {"X-Key": "shh", "Authorization": "Bearer shh"}
        fetch(f"{server.url}/items.json", out, credentials=Credentials().chosen_headers(headers))
    assert set(seen) == {(None, None)}
    same(out, root[1])


def test_a_redirect_does_not_carry_a_signature_to_a_stranger(root, out):
    hrefs = s3_items(root[0])
    seen = []

    def refuse(request):
        if not request.path.startswith("/eodata"):
            return None
        if request.headers["Host"].startswith("127."):
            return Reply(307, b"", {"Location": f"http://localhost:{server.url.rpartition(':')[2]}{request.path}"})
        seen.append([name for name in ("Authorization", "X-Amz-Security-Token") if name in request.headers])
        return file_reply(root[0], request)

    with running(FaultServer(root[0], refuse=refuse)) as server:
        keys = Credentials(s3_key="MYKEY", s3_secret="SECRETKEY", s3_session="shh", s3={"AWS_S3_ENDPOINT": server.url})
        fetch(catalog(server, root[0], **hrefs), out, "copernicus", keys)
    assert seen and not any(seen)


# proxies and certificates


def test_everything_goes_through_the_proxy_but_gdal(root, out, proxy):
    with running(FaultServer(root[0])) as server:
        way = f"http://{proxy}"
        fetch(f"{server.url}/items.json", out, proxies={"http": way, "https": way})
        same(out, root[1])
        assert len(Proxy.passed) == len(server.requests)
        assert {urlsplit(url).path for url in Proxy.passed} == {"/items.json", "/B04.tif", "/SCL.tif"}
        Proxy.passed.clear()
        for without in ("127.0.0.1", server.url, "127.0.*"):
            fetch(f"{server.url}/items.json", out, proxies={"http": way}, no_proxy=(without,))
        assert Proxy.passed == []


def test_the_proxy_of_the_environment_is_used_and_gdal_is_not_sent_there(root, out, proxy, monkeypatch):
    for name in ("http_proxy", "GDAL_HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{proxy}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running(FaultServer(root[0])) as server:
        fetch(f"{server.url}/items.json", out)
    same(out, root[1])
    assert {urlsplit(url).path for url in Proxy.passed} == {"/items.json", "/B04.tif", "/SCL.tif"}


def test_a_socks_proxy_without_its_package_says_so(root, out):
    with pytest.raises(EngineError, match="SOCKS proxy.*PySocks"):
        fetch("http://example.org/items.json", out, proxies={"http": "socks5h://127.0.0.1:9"})


def test_a_redirect_gets_the_proxy_of_its_own_host(root, out, proxy):
    with running(FaultServer(root[0])) as server:
        port = server.url.rpartition(":")[2]
        elsewhere = FaultServer(root[0], special=lambda request: Reply(302, b"", {"Location": f"http://localhost:{port}{request.path}"}))
        with running(elsewhere) as first:
            fetch(f"{first.url}/items.json", out, proxies={"http": f"http://{proxy}"}, no_proxy=("127.0.0.1",))
    same(out, root[1])
    assert Proxy.passed and all(url.startswith("http://localhost:") for url in Proxy.passed)


def test_debug_logs_hold_no_secret(root, out, caplog):
    sas = SasServer()
    caplog.set_level("DEBUG")
    with running(FaultServer(root[0], refuse=sas.refuse, special=sas.special)) as server:
        fetch(catalog(server, root[0]), out, "planetary-computer", Credentials(sas_url=f"{server.url}/sas/v1/token"))
    assert "B04.tif" in caplog.text and not [secret for secret in SECRETS if secret in caplog.text]


def test_a_login_in_the_address_is_used(root, out):
    def refuse(request):
        return None if request.headers.get("Authorization") == "Basic bWU6c2ho" else Reply(401)

    with running(FaultServer(root[0], refuse=refuse)) as server:
        found = find_scenes(SearchOptions(stac_url=server.url.replace("//", "//me:shh@") + "/items.json"), AOI, Messages().progress)
    assert [each.id for each in found] == ["one"]


def test_a_proxy_that_is_not_there_is_one_sentence(root, out):
    with running(FaultServer(root[0])) as server:
        with pytest.raises(EngineError, match="cannot be read.*refused"):
            fetch(f"{server.url}/items.json", out, proxies={"http": "http://me:shh@127.0.0.1:9"})


def test_certificates_that_the_user_trusts_are_trusted_and_others_are_not(root, out, certificate):
    text, pem, key = certificate
    with files_over_https(root[0], pem, key) as address:
        started = time.monotonic()
        with pytest.raises(EngineError, match="CERTIFICATE_VERIFY_FAILED.*certificate"):
            fetch(f"https://{address}/items.json", out)
        assert time.monotonic() - started < 5  # not tried again and again
        fetch(f"https://{address}/items.json", out, ca_pem=text)
    same(out, root[1])


# what may be shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@h.org:8/a.tif?sig=x&se=1", "https://h.org:8/a.tif"),
        ("GET https://h.org/a?token=shh failed", "GET https://h.org/a failed"),
        ("Max retries exceeded with url: /a.tif?sig=shh (Caused by x)", "Max retries exceeded with url: /a.tif (Caused by x)"),
        ("/home/me/what?.json", "/home/me/what?.json"),
        ("s3://eodata/a b.jp2", "s3://eodata/a b.jp2"),
        ("https://user:p@ss@h/a", "https://h/a"),
        ("https://h/a?SECRETTOKEN", "https://h/a"),
        ("https://h/a?x='a'&token=shh", "https://h/a"),
        ("https://h/a#access_token=shh", "https://h/a"),
    ],
)
def test_addresses_are_shown_without_secrets(text, shown):
    assert addresses.public(text) == shown


def test_a_stac_url_with_a_key_is_not_written(root, out):
    with running(FaultServer(root[0])) as server:
        fetch(f"{server.url}/items.json?subscription=shh", out)
    assert "items.json" in (out / "o.json").read_text()


@pytest.mark.parametrize(
    ("first", "second", "same_house"),
    [
        ("stac.dataspace.copernicus.eu", "identity.dataspace.copernicus.eu", True),
        ("stac.dataspace.copernicus.eu", "dataspace.copernicus.eu.evil.org", False),
        ("stac.example.org", "data.example.org", False),
        ("a.co.uk", "b.co.uk", False),
        ("x.s3.amazonaws.com", "y.s3.amazonaws.com", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("localhost", "localhost", True),
        ("", "", False),
    ],
)
def test_neighbours(first, second, same_house):
    assert addresses.same_house(first, second) == same_house

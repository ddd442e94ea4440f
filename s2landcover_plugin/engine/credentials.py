"""Credentials, and how a request proves that it may read a file: S3 signatures, Planetary Computer tokens, OpenID Connect."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field, replace
from typing import Mapping
from urllib.parse import quote

from osgeo import gdal

from . import addresses

AWS_ENDPOINT = "https://s3.{region}.amazonaws.com"
EMPTY_HASH = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Credentials:
    """What a user has to prove who they are; never shown, written or logged."""

    user: str = field(default="", repr=False)
    """Account at Copernicus Data Space, or at a server that asks for one."""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """Access token (Bearer)."""
    s3_key: str = field(default="", repr=False)
    s3_secret: str = field(default="", repr=False)
    s3_session: str = field(default="", repr=False)
    subscription_key: str = field(default="", repr=False)
    """Planetary Computer; not needed for Sentinel-2."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of another kind of authentication, sent to the catalog and to its neighbours."""
    s3: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Settings for S3 by their GDAL names: AWS_S3_ENDPOINT, AWS_HTTPS, AWS_REGION, AWS_REQUEST_PAYER, AWS_NO_SIGN_REQUEST."""
    chosen: bool = False
    """Whether the user chose user and password for this very catalog, so that it may have them if it asks."""
    sas_url: str = ""
    """Where tokens of the Planetary Computer come from; empty: decided from the catalog."""

    def chosen_login(self, user: str, password: str, s3_only: bool, region: str) -> Credentials:
        """With a user name and a password that were chosen; without an @ they may also be a pair of S3 keys."""
        keys = s3_only or "@" not in user
        return replace(
            self,
            user="" if s3_only else user,
            password="" if s3_only else password,
            token="",
            s3_key=user if keys else "",
            s3_secret=password if keys else "",
            s3_session="",
            s3={**self.s3, "AWS_REGION": region} if region else self.s3,
            chosen=True,
        )

    def chosen_headers(self, headers: Mapping[str, str]) -> Credentials:
        """With headers that were chosen."""
        return replace(self, user="", password="", token="", s3_key="", s3_secret="", s3_session="", headers=dict(headers), chosen=True)


S3_SETTINGS = ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST")


def known_credentials() -> Credentials:
    """Credentials of the environment, or of GDAL's configuration options."""

    def text(name: str) -> str:
        return (gdal.GetConfigOption(name) or "").strip()

    return Credentials(
        user=text("CDSE_USERNAME"),
        password=text("CDSE_PASSWORD"),
        token=text("CDSE_ACCESS_TOKEN"),
        s3_key=text("AWS_ACCESS_KEY_ID"),
        s3_secret=text("AWS_SECRET_ACCESS_KEY"),
        s3_session=text("AWS_SESSION_TOKEN"),
        subscription_key=text("PC_SDK_SUBSCRIPTION_KEY"),
        s3={name: text(name) for name in S3_SETTINGS if text(name)},
        sas_url=text("PC_SDK_SAS_URL") or text("VSICURL_PC_SAS_SIGN_HREF_URL").replace("/sign?href=", "/token"),
    )


def s3_address(href: str, endpoint: str, region: str) -> str:
    """The http(s) address of `s3://bucket/key`, path style."""
    bucket, _, key = href[len("s3://") :].partition("/")
    base = (endpoint or AWS_ENDPOINT.format(region=region)).rstrip("/")
    return f"{base}/{bucket}/{quote(key, safe='/-_.~')}"


def s3_headers(url: str, credentials: Credentials, region: str, payer: str = "", now: dt.datetime | None = None) -> dict[str, str]:
    """Headers that sign a GET request for S3.

    AWS Signature Version 4 (AWS, "Authenticating Requests: Using the Authorization Header").

    Args:
        url: path-style address, already percent-encoded, without a query.
        payer: `requester`, where the reader pays.
        now: UTC.
    """
    stamp = (now or dt.datetime.now(dt.timezone.utc)).strftime("%Y%m%dT%H%M%SZ")
    parts = addresses.split(url)
    signed = {"host": parts.netloc.rpartition("@")[2], "x-amz-content-sha256": EMPTY_HASH, "x-amz-date": stamp}
    if payer:
        signed["x-amz-request-payer"] = payer
    if credentials.s3_session:
        signed["x-amz-security-token"] = credentials.s3_session
    names = ";".join(sorted(signed))
    request = "\n".join(["GET", parts.path, "", *(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, EMPTY_HASH])
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.s3_secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    headers = {name: value for name, value in signed.items() if name != "host"}
    proof = f"AWS4-HMAC-SHA256 Credential={credentials.s3_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "Authorization": proof}

"""What QGIS knows about the network: proxy, trusted certificates, authentication configurations."""

import os
from urllib.parse import quote

from qgis.core import QgsApplication, QgsAuthMethodConfig, QgsNetworkAccessManager
from qgis.PyQt.QtCore import QUrl
from qgis.PyQt.QtNetwork import QNetworkProxy, QNetworkRequest

from ..engine.credentials import known_credentials
from ..engine.errors import EngineError
from ..engine.http import Connection

PROXY_SCHEMES = {
    QNetworkProxy.ProxyType.HttpProxy: "http",
    QNetworkProxy.ProxyType.HttpCachingProxy: "http",
    QNetworkProxy.ProxyType.Socks5Proxy: "socks5h",
}


def qgis_connection(authcfg):
    """The engine's connection with QGIS's settings; proxies of the environment or the system where QGIS has none.

    Raises:
        EngineError: the authentication configuration cannot be used.
    """
    proxies, without = _proxies()
    trusted = QgsApplication.authManager().trustedCaCertsPemText()
    cache = os.path.join(QgsApplication.qgisSettingsDirPath(), "cache", "s2landcover")
    return Connection(proxies, without, bytes(trusted).decode("ascii", "ignore"), _credentials(authcfg), cache)


def _proxies():
    """(scheme -> address of the proxy, addresses that are reached without it)."""
    manager = QgsNetworkAccessManager.instance()
    proxy = manager.fallbackProxy()
    scheme = PROXY_SCHEMES.get(proxy.type())
    if not scheme or not proxy.hostName():
        return {}, ()
    login = f"{quote(proxy.user(), safe='')}:{quote(proxy.password(), safe='')}@" if proxy.user() else ""
    address = f"{scheme}://{login}{proxy.hostName()}:{proxy.port()}"
    return {"http": address, "https": address}, (*manager.excludeList(), *manager.noProxyList())


def _credentials(authcfg):
    """Credentials of the environment, replaced by those of an authentication configuration if one is chosen."""
    if not authcfg:
        return known_credentials()
    config = QgsAuthMethodConfig()
    QgsApplication.authManager().loadAuthenticationConfig(authcfg, config, True)
    if not config.method():
        fix = "choose one that exists, and unlock the authentication database with the master password"
        raise EngineError("The authentication configuration cannot be read", f"AUTHCFG {authcfg}", fix)
    if config.method() in ("Basic", "AWSS3"):
        user, password = config.config("username"), config.config("password")
        return known_credentials().chosen_login(user, password, s3_only=config.method() == "AWSS3", region=config.config("region"))
    headers = config.configMap() if config.method() == "APIHeader" else _headers(authcfg)
    if not headers:
        where, fix = f"AUTHCFG {authcfg}, {config.method()}", "choose one of the kind Basic, AWS S3, API header or OAuth2, and log in"
        raise EngineError("The authentication configuration gives nothing that can be sent", where, fix)
    return known_credentials().chosen_headers(headers)


def _headers(authcfg):
    """The headers that QGIS adds to a request for a configuration."""
    request = QNetworkRequest(QUrl("https://localhost/"))
    result = QgsApplication.authManager().updateNetworkRequest(request, authcfg)
    request = result[1] if isinstance(result, tuple) else request
    return {bytes(name).decode("latin-1"): bytes(request.rawHeader(name)).decode("latin-1").strip() for name in request.rawHeaderList()}

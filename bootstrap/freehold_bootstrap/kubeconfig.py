"""Kubeconfigs as Python data; JSON text is what machines get, because JSON is YAML and needs no library.

Knows nothing of where keys come from.
"""

import base64
import json
from typing import Any, Dict


def build(
    cluster: str,
    server: str,
    ca_pem: str,
    user: str,
    *,
    ca_path: str = "",
    certificate_pem: str = "",
    key_pem: str = "",
    certificate_path: str = "",
    key_path: str = "",
    token: str = "",
) -> Dict[str, Any]:
    """Return a kubeconfig with one cluster, one user and one context `USER@CLUSTER`, as kubeadm names it.

    `server` is `https://host:port`. Credentials are embedded (`..._pem`, `token`) or named by absolute path
    (`..._path`; then a rotated file is re-read). Raises ValueError when neither or both are given.
    """
    embedded, named = bool(certificate_pem and key_pem), bool(certificate_path and key_path)
    if embedded + named + bool(token) != 1:
        raise ValueError("a kubeconfig needs exactly one credential: embedded, by path, or a token")
    if not ca_pem and not ca_path:
        raise ValueError("a kubeconfig without the cluster's CA would trust anyone")
    trust = {"certificate-authority": ca_path} if ca_path else {"certificate-authority-data": _data(ca_pem)}
    if token:
        credential = {"token": token}
    elif named:
        credential = {"client-certificate": certificate_path, "client-key": key_path}
    else:
        credential = {"client-certificate-data": _data(certificate_pem), "client-key-data": _data(key_pem)}
    context = "{}@{}".format(user, cluster)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, **trust}}],
        "users": [{"name": user, "user": credential}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
        "preferences": {},
    }


def dumps(config: Dict[str, Any]) -> bytes:
    """Return the bytes of a kubeconfig file, the same for the same content."""
    return (json.dumps(config, indent=1, sort_keys=True) + "\n").encode()


def _data(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()

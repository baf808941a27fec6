"""Wait for the local API server's `/readyz`: the gate that other units are ordered after (docs/adr/0004)."""

import argparse
from typing import Sequence

from freehold_agent.machine.kubernetes_api import KubernetesApi

TIMEOUT = 290.0
"""Seconds; just below the unit's own limit, so that the reason is ours."""


def wait_ready(arguments: Sequence[str]) -> None:
    """Return when the API server is ready. Raises TimeoutError, OSError, SystemExit for a wrong command line."""
    parser = argparse.ArgumentParser(prog="freehold-services wait-ready")
    parser.add_argument("--server", required=True, help="https://host:port")
    parser.add_argument("--ca", required=True, help="path of the cluster CA")
    options = parser.parse_args(arguments)
    with open(options.ca, encoding="ascii") as file:
        api = KubernetesApi(options.server, ca_pem=file.read())
    try:
        api.wait_until_healthy(TIMEOUT)
    finally:
        api.close()

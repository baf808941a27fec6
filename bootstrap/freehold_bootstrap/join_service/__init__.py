"""freehold-join: takes join tokens, hands out documents and bootstrap credentials; holds no signing key."""

from typing import Any, Mapping

from freehold_agent.contract import paths
from freehold_agent.machine.kubernetes_api import KubernetesApi
from freehold_bootstrap.join_service.audit import Audit
from freehold_bootstrap.join_service.document_watch import DocumentWatch
from freehold_bootstrap.join_service.joining import Joining
from freehold_bootstrap.join_service.routes import Routes
from freehold_bootstrap.listener import Limits, Listener, listen_address, room_for, server_context
from freehold_bootstrap.serving import run_until_told

CONNECTIONS = 4096
"""Each node holds one for its long poll."""


def serve(config: Mapping[str, Any]) -> None:
    """Run the service until it is told to stop. Raises ValueError (configuration), OSError.

    Configuration: `listen`, `port`, `certificate`, `key` (paths), `ca` (path of the cluster's CA), `server` (API
    server, `https://host:port`), `client_certificate`, `client_key` (paths). What documents say stands in the
    ConfigMap `cluster-settings`.
    """
    address, port = listen_address(config, paths.JOIN_PORT)
    try:
        with open(config["ca"], encoding="ascii") as file:
            ca_pem = file.read()
        api = KubernetesApi(
            config["server"],
            ca_pem=ca_pem,
            client_certificate=config["client_certificate"],
            client_key=config["client_key"],
        )
        context = server_context(str(config["certificate"]), str(config["key"]), str(config["ca"]))
    except (KeyError, TypeError) as error:
        raise ValueError("incomplete: {}".format(error)) from error
    watch = DocumentWatch(api)
    routes = Routes(Joining(api, Audit(api)), watch)
    limits = Limits(connections=room_for(CONNECTIONS))
    listener = Listener(address, port, context, routes.answer, limits)
    watch.start()
    run_until_told(listener, "freehold-join")

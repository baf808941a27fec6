"""freehold-artifacts: the files of a release by digest, read-only, to anybody; TLS from the cluster CA."""

from typing import Any, Mapping

from freehold_agent.contract import paths
from freehold_bootstrap.artifact_service.files_by_digest import FilesByDigest
from freehold_bootstrap.listener import Limits, Listener, listen_address, room_for, server_context
from freehold_bootstrap.serving import run_until_told


def serve(config: Mapping[str, Any]) -> None:
    """Run the service until it is told to stop. Raises ValueError (configuration), OSError.

    Configuration: `listen`, `port`, `certificate`, `key` (paths), `store` (directory), `digests` (those on
    their way: asked for too early, they are worth a retry at once), `transfers` (at the same time).
    """
    address, port = listen_address(config, paths.ARTIFACT_PORT)
    try:
        certificate, key = str(config["certificate"]), str(config["key"])
        transfers = int(config.get("transfers", 8))
        files = FilesByDigest(str(config.get("store", paths.STORE)), config.get("digests", ()), transfers)
    except (KeyError, TypeError) as error:
        raise ValueError("incomplete: {}".format(error)) from error
    limits = Limits(connections=room_for(512))
    listener = Listener(address, port, server_context(certificate, key), files.answer, limits)
    run_until_told(listener, "freehold-artifacts")

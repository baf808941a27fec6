"""Entry of the control plane's services: `join`, `artifacts`, `controller` or `pod-routes`, each a unit of its own;
and the gate `wait-ready`.

Imports only the service that is asked for: they share a file, not memory.
"""

import json
import sys
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from freehold_bootstrap import journal

USAGE = "usage: freehold-services (join|artifacts|controller|pod-routes) --config FILE"
EXIT_FAILED = 1
EXIT_INPUT = 3


def _join(config: Mapping[str, Any]) -> None:
    from freehold_bootstrap.join_service import serve

    serve(config)


def _artifacts(config: Mapping[str, Any]) -> None:
    from freehold_bootstrap.artifact_service import serve

    serve(config)


def _controller(config: Mapping[str, Any]) -> None:
    from freehold_controller.controller import serve

    serve(config)


def _pod_routes(config: Mapping[str, Any]) -> None:
    from freehold_controller.pod_route_keeper import serve

    serve(config)


SERVICES: Dict[str, Callable[[Mapping[str, Any]], None]] = {
    "join": _join,
    "artifacts": _artifacts,
    "controller": _controller,
    "pod-routes": _pod_routes,
}


def _wait_ready(arguments: Sequence[str]) -> int:
    from freehold_controller.wait_ready import wait_ready

    try:
        wait_ready(arguments)
    except (OSError, TimeoutError) as error:
        journal.error("the API is not ready", error=str(error))
        return EXIT_FAILED
    return 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one service until it is told to stop; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["wait-ready"]:
        return _wait_ready(words[1:])
    if len(words) != 3 or words[0] not in SERVICES or words[1] != "--config":
        journal.error(USAGE)
        return EXIT_INPUT
    service, path = words[0], words[2]
    try:
        with open(path, encoding="utf-8") as stream:
            config = dict(json.load(stream))
    except (OSError, ValueError, TypeError) as error:
        journal.error("configuration cannot be read", path=path, error=str(error))
        return EXIT_INPUT
    try:
        SERVICES[service](config)
    except ValueError as error:
        journal.error("configuration cannot be used", path=path, error=str(error))
        return EXIT_INPUT
    except OSError as error:
        journal.error("service failed", service=service, error=str(error))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

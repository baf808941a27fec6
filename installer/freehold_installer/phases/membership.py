"""What verbs for tokens and single nodes share: the API through the control plane's SSH connection, settings, texts."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from freehold_agent.machine.kubernetes_api import ApiError, KubernetesApi, NotFound
from freehold_bootstrap.cluster_settings import ClusterSettings
from freehold_bootstrap.errors import BootstrapError
from freehold_bootstrap.join_service.joining import SETTINGS, SETTINGS_KEY
from freehold_bootstrap.pki_directory import PkiDirectory
from freehold_bootstrap.profiles import CertificateRequest
from freehold_installer.engine.run import Run
from freehold_installer.errors import InputError, StepError
from freehold_installer.phases import access, trust


def installer_api(run: Run) -> contextlib.AbstractContextManager[KubernetesApi]:
    """Return a client with the rights of admission and tokens only. Entering raises FreeholdError."""
    return _api(run, trust.INSTALLER)


def admin_api(run: Run) -> contextlib.AbstractContextManager[KubernetesApi]:
    """Return a client with the administrator's rights. Entering raises FreeholdError."""
    return _api(run, trust.ADMIN)


@contextlib.contextmanager
def _api(run: Run, request: CertificateRequest) -> Iterator[KubernetesApi]:
    """Yield a client; what goes wrong inside is one FreeholdError."""
    plane = run.inventory.control_planes[0]
    pki = PkiDirectory(str(run.state_dir.pki))
    if request.name in pki.missing([request]):
        raise InputError(f"there is no cluster {run.inventory.name} yet", hint="freehold apply first")
    run.connect([plane.name])
    api = access.api_of(run.machines[plane.name], plane.internal_address, pki, request)
    try:
        yield api
    except BootstrapError as error:
        raise InputError(error.message, hint=error.hint) from error
    except (ApiError, OSError) as error:
        raise StepError(
            plane.name, "ask the API server", str(error), hint="freehold status says what is not well"
        ) from error
    finally:
        api.close()


def settings_of(api: KubernetesApi) -> ClusterSettings:
    """Return what all documents of the cluster say alike. Raises InputError, ApiError, OSError."""
    try:
        return ClusterSettings.from_json(json.loads(api.get(SETTINGS)["data"][SETTINGS_KEY]))
    except (NotFound, KeyError, ValueError) as error:
        raise InputError(
            f"the cluster has no settings for its nodes: {error}", hint="freehold apply writes them"
        ) from error


def taint_text(taint: Mapping[str, Any]) -> str:
    """Return a taint as `kubectl taint` writes it: `key=value:Effect`, without a value `key:Effect`."""
    value = taint.get("value") or ""
    return f"{taint['key']}={value}:{taint['effect']}" if value else f"{taint['key']}:{taint['effect']}"

"""Add-ons: what runs on a cluster that works already, and the user's own manifests. Last: nobody waits for it."""

from freehold_agent.machine.kubernetes_api import ApiError
from freehold_installer.engine.lanes import Lane
from freehold_installer.errors import StepError
from freehold_installer.phases import access, trust
from freehold_installer.phases.cluster_state import ClusterState
from freehold_installer.plan import Plan


def run(lane: Lane, state: ClusterState, plan: Plan) -> None:
    """Apply the objects of add-ons and the manifests of the inventory. Raises StepError naming the object."""
    if not plan.objects:
        return
    api = access.api_of(lane.machine, lane.host.internal_address, state.pki, trust.ADMIN)
    try:
        objects = [
            *access.addon_objects(state.inventory, state.pki, state.metrics_server_image),
            *access.manifests(state.inventory),
        ]
        access.apply(api, lane.name, [body for _, body in access.changes_in(api, objects)])
    except (ApiError, OSError) as error:
        raise StepError(lane.name, "add-ons", str(error)) from error
    finally:
        api.close()

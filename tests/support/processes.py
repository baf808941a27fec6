"""Which tests share machines, when several processes run them: `-n 2 --dist loadscope`, as `make test-lab` does."""

from xdist.scheduler import LoadScopeScheduling


class BySharedMachines(LoadScopeScheduling):  # type: ignore[misc]
    """What shares machines, or the control plane on loopback, runs in one process, in the order of the files."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/e2e/test_5"):
            return "spare machines"
        if nodeid.startswith(("tests/e2e/", "tests/integration/test_lab_machines.py")):
            return "the cluster's machines"
        return "loopback"

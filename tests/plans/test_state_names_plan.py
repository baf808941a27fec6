"""What reset knows of linked state directories against what programs are told to make in them."""

import fnmatch
import re

from tests.support.a_machine import a_control_plane, a_node_of_each_kind

from freehold_agent.contract import paths
from freehold_agent.contract.resources import File
from freehold_agent.remains import linked

STATE = (paths.KUBELET_STATE, paths.CONTAINERD_STATE, paths.ETCD_STATE, paths.STATE, paths.RUN, paths.OPT)


def test_every_name_below_state_that_is_rendered_is_known_to_reset() -> None:
    """A path that a configuration names in such a directory goes with a reset, also where the directory is linked."""
    texts = [
        resource.content.decode(errors="replace")
        for resource in [*a_control_plane(), *a_node_of_each_kind()]
        if isinstance(resource, File) and not resource.secret
    ]
    seen = set()
    for directory in STATE:
        for name in re.findall(re.escape(directory) + r"/([\w.+-]+)", "\n".join(texts)):
            seen.add(directory)
            assert any(fnmatch.fnmatch(name, pattern) for pattern in linked.CONTENTS[directory]), name
    assert {paths.KUBELET_STATE, paths.CONTAINERD_STATE, paths.OPT} <= seen

"""A node as its document says: for minutes, while pods come and go and a machine leaves and joins, nothing is written.

The suite watches it from the end of test_10_nodes.py on, while other tests go on. Alone this file takes five minutes:

    pytest tests/e2e/test_19_quiet.py -s
"""

import time

from tests.support.cluster import Cluster
from tests.support.traces import Traces, Watched

LONG = 300.0
"""Seconds: some thirty glances and five whole looks."""
MOST_OF_A_CORE = 0.01


def test_nothing_is_written_for_five_minutes(cluster: Cluster, watched: Watched) -> None:
    """No file, no byte, no unit, no line in the journal, no object; and less than a hundredth of a core is used."""
    time.sleep(max(0.0, watched.begun + LONG - time.monotonic()))
    after, share = Traces.of(cluster, watched.node), watched.share(cluster)
    minutes = (time.monotonic() - watched.begun) / 60
    print(f"{watched.node}: {minutes:.1f} minutes, {len(after.files)} files, {100 * share:.2f} % of a core")
    assert after == watched.before
    assert share < MOST_OF_A_CORE

"""What each program of a node is configured to do, on the kinds of machines we know."""

from __future__ import annotations

import json

try:
    import tomllib
except ImportError:  # Python 3.9 and 3.10
    import tomli as tomllib
from typing import Any

import pytest
from tests.support.a_node import PAUSE, a_document, a_network, lab, ubuntu

from freehold_agent.contract import paths
from freehold_agent.contract.resources import File
from freehold_agent.desired import desired_node
from freehold_agent.desired.containerd import containerd_config, containerd_resources
from freehold_agent.desired.credential import bootstrap_kubeconfig, node_credential, node_kubeconfig
from freehold_agent.desired.kube_proxy import kube_proxy_config
from freehold_agent.desired.kubelet import kubelet_config, merged
from freehold_agent.desired.network import cni_config, flannel_config, pod_mtu
from freehold_agent.desired.packet_filter import packet_filter

SIX: dict[str, Any] = {
    "addresses": ("fd00:73::12",),
    "network": a_network(
        pod_cidrs=("fd00:244::/48",), service_cidrs=("fd00:96::/112",), node_pod_cidrs=("fd00:244:0:1::/64",)
    ),
}


def runtime(config: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = config["plugins"]["io.containerd.cri.v1.runtime"]
    return part


class TestKubelet:
    def test_the_lab(self) -> None:
        """On cgroup v1 without capability: cgroupfs, no score, and cgroup v1 is no reason to fail."""
        config = kubelet_config(a_document(), lab())
        assert config["cgroupDriver"] == "cgroupfs"
        assert config["failCgroupV1"] is False
        assert config["oomScoreAdj"] == 0
        assert config["resolvConf"] == "/etc/resolv.conf"

    def test_a_vm(self) -> None:
        """On cgroup v2 with systemd-resolved: the systemd driver, its own score, the real resolvers."""
        config = kubelet_config(a_document(), ubuntu())
        assert config["cgroupDriver"] == "systemd"
        assert "failCgroupV1" not in config
        assert "oomScoreAdj" not in config
        assert "failSwapOn" not in config
        assert config["resolvConf"] == "/run/systemd/resolve/resolv.conf"

    def test_trust(self) -> None:
        """Nobody is anonymous, everybody is authorised by the API server, certificates come from the cluster."""
        config = kubelet_config(a_document(), ubuntu())
        assert config["authentication"]["anonymous"] == {"enabled": False}
        assert config["authentication"]["x509"] == {"clientCAFile": paths.CLUSTER_CA}
        assert config["authorization"] == {"mode": "Webhook"}
        assert config["serverTLSBootstrap"] is True
        assert config["rotateCertificates"] is True
        assert config["seccompDefault"] is True
        assert config["makeIPTablesUtilChains"] is False

    def test_swap_is_tolerated_where_it_is_on(self) -> None:
        """A kubelet would refuse to start with swap."""
        assert kubelet_config(a_document(), ubuntu(swap=True))["failSwapOn"] is False

    def test_the_inventory_has_the_last_word(self) -> None:
        """Fields of the inventory are merged into ours, object by object."""
        config = kubelet_config(
            a_document(kubelet={"maxPods": 50, "evictionHard": {"memory.available": "1Gi"}}), lab()
        )
        assert config["maxPods"] == 50
        assert config["evictionHard"]["memory.available"] == "1Gi"
        assert config["evictionHard"]["nodefs.available"] == "10%"

    def test_merging_replaces_what_is_no_object(self) -> None:
        """Lists and values are replaced as a whole."""
        assert merged({"a": [1], "b": {"c": 1}}, {"a": [2], "b": 3, "d": None}) == {
            "a": [2],
            "b": 3,
            "d": None,
        }

    def test_a_control_plane_reserves_more(self) -> None:
        """What the control plane uses is not promised to pods."""
        plain = kubelet_config(a_document(), ubuntu())["kubeReserved"]
        both = kubelet_config(a_document(control_plane=True), ubuntu())["kubeReserved"]
        assert plain == {"cpu": "100m", "memory": "250Mi"}
        assert both == {"cpu": "400m", "memory": "1150Mi"}

    def test_a_small_machine_still_runs_pods(self) -> None:
        """No more than two fifths of memory and processors are reserved."""
        config = kubelet_config(a_document(control_plane=True), ubuntu(memory=1 << 30, cpus=1))
        memory = sum(int(config[name]["memory"][:-2]) for name in ("systemReserved", "kubeReserved"))
        cpu = sum(int(config[name]["cpu"][:-1]) for name in ("systemReserved", "kubeReserved"))
        assert memory <= 0.4 * 1024
        assert cpu <= 400


class TestContainerd:
    def test_cgroup_driver_and_scores_follow_the_machine(self) -> None:
        """containerd and kubelet agree on the cgroup driver; scores are restricted where they must be."""
        for facts, systemd, restricted in ((lab(), False, True), (ubuntu(), True, False)):
            config = runtime(tomllib.loads(containerd_config(a_document(), facts)))
            options = config["containerd"]["runtimes"]["runc"]["options"]
            assert options == {"BinaryName": paths.BIN + "/runc", "SystemdCgroup": systemd}
            assert config["restrict_oom_score_adj"] is restricted

    def test_networks_of_others_find_their_place(self) -> None:
        """Plugins of the release come first, and those a DaemonSet installs are found too."""
        config = runtime(tomllib.loads(containerd_config(a_document(), lab())))
        assert config["cni"] == {
            "bin_dirs": [paths.CURRENT + "/cni", "/opt/cni/bin"],
            "conf_dir": paths.CNI_CONFIG,
        }

    def test_the_pause_image_is_the_bundles(self) -> None:
        """The sandbox image is the one that is imported, so no registry is asked for it."""
        config = tomllib.loads(containerd_config(a_document(), lab()))
        images = config["plugins"]["io.containerd.cri.v1.images"]
        assert images["pinned_images"]["sandbox"] == PAUSE

    def test_all_images_are_imported_and_pinned(self) -> None:
        """What pods need is imported before the kubelet starts, add-ons later; no collection removes either."""
        files = {r.path: r for r in containerd_resources(a_document(), lab()) if isinstance(r, File)}
        for unit, images, early in (
            ("freehold-images", ["pause.tar"], True),
            ("freehold-addon-images", ["metrics-server.tar"], False),
        ):
            text = files[f"{paths.UNITS}/{unit}.service"].content.decode()
            imports = [line for line in text.splitlines() if line.startswith("ExecStart=")]
            assert [line.rpartition("/")[2] for line in imports] == images
            assert all("--label io.cri-containerd.pinned=pinned" in line for line in imports)
            assert ("Before=kubelet.service" in text) is early
            assert "Type=oneshot" in text
            assert "Restart=always" not in text

    def test_registries(self) -> None:
        """A registry's mirror is configured with its own authority, verified."""
        registries = {"docker.io": {"endpoints": ["https://mirror.example"], "caPem": "PEM"}}
        files = {
            r.path: r.content.decode()
            for r in containerd_resources(a_document(registries=registries), lab())
            if isinstance(r, File)
        }
        hosts = tomllib.loads(files["/etc/containerd/certs.d/docker.io/hosts.toml"])
        assert hosts["host"]["https://mirror.example"] == {
            "capabilities": ["pull", "resolve"],
            "ca": "/etc/containerd/certs.d/docker.io/ca.crt",
        }
        assert files["/etc/containerd/certs.d/docker.io/ca.crt"] == "PEM"


class TestNetwork:
    def test_pods_get_this_nodes_addresses(self) -> None:
        """The CNI configuration names the node's own CIDR, the MTU inside vxlan, and hostPorts by nftables."""
        bridge, portmap = json.loads(cni_config(a_document(), lab()))["plugins"]
        assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}]]
        assert bridge["mtu"] == 1450
        assert bridge["hairpinMode"] is True
        assert bridge["ipMasq"] is False
        assert portmap["backend"] == "nftables"

    def test_mtu_follows_interface_and_backend(self) -> None:
        """host-gw adds nothing to a packet, IPv6 twenty bytes more than IPv4."""
        assert pod_mtu(a_document(network=a_network(backend="host-gw")), lab()) == 1500
        assert pod_mtu(a_document(**SIX), ubuntu()) == 1430

    def test_flannel(self) -> None:
        """flannel gets the cluster's network and nftables."""
        assert json.loads(flannel_config(a_document(), lab())) == {
            "EnableNFTables": True,
            "Network": "10.244.0.0/16",
            "Backend": {"Type": "vxlan"},
        }

    def test_flannel_with_ipv6_only(self) -> None:
        """Addresses are never taken for IPv4 only."""
        config = json.loads(flannel_config(a_document(**SIX), ubuntu()))
        assert config["EnableIPv4"] is False
        assert config["IPv6Network"] == "fd00:244::/48"

    def test_flannel_uses_the_nodes_own_address(self) -> None:
        """Nothing is guessed from a default route."""
        files = {r.path: r for r in desired_node(a_document(), lab()) if isinstance(r, File)}
        text = files[paths.UNITS + "/flannel.service"].content.decode()
        assert "--iface=10.73.0.12" in text
        assert "Environment=NODE_NAME=w1" in text
        assert "--kubeconfig-file=" + paths.NODE_KUBECONFIG in text

    @pytest.mark.parametrize(
        ("kernel", "nft", "expected"),
        [
            ("6.8.0-45-generic", "1.0.9", "nftables"),
            ("5.13.0", "1.0.1", "nftables"),
            ("5.12.19", "1.0.9", "iptables"),
            ("6.1.0", "1.0.0", "iptables"),
            ("6.1.0", None, "iptables"),
        ],
    )
    def test_old_machines_get_iptables(self, kernel: str, nft: str | None, expected: str) -> None:
        """Kernel 5.13 and nft 1.0.1 are the oldest for nftables; one answer for all three programs."""
        facts = ubuntu(kernel=kernel, tools={"nft": nft})
        assert packet_filter(facts) == expected
        assert kube_proxy_config(a_document(), facts)["mode"] == expected
        assert json.loads(cni_config(a_document(), facts))["plugins"][1]["backend"] == expected
        assert json.loads(flannel_config(a_document(), facts))["EnableNFTables"] is (expected == "nftables")


class TestKubeProxy:
    def test_the_lab(self) -> None:
        """A conntrack limit that belongs to the host is left alone."""
        config = kube_proxy_config(a_document(), lab())
        assert config["conntrack"] == {"maxPerCore": 0}
        assert config["oomScoreAdj"] == 0
        assert config["hostnameOverride"] == "w1"

    def test_a_vm(self) -> None:
        """Where the limit is ours, kube-proxy's defaults hold; health and metrics stay on loopback."""
        config = kube_proxy_config(a_document(), ubuntu())
        assert "conntrack" not in config
        assert config["metricsBindAddress"].startswith("127.0.0.1:")
        assert config["healthzBindAddress"].startswith("127.0.0.1:")

    def test_ipv6(self) -> None:
        """kube-proxy refuses loopback of the other family."""
        assert kube_proxy_config(a_document(**SIX), ubuntu())["metricsBindAddress"] == "[::1]:10249"


class TestCredential:
    def test_kubeconfigs_hold_no_key(self) -> None:
        """The node's kubeconfig names the kubelet's certificate by path and the authority by file."""
        config = json.loads(node_kubeconfig(a_document()))
        assert config["users"][0]["user"] == {
            "client-certificate": paths.KUBELET_CLIENT_CERTIFICATE,
            "client-key": paths.KUBELET_CLIENT_CERTIFICATE,
        }
        assert config["clusters"][0]["cluster"] == {
            "server": "https://10.73.0.11:6443",
            "certificate-authority": paths.CLUSTER_CA,
        }

    def test_names_stay_text(self) -> None:
        """A cluster named like a boolean of YAML keeps its name."""
        assert b'"current-context": "n"' in node_kubeconfig(a_document(cluster="n"))

    def test_every_component_has_one(self) -> None:
        """All but the kubelet share the node's kubeconfig; an unknown one is a mistake."""
        assert node_credential("flannel") == node_credential("agent") == paths.NODE_KUBECONFIG
        assert node_credential("kubelet") == paths.KUBELET_KUBECONFIG
        with pytest.raises(KeyError):
            node_credential("pod")

    def test_the_token_is_in_no_resource(self) -> None:
        """The bootstrap kubeconfig is no resource: nothing that is diffed or recorded holds a token."""
        assert b"abcdef.0123456789abcdef" in bootstrap_kubeconfig(a_document(), "abcdef.0123456789abcdef")
        assert paths.BOOTSTRAP_KUBECONFIG not in {
            r.name for r in desired_node(a_document(), lab(), credential_ready=False)
        }

"""Where things are on a machine. One list, so that `reset`, the docs and the tests read the same one."""

OPT = "/opt/freehold"
STORE = OPT + "/store/sha256"
"""Content-addressed files: the name is the SHA-256 of the bytes in lower-case hex."""
RELEASES = OPT + "/releases"
CURRENT = OPT + "/current"
"""Link to the release in use; switched by one rename."""
BIN = CURRENT + "/bin"
IMAGES = CURRENT + "/images"
AGENT_ZIPAPP = BIN + "/freehold-agent.pyz"
SERVICES_ZIPAPP = BIN + "/freehold-services.pyz"

ETC = "/etc/freehold"
JOIN_DOCUMENT = ETC + "/node.json"
PROXY = ETC + "/proxy.json"
"""The web proxy that was set when the machine joined by itself; may hold a password."""
CLUSTER_CA = "/etc/kubernetes/pki/ca.crt"

STATE = "/var/lib/freehold"
RECORDS = STATE + "/records"
"""One JSON file per owner of resources: what it made, and what was there before."""
HASHES = STATE + "/hashes.json"
"""Digests of large files with the inode, size and ctime (ns) they were computed at."""

CONTROLLER_STATE = STATE + "/controller"
DNS_CLIENTS = CONTROLLER_STATE + "/dns-clients.acl"
"""Nodes that CoreDNS answers beside its own networks; it imports the file."""
VOLUMES = STATE + "/volumes"
"""Local volumes, unless a class names another place."""
VOLUME_LIST = STATE + "/volumes.json"
"""The list of volumes that this node acted on last."""

RUN = "/run/freehold"
JOIN_STATE = RUN + "/join.json"
"""What a machine that joins by itself calls itself, until it has joined. No token."""
UNITS = "/etc/systemd/system"
SYSCTL_DROPIN = "/etc/sysctl.d/99-freehold.conf"
MODULES_DROPIN = "/etc/modules-load.d/freehold.conf"

KUBERNETES = "/etc/kubernetes"
PKI = KUBERNETES + "/pki"
KUBELET_STATE = "/var/lib/kubelet"
KUBELET_CLIENT_CERTIFICATE = KUBELET_STATE + "/pki/kubelet-client-current.pem"
"""The kubelet's rotating credential: key and certificate in one file, re-read by path."""
KUBELET_KUBECONFIG = KUBERNETES + "/kubelet.conf"
BOOTSTRAP_KUBECONFIG = KUBERNETES + "/bootstrap-kubelet.conf"
NODE_KUBECONFIG = KUBERNETES + "/node.conf"
"""For kube-proxy, flannel and the agent: names the kubelet's certificate by path."""

CONTAINERD_CONFIG = "/etc/containerd/config.toml"
CONTAINERD_STATE = "/var/lib/containerd"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_CONFIG = "/etc/cni/net.d"
CNI_CONFLIST = CNI_CONFIG + "/10-freehold.conflist"
ETCD_STATE = "/var/lib/etcd"

CONTROL_SLICE = "freehold-control.slice"
NODE_SLICE = "freehold-node.slice"

ROUTE_PROTOCOL = 70
"""Protocol number of every route we make (`ip route ... proto 70`): ours can be told from others'."""

API_PORT = 6443
JOIN_PORT = 6444
ARTIFACT_PORT = 6445
DNS_PORT = 1053

"""containerd, its configuration and the images that come with the release.

Images are imported by a oneshot unit from tars in the release directory, before the kubelet starts, and
pinned: the kubelet's image collection never removes what no registry could bring back.
"""

import json
from typing import Any, Dict, List, Mapping, Sequence

from freehold_agent.contract import paths, selinux
from freehold_agent.contract.artifacts import ArtifactEntry
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.contract.release import digests_of
from freehold_agent.contract.resources import Directory, File, Resource
from freehold_agent.contract.unit_file import service
from freehold_agent.desired import proxy

PAUSE_IMAGE = "registry.freehold.invalid/pause:1"
CERTIFICATES = "/etc/containerd/certs.d"
UNIT = "containerd"
IMAGES_UNIT = "freehold-images"
ADDON_IMAGES_UNIT = "freehold-addon-images"
"""Images that no node needs to be Ready; they come last."""
PODS_UNIT = "freehold-pods"
PATH = paths.BIN + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOFILE = 1048576
NEEDED_AT_START = ("bin/containerd",)
"""Prefixes of the bundle's files without which containerd does not start; the others may come later."""


def containerd_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    """Return configuration, registries and the two units (files and Units)."""
    config = containerd_config(document, facts).encode()
    registries = _registry_files(document.registries)
    resources: List[Resource] = [
        Directory("/etc/containerd"),
        Directory(CERTIFICATES),
        # containerd closes it to others; recorded, so that one that was there gets its old mode back.
        Directory(paths.CONTAINERD_STATE, mode=0o700),
        File(paths.CONTAINERD_CONFIG, config),
        *registries,
    ]
    settings: Dict[str, Any] = {
        "Type": "notify",
        "Environment": ["PATH=" + PATH],
        "Delegate": "yes",
        # Pods survive a restart of containerd: their shims are not killed with it.
        "KillMode": "process",
        "TasksMax": "infinity",
        "LimitNOFILE": str(nofile(facts)),
        **proxy.settings(facts),
        **selinux.settings(facts, {selinux.RUNTIME: ["bin/containerd"]}, [paths.CONTAINERD_STATE]),
    }
    if facts.get("cap_sys_resource"):
        settings["OOMScoreAdjust"] = "-999"
    resources += service(
        UNIT,
        description="containerd container runtime (freehold)",
        command=[paths.BIN + "/containerd", "--config", paths.CONTAINERD_CONFIG],
        # It watches the directory of networks: one that was made anew in its place is another.
        reads=[paths.CONTAINERD_CONFIG, *proxy.reads(facts)],
        reads_directories=[paths.CNI_CONFIG],
        # Registry files are read at each pull, not at the start: they are no inputs.
        inputs=[
            config,
            digests_of(document.manifest, "bin/containerd", "bin/containerd-shim-runc-v2", "bin/runc"),
        ],
        slice_name=paths.NODE_SLICE,
        unit={"After": "network.target local-fs.target dbus.service"},
        service=settings,
    )
    return [*resources, *_pods_unit(facts), *_image_resources(document, facts)]


def containerd_config(document: JoinDocument, facts: Mapping[str, Any]) -> str:
    """Return config.toml, version 3."""
    capable = bool(facts.get("cap_sys_resource"))
    # Its default is false: then containers run without a label of their own.
    confined = ["enable_selinux = true"] if selinux.labelled(facts) else []
    return "\n".join(
        [
            "# Written by freehold; changes are put back.",
            "version = 3",
            "root = " + _text(paths.CONTAINERD_STATE),
            'state = "/run/containerd"',
            "# Without it containerd would run and every kubelet on it fail.",
            'required_plugins = ["io.containerd.grpc.v1.cri"]',
            "",
            "[grpc]",
            "address = " + _text(paths.CONTAINERD_SOCKET),
            "",
            "# Its default is a directory /opt/containerd that nobody would remove.",
            "[plugins.'io.containerd.internal.v1.opt']",
            "path = " + _text(paths.CONTAINERD_STATE + "/opt"),
            "",
            "[plugins.'io.containerd.cri.v1.images']",
            'snapshotter = "overlayfs"',
            "",
            "[plugins.'io.containerd.cri.v1.images'.pinned_images]",
            "sandbox = " + _text(pause_image(document)),
            "",
            "[plugins.'io.containerd.cri.v1.images'.registry]",
            "config_path = " + _text(CERTIFICATES),
            "",
            "[plugins.'io.containerd.cri.v1.runtime']",
            "# Without CAP_SYS_RESOURCE a score below the inherited one would fail every container.",
            "restrict_oom_score_adj = " + _truth(not capable),
            *confined,
            "",
            "[plugins.'io.containerd.cri.v1.runtime'.containerd]",
            'default_runtime_name = "runc"',
            "",
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]",
            'runtime_type = "io.containerd.runc.v2"',
            "",
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]",
            "BinaryName = " + _text(paths.BIN + "/runc"),
            "SystemdCgroup = " + _truth(facts.get("cgroup_version") == 2),
            "",
            "[plugins.'io.containerd.cri.v1.runtime'.cni]",
            "# The second directory is where other networks' DaemonSets install their plugins.",
            "bin_dirs = [" + _text(paths.CURRENT + "/cni") + ', "/opt/cni/bin"]',
            "conf_dir = " + _text(paths.CNI_CONFIG),
            "",
        ]
    )


def pause_image(document: JoinDocument) -> str:
    """Return the reference of the sandbox image: what the bundle calls its `images/pause.tar`."""
    for entry in document.manifest.entries:
        if entry.name.startswith("images/pause") and entry.image:
            return entry.image
    return PAUSE_IMAGE


def nofile(facts: Mapping[str, Any]) -> int:
    """Return the limit on open files: never above the hard limit that cannot be raised here."""
    limit: int = facts.get("nofile", NOFILE)
    return NOFILE if facts.get("cap_sys_resource") else min(NOFILE, limit)


def is_addon_image(entry: ArtifactEntry) -> bool:
    """Say whether an entry of the manifest is an image that nobody waits for: not the sandbox, nor cluster DNS."""
    return entry.name.startswith("images/") and not entry.name.startswith(("images/pause", "images/coredns"))


def _image_resources(document: JoinDocument, facts: Mapping[str, Any]) -> List[Resource]:
    images = [entry for entry in document.manifest.for_roles("node") if entry.name.startswith("images/")]
    addons = [entry for entry in images if is_addon_image(entry)]
    needed = [entry for entry in images if not is_addon_image(entry)]
    before = {"Before": "kubelet.service"}
    return [
        *_import_unit(document, IMAGES_UNIT, "Images every pod needs", needed, before, facts),
        *_import_unit(document, ADDON_IMAGES_UNIT, "Images of add-ons", addons, {}, facts),
    ]


def _import_unit(
    document: JoinDocument,
    name: str,
    title: str,
    entries: Sequence[ArtifactEntry],
    order: Mapping[str, str],
    facts: Mapping[str, Any],
) -> List[Resource]:
    if not entries:
        return []
    ctr = [paths.BIN + "/ctr", "--address", paths.CONTAINERD_SOCKET, "--namespace", "k8s.io", "images"]
    labels = ["--label", "io.cri-containerd.image=managed", "--label", "io.cri-containerd.pinned=pinned"]
    commands = [" ".join([*ctr, "import", *labels, paths.CURRENT + "/" + entry.name]) for entry in entries]
    return service(
        name,
        description=title + ", imported into containerd (freehold)",
        command=[paths.BIN + "/ctr"],
        inputs=[digests_of(document.manifest, *(entry.name for entry in entries))],
        slice_name=paths.NODE_SLICE,
        unit={"After": UNIT + ".service", "Wants": UNIT + ".service", **order},
        service={
            "Type": "oneshot",
            "RemainAfterExit": "yes",
            "ExecStart": commands,
            "Restart": "on-failure",
            **selinux.settings(facts, {selinux.PROGRAM: ["bin/ctr"]}),
        },
    )


def _pods_unit(facts: Mapping[str, Any]) -> List[Resource]:
    """Return the unit that ends pods at shutdown: after the kubelet, before containerd."""
    python = facts.get("python_executable", "/usr/bin/python3")
    return service(
        PODS_UNIT,
        description="Ends pods when the machine goes down (freehold)",
        command=["/bin/true"],
        inputs=[],
        slice_name=paths.NODE_SLICE,
        unit={"After": UNIT + ".service", "Before": "kubelet.service"},
        service={
            "Type": "oneshot",
            "RemainAfterExit": "yes",
            "ExecStop": " ".join([python, "-I", paths.AGENT_ZIPAPP, "end-pods"]),
            "TimeoutStopSec": "45",
            # A oneshot cannot be restarted always; this one does nothing when it starts.
            "Restart": "no",
        },
    )


def _registry_files(registries: Mapping[str, Any]) -> List[Resource]:
    """Return `certs.d/HOST/hosts.toml` (and the CA beside it) for each registry of the inventory."""
    resources: List[Resource] = []
    for host, settings in sorted(registries.items()):
        directory = CERTIFICATES + "/" + host
        resources.append(Directory(directory))
        authority = settings.get("caPem", "")
        if authority:
            resources.append(File(directory + "/ca.crt", authority.encode()))
        lines: List[str] = ["# Written by freehold; changes are put back."]
        for endpoint in settings.get("endpoints", ()):
            lines += ["[host." + _text(endpoint) + "]", 'capabilities = ["pull", "resolve"]']
            lines += ["ca = " + _text(directory + "/ca.crt")] if authority else []
        resources.append(File(directory + "/hosts.toml", ("\n".join(lines) + "\n").encode()))
    return resources


def _text(value: str) -> str:
    """Return a TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(value)


def _truth(value: bool) -> str:
    return "true" if value else "false"

"""Claims, classes and pods that use them, as the tests of local volumes and the benchmark need them. Pure."""

from typing import Any, Dict, List, Optional, Sequence

PROVISIONER = "local-path.freehold.io"
SLEEP = "trap exit TERM; while :; do sleep 1; done"


def storage_class(name: str, path: str, reclaim: str = "Delete") -> Dict[str, Any]:
    """Return a StorageClass of ours."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": PROVISIONER,
        "parameters": {"path": path},
        "reclaimPolicy": reclaim,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def claim(
    name: str, size: str = "1Mi", storage_class: Optional[str] = None, mode: str = "ReadWriteOnce"
) -> Dict[str, Any]:
    """Return a claim; without a class it gets the default one."""
    spec: Dict[str, Any] = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def pod(
    name: str,
    image: str,
    claims: Sequence[str],
    *,
    node: str = "",
    prefer: str = "",
    command: str = SLEEP,
    user: int = 1000,
) -> Dict[str, Any]:
    """Return a pod that is not root and has each claim at `/data/N`; `node` binds it, `prefer` does not."""
    spec = pod_spec(image, command, user)
    spec["volumes"] = [
        {"name": "v{}".format(number), "persistentVolumeClaim": {"claimName": one}}
        for number, one in enumerate(claims)
    ]
    spec["containers"][0]["volumeMounts"] = [
        {"name": "v{}".format(number), "mountPath": "/data/{}".format(number)}
        for number in range(len(claims))
    ]
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    if prefer:
        place = {"key": "kubernetes.io/hostname", "operator": "In", "values": [prefer]}
        preferred = [{"weight": 100, "preference": {"matchExpressions": [place]}}]
        spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def pod_spec(image: str, command: str = SLEEP, user: int = 1000) -> Dict[str, Any]:
    """Return the spec of a pod without volumes."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", command],
    }
    return {
        "securityContext": {"runAsUser": user, "runAsGroup": user, "runAsNonRoot": user != 0},
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "tolerations": [{"operator": "Exists"}],
    }


def stateful_set(name: str, image: str, replicas: int, size: str = "1Mi") -> List[Dict[str, Any]]:
    """Return a StatefulSet whose pods each have a volume of their own at `/data`, and its Service."""
    spec = pod_spec(image)
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    template = claim("data", size)
    del template["apiVersion"], template["kind"]
    labels = {"app": name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": labels, "ports": [{"port": 80}]},
    }
    body = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
            "volumeClaimTemplates": [template],
        },
    }
    return [service, body]

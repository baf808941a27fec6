"""The secrets of a cluster as texts to search for, and where on a machine some of them stand in the open.

Only names of secrets are ever returned or printed by a search, never the secrets.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path

from tests.support.lab import Lab

P256_HEADER = 48
"""Base64 characters of a PKCS #8 key that are the same in every P-256 key."""
PLACES = "/etc /var/lib/freehold /var/lib/kubelet /var/log /run /root /home /tmp /opt/freehold/releases"


def texts_of(state: Path) -> dict[str, list[str]]:
    """Return by file name below the state directory: texts that only who knows that key can write."""
    found = {}
    for path in sorted((state / "pki").rglob("*.key")):
        content = path.read_bytes()
        if b"PRIVATE KEY" in content:
            body = b"".join(line for line in content.splitlines() if b"---" not in line).decode()
            raw = base64.b64decode(body)
            # As it stands in the PEM, in one line, in a kubeconfig (base64 of the PEM), and in hex.
            shown = content.decode().splitlines()[1]
            encoded = base64.b64encode(content).decode()
            texts = [
                shown[P256_HEADER:],
                body[P256_HEADER : P256_HEADER + 40],
                encoded[len(encoded) // 2 :][:40],
                raw[40:60].hex(),
            ]
        else:
            texts = [content.decode().strip(), base64.b64encode(content.strip()).decode()[:40]]
        found[str(path.relative_to(state))] = [text for text in texts if len(text) >= 16]
    return found


def exposed(lab: Lab, machine: str, texts: Mapping[str, list[str]], patterns: Mapping[str, str]) -> list[str]:
    """Return `secret in place` for everything found in what is not meant to hold secrets on a machine.

    Searched: the whole journal, unit files, command lines and environments of all processes, logs of pods and the
    API server's audit log. `patterns`: regular expressions by name, for secrets that are not known.
    """
    request = json.dumps({"texts": texts, "patterns": patterns})
    done = lab.exec(machine, "python3", "-I", "-B", "-c", SEARCH, input=request)
    found: list[str] = json.loads(done.stdout)
    return found


def traces(lab: Lab, machine: str, text: str) -> tuple[list[str], int]:
    """Return the files of a machine that hold a text, and how many lines of its journal do."""
    search = (
        "text=$(cat); "
        f'grep --recursive --files-with-matches --fixed-strings --devices=skip -e "$text" {PLACES} 2>/dev/null '
        "|| true; "
        'journalctl --no-pager --output=cat | grep --count --fixed-strings -e "$text" || true'
    )
    *files, lines = lab.exec(machine, "bash", "-euc", search, input=text).stdout.splitlines()
    return files, int(lines)


SEARCH = r"""
import glob, json, os, re, subprocess, sys
request = json.load(sys.stdin)
command = ["journalctl", "--no-pager", "--all", "--output=json"]
places = {"journal": subprocess.run(command, stdout=subprocess.PIPE).stdout}
files = glob.glob("/etc/systemd/system/**", recursive=True) + glob.glob("/run/systemd/**", recursive=True)
files += glob.glob("/var/log/**", recursive=True) + glob.glob("/tmp/**", recursive=True)
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) != os.getpid():
        files += ["/proc/%s/cmdline" % pid, "/proc/%s/environ" % pid]
for path in files:
    if os.path.isfile(path) and not path.startswith("/var/log/journal"):
        try:
            places[path] = open(path, "rb").read()
        except OSError:
            pass
assert any(path.startswith("/proc/1/") for path in places)
found = []
for place, content in places.items():
    for name, texts in request["texts"].items():
        if any(text.encode() in content for text in texts):
            found.append("%s in %s" % (name, place))
    for name, pattern in request["patterns"].items():
        if re.search(pattern.encode(), content):
            found.append("%s in %s" % (name, place))
print(json.dumps(found))
"""

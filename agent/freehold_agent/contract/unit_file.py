"""Rendering of systemd unit files, with the digest of what the process reads at its start.

Pure text: nothing here talks to systemd.
"""

from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

from freehold_agent.contract import paths
from freehold_agent.contract.resources import File, Resource, Unit, digest_of_inputs

Settings = Mapping[str, Union[str, Sequence[str]]]

INPUTS_VARIABLE = "FREEHOLD_INPUTS"


def service(
    name: str,
    *,
    description: str,
    command: Sequence[str],
    inputs: Sequence[Union[str, bytes]],
    slice_name: str,
    reads: Sequence[str] = (),
    reads_directories: Sequence[str] = (),
    unit: Optional[Settings] = None,
    service: Optional[Settings] = None,
    timeout: float = 90.0,
) -> List[Resource]:
    """Return the unit file of a service and the Unit that runs it.

    `inputs` are the contents (or digests) of all that the process reads at its start; the command line and
    the settings are added here. `reads` are the paths of files among the resources that it reads then: when one of
    them had to be put right, it is restarted; `reads_directories` likewise. `timeout` is in seconds.
    """
    unit_settings: Dict[str, Union[str, Sequence[str]]] = {
        "Description": description,
        "StartLimitIntervalSec": "0",
    }
    unit_settings.update(unit or {})
    service_settings: Dict[str, Union[str, Sequence[str]]] = {
        "ExecStart": " ".join(quoted(word) for word in command),
        # Started means running: without it a unit counts as started before its program is.
        "Type": "exec",
        "Restart": "always",
        "RestartSec": "1",
        "Slice": slice_name,
    }
    service_settings.update(service or {})
    digest = digest_of_inputs(_render(unit_settings, service_settings, ""), *inputs)
    text = _render(unit_settings, service_settings, digest)
    unit_name = name + ".service"
    return [
        File(paths.UNITS + "/" + unit_name, text.encode()),
        Unit(
            unit_name,
            inputs=digest,
            timeout=timeout,
            reads=(
                *("file:" + path for path in reads),
                *("directory:" + path for path in reads_directories),
            ),
        ),
    ]


def together(*parts: Settings) -> Dict[str, List[str]]:
    """Return the settings of all parts; what several of them set stands there for each, in their order."""
    found: Dict[str, List[str]] = {}
    for part in parts:
        for key, value in part.items():
            found.setdefault(key, []).extend([value] if isinstance(value, str) else value)
    return found


def quoted(word: str) -> str:
    """Return a word of a command line as systemd reads it: specifiers and variables escaped."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"' + escaped + '"' if any(c in escaped for c in " \t'\";") or not escaped else escaped


def flags(values: Mapping[str, str]) -> List[str]:
    """Return `--name=value` for each pair, in the given order."""
    return ["--{}={}".format(name, value) for name, value in values.items()]


def _render(
    unit: Settings,
    service_settings: Settings,
    inputs: str,
) -> str:
    sections: Sequence[Tuple[str, Settings]] = (
        ("Unit", unit),
        ("Service", service_settings),
        ("Install", {"WantedBy": "multi-user.target"}),
    )
    lines = ["# Written by freehold; changes are put back."]
    for title, settings in sections:
        lines.append("[" + title + "]")
        for key, value in settings.items():
            values = [value] if isinstance(value, str) else list(value)
            lines.extend(key + "=" + item for item in values)
        if title == "Service" and inputs:
            lines.append("Environment=" + INPUTS_VARIABLE + "=" + inputs)
        lines.append("")
    return "\n".join(lines)

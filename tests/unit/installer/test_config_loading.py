from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.repository import CHECKOUT

from freehold_installer.config import Inventory, InventoryError, load, loads
from freehold_installer.errors import InputError

SMALL = """\
name: small
hosts:
  cp1: {address: 10.73.0.11, roles: [control-plane]}
"""
ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGtPcs0uTkD4gAaJPhaTMe0VYVYTKXGh4qvQvVyPQFmR"


def said(text, **kwargs):
    """Return the lines of the error that `text` must give."""
    with pytest.raises(InventoryError) as caught:
        loads(text, **kwargs)
    return caught.value.message.splitlines()


@pytest.mark.parametrize("name", ["lab", "single-node", "three-workers"])
def test_examples_are_valid(name):
    """Every committed inventory loads without notes or warnings."""
    inventory = load(CHECKOUT / "inventories" / f"{name}.yaml", {"1.37.2"})
    assert (inventory.notes, inventory.warnings) == ((), ())


def test_lab_is_the_agreed_one():
    """The lab is one control plane and two workers at fixed addresses, reached as the user freehold."""
    lab = load(CHECKOUT / "inventories" / "lab.yaml")
    found = {host.name: (host.internal_address, host.roles) for host in lab.hosts.values()}
    assert found == {
        "cp1": ("10.73.0.11", ("control-plane",)),
        "w1": ("10.73.0.12", ("worker",)),
        "w2": ("10.73.0.13", ("worker",)),
    }
    assert {lab.ssh_for(host).user for host in lab.hosts.values()} == {"freehold"}
    assert lab.config.deploy.metrics_server.enabled


def test_defaults_of_the_smallest_inventory():
    """Name, hosts, address and roles are enough; everything else has the documented default."""
    inventory = loads(SMALL)
    networking = inventory.config.networking
    assert (networking.pod_cidr, networking.service_cidr) == ("10.244.0.0/16", "10.96.0.0/12")
    assert (networking.dns_address, networking.api_service_address) == ("10.96.0.10", "10.96.0.1")
    assert (networking.cluster_domain, inventory.max_nodes) == ("cluster.local", 256)
    assert inventory.config.control_plane.stateful_set.high_availability.timings == (15, 10, 2)
    assert inventory.config.control_plane.standalone.join_node.enabled
    assert inventory.config.deploy.cni.flannel.backend == "vxlan"
    assert [host.name for host in inventory.nodes] == ["cp1"]
    assert inventory.advertise_address(inventory.hosts["cp1"]) == "10.73.0.11"


def test_an_empty_section_counts_as_left_out():
    """A key with nothing behind it, as after commenting out its content, means the default."""
    assert (
        loads(SMALL + "config:\n  networking:\nssh:\nmanifests:\n").config.networking.pod_cidr
        == "10.244.0.0/16"
    )


def test_ssh_settings_of_a_host_win(tmp_path):
    """A host's own SSH settings win, the inventory's fill the rest, and key paths start at the inventory."""
    text = """\
name: x
ssh: {user: admin, port: 2200, key: keys/id}
hosts:
  cp1: {address: 10.0.0.1, roles: [control-plane]}
  w1: {address: 10.0.0.2, roles: [worker], ssh: {port: 22, key: ~/other}}
"""
    inventory = loads(text, path=tmp_path / "inventory.yaml")
    first, second = (inventory.ssh_for(host) for host in inventory.hosts.values())
    assert (first.user, first.port, first.key) == ("admin", 2200, tmp_path / "keys" / "id")
    assert (second.user, second.port, second.key) == ("admin", 22, Path.home() / "other")


def test_state_directory_follows_xdg(monkeypatch, tmp_path):
    """The state is below XDG_STATE_HOME when that is absolute, else below ~/.local/state."""
    inventory = loads(SMALL)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert inventory.state_dir == tmp_path / "freehold" / "small"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert inventory.state_dir == Path.home() / ".local" / "state" / "freehold" / "small"


def test_labels_and_taints_of_a_control_plane_are_merged():
    """joinNode's labels and taints reach the control plane's Node only, and the host's own win."""
    inventory = loads("""\
name: x
hosts:
  cp1:
    address: 10.0.0.1
    roles: [control-plane]
    labels: {a: host}
  w1: {address: 10.0.0.2, roles: [worker]}
config:
  controlPlane:
    standalone:
      joinNode:
        labels: {a: shared, b: shared}
        taints: [{key: c, effect: NoSchedule}]
""")
    control, worker = inventory.hosts.values()
    assert inventory.labels_for(control) == {"a": "host", "b": "shared"}
    assert [taint.key for taint in inventory.taints_for(control)] == ["c"]
    assert (inventory.labels_for(worker), inventory.taints_for(worker)) == ({}, ())


def test_host_keys_are_normalised_and_checked():
    """A host key may be one text or a list, loses its comment, and must be what it says it is."""
    host = "name: x\nhosts:\n  cp1: {address: 10.0.0.1, roles: [control-plane], hostKey: %s}\n"
    assert loads(host % f"{ED25519} root@cp1").hosts["cp1"].host_key == (ED25519,)
    assert loads(host % f"[{ED25519}]").hosts["cp1"].host_key == (ED25519,)
    assert "another type" in said(host % ED25519.replace("ssh-ed25519", "ssh-rsa"))[0]
    assert "public key" in said(host % "SHA256:abc")[0]


def test_config_may_be_a_file_of_its_own(tmp_path):
    """`config: FILE` is read as a vcluster.yaml; its errors name that file, its lines and its own keys."""
    (tmp_path / "vcluster.yaml").write_text("networking:\n  podCIDR: 10.1.0.0/16\n")
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(SMALL + "config: vcluster.yaml\n")
    assert load(inventory).config.networking.pod_cidr == "10.1.0.0/16"
    (tmp_path / "vcluster.yaml").write_text("networking:\n  podCIDR: 10.73.0.0/16\n  mtu: 1400\n")
    with pytest.raises(InventoryError) as caught:
        load(inventory)
    first, second = sorted(caught.value.problems, key=lambda problem: problem.key)
    assert (Path(first.file).name, first.line, first.column, first.key) == (
        "inventory.yaml",
        3,
        18,
        "hosts.cp1.address",
    )
    assert (Path(second.file).name, second.line, second.key) == ("vcluster.yaml", 3, "networking.mtu")


def test_a_missing_config_file_is_named_where_it_is_asked_for(tmp_path):
    """The error points at the `config` key and names the file that is not there."""
    line = said(SMALL + "config: gone.yaml\n", path=tmp_path / "i.yaml")[0]
    assert ":4:9: config: " in line
    assert "gone.yaml no such file" in line


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("nmae: x\n", ":1:1: nmae", "did you mean name?"),
        (
            "config: {networking: {podCidr: 10.1.0.0/16}}\n",
            ":1:23: config.networking.podCidr",
            "did you mean podCIDR?",
        ),
        ("podCIDR: 10.1.0.0/16\n", ":1:1: podCIDR", "did you mean config.networking.podCIDR?"),
        ("controlPlane: {}\n", ":1:1: controlPlane", "did you mean config.controlPlane?"),
        ("host_key: x\n", ":1:1: host_key", "unknown key"),
        ("ssh: {usre: x}\n", ":1:7: ssh.usre", "did you mean user?"),
        ("ssh: {port: '22'}\n", ":1:13: ssh.port", "expected a whole number, found '22'"),
        ("ssh: {port: true}\n", ":1:13: ssh.port", "expected a whole number, found true"),
        ("ssh: {port: 70000}\n", ":1:13: ssh.port", "less than or equal to 65535"),
        ("ssh: [a]\n", ":1:6: ssh", "expected a mapping (key: value), found a list"),
        ("ssh: {user: yes}\n", ":1:13: ssh.user", 'YAML reads yes so; quote it: "yes"'),
        ("name: 12\n", ":1:7: name", 'quote it: "12"'),
        ("name: 2024-01-02\n", ":1:7: name", 'quote it: "2024-01-02"'),
        ("name: Ops\n", ":1:7: name", "DNS-1123"),
        ("hosts: {a: {address: 10.0.0.300}}\n", ":1:22: hosts.a.address", "expected an IP address"),
        ("hosts: {a_b: {}}\n", ":1:9: hosts.a_b", "DNS-1123"),
        ("hosts: {a: }\n", ":1:9: hosts.a", "address is missing"),
        ("hosts: {a: {roles: [wroker]}}\n", ":1:21: hosts.a.roles[0]", "did you mean worker?"),
        ("hosts: {a: {roles: worker}}\n", ":1:20: hosts.a.roles", "expected a list, found 'worker'"),
        ("hosts: {a: {roles: []}}\n", ":1:20: hosts.a.roles", "expected at least one"),
        ("hosts: {a: {labels: {b: 1}}}\n", ":1:25: hosts.a.labels.b", 'quote it: "1"'),
        ("hosts: {a: {labels: {b: }}}\n", ":1:24: hosts.a.labels.b", "expected text, found nothing"),
        ("hosts: {a: {labels: {freehold.io/x: b}}}\n", "hosts.a.labels.'freehold.io/x'", "freehold's own"),
        (
            "config: {deploy: {metricsServer: {enabled: 'true'}}}\n",
            ":1:44: ",
            "expected true or false, found 'true'",
        ),
        ("config: {networking: {podCIDR: 10.1.2.3/16}}\n", ":1:32: ", "did you mean 10.1.0.0/16?"),
        (
            "config: {networking: {nodeCIDRMaskSize: }}\nname:\n",
            ":2:1: name",
            "expected a value, found nothing",
        ),
    ],
)
def test_each_error_has_its_place_and_its_words(text, place, words):
    """A problem names file, line, column and key, says what was expected, and guesses what was meant."""
    lines = [line for line in said(text) if line.startswith("inventory.yaml:") and place in line]
    assert any(words in line for line in lines), said(text)


def test_all_errors_of_a_file_come_at_once():
    """Unknown keys, wrong types, refused keys and missing keys are all in one message, in order of lines."""
    lines = said("""\
name: 7
color: red
hosts:
  w1: {adress: 10.0.0.1, roles: [worker]}
config:
  sync: {toHost: {pods: {enabled: true}}}
""")
    assert [line.split(":")[1] for line in lines] == ["1", "2", "4", "4", "6"]


def test_an_inventory_error_is_bad_input():
    """The exit code is that of bad input, and the hint says where the keys are described."""
    with pytest.raises(InputError) as caught:
        loads("name: 7\n")
    assert caught.value.exit_code == 3
    assert "configuration.md" in caught.value.hint


def test_unknown_release_names_those_there_are():
    """A Kubernetes version without a lock is refused with the list of versions that have one."""
    text = SMALL + "config: {controlPlane: {distro: {k8s: {version: v1.30.0}}}}\n"
    assert (
        "no release lock for Kubernetes 1.30.0; there is one for: 1.37.2"
        in said(text, releases=["1.37.2"])[0]
    )
    assert loads(text).config.control_plane.distro.k8s.version == "1.30.0"


def test_messages_cannot_write_to_the_terminal():
    """Control characters of a file never reach the terminal."""
    message = "\n".join(said('"\\e[31mx": 1\nname: "a\\rb"\n'))
    assert "\x1b" not in message
    assert "\r" not in message


KEYS = [
    "name",
    "hosts",
    "ssh",
    "config",
    "manifests",
    "address",
    "roles",
    "labels",
    "taints",
    "networking",
    "podCIDR",
]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["10.0.0.1", "worker", "control-plane", "10.0.0.0/8", "x,y", "::1", "--v=2", "~/x", "\0"]
    ),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), inner, max_size=4),
    ),
    max_leaves=20,
)


def outcome(content):
    """Return what loading gives; anything but an inventory or an InputError fails the test."""
    try:
        return loads(content, path=Path("/nonexistent/inventory.yaml"))
    except InputError as error:
        str(error).encode()
        return error


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree_is_an_inventory_or_an_input_error(tree):
    """Whatever shape the data has, loading gives an inventory or one clear error."""
    import json

    assert isinstance(outcome(json.dumps(tree)), Inventory | InputError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=60), st.text("abc:-[]{}\"'#&*!|>%@`\\x0uU \n\t<=~?,.1_", max_size=60)))
def test_any_bytes_are_an_inventory_or_an_input_error(content):
    """Whatever bytes a file has, loading gives an inventory or one clear error."""
    assert isinstance(outcome(content), Inventory | InputError)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_of_an_example_is_an_inventory_or_an_input_error(data):
    """A mutilated example still gives an inventory or one clear error."""
    text = (CHECKOUT / "inventories" / "three-workers.yaml").read_text()
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 20))
    new = data.draw(st.text('a:{}[]-\n \t1"&*!', max_size=4))
    assert isinstance(outcome(text[:at] + new + text[at + length :]), Inventory | InputError)

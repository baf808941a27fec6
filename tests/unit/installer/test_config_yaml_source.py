import pytest

from freehold_installer.config import InventoryError, load, loads, yaml_source


def one(content):
    """Return what is said about `content`."""
    with pytest.raises(InventoryError) as caught:
        loads(content)
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "inventory.yaml: is empty"),
        (b"# only a comment\n", "inventory.yaml: is empty"),
        (b"name: a\xff\n", "inventory.yaml:1:8: is not UTF-8 text"),
        (b"\x7fELF\x00\xff", "is not a text file"),
        (b"a\nb\x00c\n", ":2:2: contains the character U+0000"),
        (b"name: a\n\tssh: b\n", ":2:1: YAML does not allow a tab here; indent with spaces"),
        (b"name: [a\n", ":2:1: is not YAML: expected ',' or ']'"),
        (b"a: b: c\n", ":1:5: is not YAML: mapping values are not allowed here"),
        (b"a: 1\n---\nb: 2\n", "several documents"),
        (b"a: *b\n", "is not YAML: found undefined alias"),
        (b"just text\n", "expected an inventory"),
        (b"- a\n", ":1:1: expected an inventory"),
        (b"name: a\nname: b\n", ":2:1: name: given twice, first in line 1"),
        (b"yes: a\n", ":1:1: YAML reads the key yes as true or false; quote it"),
        (b"1: a\n", "YAML reads the key 1 as a number; quote it"),
        (b"? [a]\n: b\n", "a key must be plain text"),
        (b"a: &x {b: 1}\nc: {<<: *x}\n", "merge keys (<<) are not supported"),
        (b"name: !!python/object:os.system x\n", "is not supported"),
        (b"name: !secret x\n", ":1:7: name: the tag !secret is not supported"),
        (b"name: 2024-13-45\n", 'cannot read it; quote it: "2024-13-45"'),
        (b"name: &a [*a]\n", "an alias that contains itself"),
        (b"[" * 5000, "is nested too deeply"),
        (b"a: " + b"x" * (1 << 20), "is larger than 1 MiB"),
    ],
)
def test_what_is_no_good_yaml_is_said_in_one_line(content, words):
    """Every way in which a file can be unreadable gives its own clear message."""
    assert words in one(content)


def test_aliases_that_multiply_are_stopped():
    """A small file that would grow to millions of values is refused quickly."""
    text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    text += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert "do aliases multiply?" in one(text)


def test_an_alias_may_be_used_twice():
    """Plain aliases work: the same labels for two hosts need not be written twice."""
    inventory = loads("""\
name: x
hosts:
  cp1: {address: 10.0.0.1, roles: [control-plane], labels: &rack {rack: one}}
  w1: {address: 10.0.0.2, roles: [worker], labels: *rack}
""")
    assert inventory.hosts["w1"].labels == {"rack": "one"}


def test_a_byte_order_mark_and_windows_lines_are_fine():
    """Files saved by other systems' editors load."""
    text = "name: x\r\nhosts:\r\n  cp1: {address: 10.0.0.1, roles: [control-plane]}\r\n"
    assert loads(b"\xef\xbb\xbf" + text.encode()).name == "x"


def test_files_that_cannot_be_read(tmp_path):
    """A missing file and a directory are each said plainly, with the path as it was given."""
    for path, words in ((tmp_path / "gone.yaml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(InventoryError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: {words}")


def test_places_are_those_of_keys_and_values():
    """Lines and columns count from 1 and point at the key or at the value."""
    source = yaml_source.parse(b"a:\n  b: [x, y]\n", "f")
    key, value = source.place(("a", "b")), source.place(("a", "b", 1), of_value=True)
    assert (key.line, key.column, value.line, value.column) == (2, 3, 2, 10)

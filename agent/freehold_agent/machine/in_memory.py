"""The agent's code, run on a machine from memory: the loader for `python3 -c` and the line it reads.

Used by the installer; nothing is written on the machine. The protocol: the first line on stdin is JSON with
sources and request, what follows belongs to the verb; stdout carries JSON lines.
"""

import importlib
import importlib.util
import json
import pkgutil
from typing import Any, Dict, List, Mapping, Sequence

# No single quotes in it: it travels as one shell word. A traceback in it shows module and line.
LOADER = """\
import sys,json
from importlib.machinery import ModuleSpec
d=json.loads(sys.stdin.buffer.readline());m=d["modules"]
class L:
 def find_spec(s,n,p=None,t=None):
  if n in m:return ModuleSpec(n,s,origin="memory",is_package=any(k.startswith(n+".") for k in m))
 def create_module(s,p):return None
 def exec_module(s,o):
  n=o.__name__;exec(compile(m[n],"<memory>/"+n,"exec"),o.__dict__)
 def get_source(s,n):return m.get(n)
sys.meta_path.insert(0,L())
from freehold_agent.remote import main
sys.exit(main(d["request"]))
"""


def command(python: str = "python3") -> List[str]:
    """Return the program to run on the machine; `-I` keeps the user's site and environment out."""
    return [python, "-I", "-c", LOADER]


def sources(packages: Sequence[str] = ("freehold_agent",)) -> Dict[str, str]:
    """Return the source of every module of the packages by its full name. Raises ImportError."""
    found: Dict[str, str] = {}
    for package in packages:
        module = importlib.import_module(package)
        names = [package]
        names += [info.name for info in pkgutil.walk_packages(module.__path__, package + ".")]
        for name in names:
            found[name] = _source(name)
    return found


def payload(request: Mapping[str, Any], modules: Mapping[str, str]) -> bytes:
    """Return the first line for stdin: a request with the sources it may need."""
    return json.dumps({"modules": dict(modules), "request": dict(request)}).encode() + b"\n"


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    get_source = getattr(spec.loader if spec else None, "get_source", None)
    text = get_source(name) if get_source else None
    if text is None:
        raise ImportError("no source for module " + name)
    return str(text)

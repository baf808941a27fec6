"""The one line that a person pastes on a machine that is to join. Pure text, without any secret.

It needs nothing but python3, which the agent needs anyway: so there is one way that is tested, not one with curl and
one without. It trusts the cluster's CA alone, which it carries, takes no proxy, and starts only what has the digest
that stands in it. Its clock check comes first, because a clock that is behind makes every certificate invalid.
"""

import base64
import json
import shlex
from collections.abc import Sequence

TIMEOUT = 60
"""Seconds for the agent to come."""
BEHIND = 240
"""Seconds that a clock may be behind: certificates are backdated by five minutes."""
# One statement after the other: it has to fit into one line, and a person must be able to read it.
_STATEMENTS = (
    "import base64,hashlib,os,ssl,subprocess,sys,tempfile,time,urllib.request as u",
    "late={made}-int(time.time())",
    'late<{behind} or sys.exit("freehold: the clock of this machine is %d s behind; set it, then paste again"%late)',
    "url={url}",
    'say="freehold: the agent did not come from %s: %s\\n"',
    'sys.excepthook=lambda k,e,t:sys.stderr.write(say%(url,str(getattr(e,"reason",e)) or "interrupted"))',
    'ca=ssl.DER_cert_to_PEM_cert(base64.b64decode("{ca}"))',
    "c=ssl.create_default_context(cadata=ca)",
    "c.minimum_version=ssl.TLSVersion.TLSv1_2",
    "b=u.build_opener(u.ProxyHandler({{}}),u.HTTPSHandler(context=c)).open(url,timeout={timeout}).read()",
    'hashlib.sha256(b).hexdigest()=="{sha256}" or sys.exit("freehold: what came is not the agent")',
    "d=tempfile.TemporaryDirectory()",
    'n=[d.name+"/agent.pyz",d.name+"/ca.crt"]',
    'open(n[0],"wb").write(b)',
    'open(n[1],"w").write(ca)',
    'p=",".join(v for v in os.environ if v.lower() in ("http_proxy","https_proxy","no_proxy"))',
    'sudo=["sudo"]+["--preserve-env="+p]*bool(p) if os.geteuid() else []',
    "sys.excepthook=lambda *e:None",
    'r=subprocess.call(sudo+[sys.executable,"-I",n[0],"join-node","--ca",n[1]]+{arguments}+sys.argv[1:])',
    "d.cleanup()",
    "sys.exit(r)",
)


def line(
    *, artifact_url: str, sha256: str, servers: Sequence[str], ca_der: bytes, node: str, made: int
) -> str:
    """Return the line for a POSIX shell; `made` is the control plane's time in seconds.

    What stands behind it on the command line goes to `freehold-agent join-node`: `--token-file FILE`.
    """
    arguments = ["--node", node]
    for server in servers:
        arguments += ["--server", server]
    script = ";".join(_STATEMENTS).format(
        made=made,
        behind=BEHIND,
        url=json.dumps(artifact_url),
        ca=base64.b64encode(ca_der).decode(),
        timeout=TIMEOUT,
        sha256=sha256,
        arguments=json.dumps(arguments, separators=(",", ":")),
    )
    return "python3 -Ic " + shlex.quote(script)

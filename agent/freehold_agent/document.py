"""The document this machine was joined with, as it lies on its disk."""

from freehold_agent.contract import paths
from freehold_agent.contract.join_document import JoinDocument
from freehold_agent.errors import NotJoinedError


def read_document(root: str = "") -> JoinDocument:
    """Return the document this machine was joined with. Raises NotJoinedError, DocumentError, OSError."""
    try:
        with open(root + paths.JOIN_DOCUMENT, "rb") as stream:
            return JoinDocument.loads(stream.read())
    except FileNotFoundError:
        raise NotJoinedError(
            "this machine is no node: it has no " + paths.JOIN_DOCUMENT,
            hint="freehold token create, on the operator's machine, prints the line that makes it one",
        ) from None

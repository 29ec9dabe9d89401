"""The parts of a `multipart/form-data` body that was read whole and is no larger than allowed.

RFC 7578 as browsers and curl write it: each part is delimited by the boundary on a line of its own
and has a Content-Disposition with a name.
"""

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from jobs.serving.refusals import Refusal

MOST_PARTS = 100
BOUNDARY_CHARACTERS = 70  # RFC 2046, section 5.1.1


@dataclass(frozen=True)
class Part:
    """One field of a form.

    Args:
        name: of the field.
        filename: where the field is a file.
        content: its bytes as they were sent.
    """

    name: str
    filename: str | None
    content: bytes


def read_parts(body: bytes, content_type: str) -> list[Part]:
    """Cuts a form into its fields, in order.

    Raises:
        Refusal: 422 `bad_form`: it has no boundary, no end, too many parts, or one without a name.
    """
    boundary = _header("Content-Type", content_type).get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= BOUNDARY_CHARACTERS:
        raise _bad("its Content-Type names no boundary")
    try:
        delimiter = b"\r\n--" + boundary.encode("ascii")
    except UnicodeEncodeError:
        raise _bad("its boundary is not ASCII") from None
    pieces = (b"\r\n" + body).split(delimiter, MOST_PARTS + 1)
    if len(pieces) > MOST_PARTS + 1:
        raise _bad(f"it has more than {MOST_PARTS} parts")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise _bad("it ends before its last boundary")
    return [_part(piece) for piece in pieces[1:-1]]


def _part(piece: bytes) -> Part:
    _, _, piece = piece.partition(b"\r\n")  # white space may follow a boundary
    head, found, content = piece.partition(b"\r\n\r\n")
    headers = HeaderParser().parsestr(head.decode("utf-8", "replace"))  # file names are UTF-8
    name = headers.get_param("name", header="Content-Disposition")
    if not found or not isinstance(name, str):
        raise _bad("a part has no Content-Disposition with a name")
    filename = headers.get_filename()
    return Part(name, filename, content)


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message


def _bad(why: str) -> Refusal:
    return Refusal(422, "bad_form", f"the form cannot be read: {why}; send multipart/form-data")

"""Errors that users can fix.

    UserError                            the message says what was wrong and what to do
    |-- RequestError    400              a request that cannot be served as it stands
    |   |-- BadPicture  400  bad_picture    empty, broken or cut short
    |   |-- TooLarge    413  too_large      more bytes or pixels than the limits allow
    |   |-- NotAPicture 415  not_a_picture  none of the formats in image.FORMATS
    |   `-- BadOption   422  bad_option     an option whose value is not allowed
    |-- BadGraph                         a model that cannot be loaded (graph)
    `-- BadCheckpoint                    weights that cannot be read (checkpoint)

Each command adds its own where it needs one. Any other exception is a bug: a server answers it
with 500 internal_error, a command shows its traceback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar


class UserError(Exception):
    """An error that its user can fix; the message says what was wrong and what to do."""


class RequestError(UserError):
    """A request that cannot be served as it stands; the message is fit for its sender."""

    status: ClassVar[int] = 400
    phrase: ClassVar[str] = "Bad Request"
    kind: ClassVar[str] = "bad_request"


class BadPicture(RequestError):
    """A picture that is empty, broken or cut short."""

    kind = "bad_picture"


class TooLarge(RequestError):
    """A picture of more bytes or pixels than the limits allow."""

    status, phrase, kind = 413, "Content Too Large", "too_large"


class NotAPicture(RequestError):
    """A body in none of the allowed formats."""

    status, phrase, kind = 415, "Unsupported Media Type", "not_a_picture"


class BadOption(RequestError):
    """An option whose value is not allowed."""

    status, phrase, kind = 422, "Unprocessable Content", "bad_option"


REFUSALS = (BadPicture, TooLarge, NotAPicture, BadOption)  # all that the library raises


@dataclass(frozen=True)
class Failure:
    """An error as a server answers it; TorchServe and Triton answer alike."""

    status: int
    phrase: str
    kind: str
    message: str

    @classmethod
    def of(cls, error: Exception, request: str) -> Failure:
        """Describe an error; a bug shows its request's id only, nothing of the inside."""
        if isinstance(error, RequestError):
            return cls(error.status, error.phrase, error.kind, str(error))
        message = f"The server failed on this picture; its log says why, for request {request}."
        return cls(500, "Internal Server Error", "internal_error", message)

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        fields = {"code": self.status, "type": self.kind, "message": self.message}
        return json.dumps(fields).encode() + b"\n"

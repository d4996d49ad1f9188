"""What an adapter asks of a decoder of provider formats, which it is given and does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamguard_core.accounting import Usage


class Decoder(Protocol):
    """Reads one response's bytes beside its reader; `StreamDecoder` of `streamguard_providers` is one."""

    @property
    def done(self) -> bool:
        """The terminal marker or an error was seen."""

    @property
    def whole(self) -> bool:
        """All that the format announces has come: the body may end here."""

    @property
    def error(self) -> Exception | None:
        """The error that the provider reported inside the stream."""

    @property
    def finish(self) -> str | None:
        """The provider's finish reason."""

    @property
    def usage(self) -> Usage | None:
        """The latest usage that the provider reported."""

    @property
    def model(self) -> str | None:
        """What the provider calls the model."""

    def feed(self, data: bytes) -> Sequence[object]:
        """Take bytes in and return the chunks that they complete. May raise on what it cannot read."""

    def close(self) -> Sequence[object]:
        """The body has ended: return the chunks of what was complete but for its line end."""


class MakesDecoders(Protocol):
    """Makes the decoder of one response; `StreamDecoder.auto` does."""

    def __call__(self, *, content_type: str) -> Decoder:
        """A decoder for a response of this content type."""

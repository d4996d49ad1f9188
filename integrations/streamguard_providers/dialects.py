"""What every wire format is turned into: the interface of a dialect, and words they share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol

import msgspec

from streamguard_core import AnyChunk, Chunk, ChunkKind, Usage
from streamguard_providers.errors import ProviderError, provider_error


class Dialect(Protocol):
    """Reads the payloads of one response in order, and remembers what they said of its end.

    An instance belongs to one response. `decode` returns the chunks of a payload; what else it said
    (finish reason, usage, error, end) is in the attributes from then on.
    """

    name: ClassVar[str]
    """What the dialect is called."""
    provider: str
    """Who is speaking, for errors and attempts."""
    finish: str | None
    """The provider's finish reason, in its own word; of the first choice, if there are several."""
    reported: Mapping[str, Any] | None
    """The latest usage object, verbatim."""
    error: ProviderError | None
    done: bool
    """The terminal marker was seen: nothing that counts can follow."""
    model: str | None
    malformed: int
    """Payloads that could not be read and were skipped."""

    def __init__(self, provider: str = ...) -> None:
        """Begin to read a response of that provider's."""

    def decode(self, payload: bytes) -> list[AnyChunk]:
        """Read one payload and return its chunks."""

    def fail(self, reported: object) -> None:
        """Take an error object in that came outside the payloads."""

    @property
    def complete(self) -> bool:
        """True when the response may end here without `done`: all that was announced has come."""

    @property
    def finishes(self) -> Mapping[int, str]:
        """The finish reason of each choice that has one."""

    @property
    def blocked(self) -> str | None:
        """Why a filter blocked the prompt, the answer or the rest of it, in the provider's own word.

        A refusal of the model's is none: it is the finish reason, or has chunks of its own kind.
        """

    @property
    def usage(self) -> Usage | None:
        """The latest usage, normalised; None when none was reported."""


#: What is raised for a payload that the strict decoder refuses.
UNREADABLE: Final = (msgspec.DecodeError, ValueError, RecursionError)
#: What a provider did whose error came inside a response, as the verb of a sentence.
IN_MID_STREAM: Final = "reported an error in mid-stream"
_MARKER: Final = b"[DONE]"


class DialectBase:
    """What dialects have in common; `Dialect` says what the names mean.

    A dialect adds `decode` and `usage`; and the others where its format has more to say.
    """

    def __init__(self, provider: str) -> None:
        self.provider = provider
        self.finish: str | None = None
        self.finishes: dict[int, str] = {}
        self.reported: Mapping[str, Any] | None = None
        self.error: ProviderError | None = None
        self.done = False
        self.model: str | None = None
        self.malformed = 0
        self._running: set[int] = set()
        """The choices that have begun and have no finish reason yet."""

    def fail(self, reported: object) -> None:
        """Take an error object in; the first one counts."""
        if self.error is None:
            self.error = self._failure(reported)

    @property
    def complete(self) -> bool:
        """True once the end was seen, and it was not that of a failure."""
        return self.done and self.error is None

    @property
    def blocked(self) -> str | None:
        """None: the format has no filter's word, or a refusal is the finish reason."""
        return None

    def _failure(self, reported: object) -> ProviderError:
        """What an error object says."""
        return provider_error(self.provider, reported, what=IN_MID_STREAM)

    def _finished(self, reason: str, choice: int = 0) -> None:
        """A choice has a finish reason, or another one than before."""
        self.finishes[choice] = reason
        self._running.discard(choice)
        if choice == 0 or self.finish is None:
            self.finish = reason

    def _odd(self, payload: bytes) -> dict[str, Any]:
        """Read a payload that the strict decoder refused; one that says nothing is empty."""
        if payload.strip() == _MARKER:
            self._marked()
            return {}
        odd = lenient(payload)
        if odd is None:
            self.malformed += 1
            return {}
        return odd

    def _marked(self) -> None:
        """`[DONE]` came: a gateway's, which is no end where the format has one of its own."""


class ToolFragment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which tool call a chunk of kind `tool` belongs to; its text is a piece of the arguments.

    Args:
        index: the call's number within its choice; pieces with the same number belong together.
        id: the call's id; in most dialects only the first piece has one.
        name: the tool's name; likewise.
        kind: the provider's word for a call that is no function of the application's: of a tool that
            the provider runs, such as `server_tool_use`, or whose text is no JSON, such as
            `custom_tool_call`; None for a function.
    """

    index: int = 0
    id: str | None = None
    name: str | None = None
    kind: str | None = None

    @classmethod
    def of(cls, chunk: Chunk) -> ToolFragment:
        """Read it back from the `data` of a tool chunk."""
        return _FRAGMENT.decode(chunk.data)


#: The beginning of an escaped half; whether its other half follows is not seen here.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_FRAGMENT: Final = msgspec.json.Decoder(ToolFragment)
_ENCODER: Final = msgspec.json.Encoder()


def tool_chunk(fragment: ToolFragment, arguments: object, choice: int = 0) -> Chunk:
    """A piece of a tool call; arguments that came as an object are written as JSON text."""
    if arguments is None:
        text = ""
    elif isinstance(arguments, str):
        text = arguments
    elif isinstance(arguments, msgspec.Raw):
        text = bytes(arguments).decode("utf-8", "replace")
    else:
        text = _ENCODER.encode(arguments).decode()
    return Chunk(text, ChunkKind.TOOL, _ENCODER.encode(fragment), choice)


def whole_arguments(raw: msgspec.Raw) -> str:
    """Whole arguments as they were written, `{}` where there are none."""
    text = bytes(raw).decode("utf-8", "replace")
    return "{}" if text in {"", "null"} else text


def lenient(payload: bytes) -> dict[str, Any] | None:
    """Read a payload that the strict decoder refused; None when it is no JSON object at all.

    Bytes that are no UTF-8 and halves of surrogate pairs become U+FFFD: one odd field must not lose
    a token.
    """
    try:
        said = json.loads(payload.decode("utf-8", "replace"))
        if _SURROGATE.search(payload):
            said = _without_halves(said)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _without_halves(value: Any) -> Any:
    """The same value, with no half of a surrogate pair anywhere in it."""
    if isinstance(value, str):
        return text_in(value)
    if isinstance(value, list):
        return [_without_halves(item) for item in value]
    if isinstance(value, dict):
        return {text_in(name): _without_halves(item) for name, item in value.items()}
    return value


def text_in(value: object) -> str | None:
    """The text of a field that should be one; without halves of surrogate pairs."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def word_in(value: object) -> str | None:
    """A reason by its name; a number or an object is a reason all the same."""
    return text_in(value) if isinstance(value, str | None) else str(value)[:64]


def mapping_in(value: object) -> dict[str, Any] | None:
    """The object of a field that should be one."""
    return value if isinstance(value, dict) else None


def items_in(value: object) -> list[Any]:
    """The items of a field that should be a list."""
    return value if isinstance(value, list) else []


def number_in(value: object) -> int | None:
    """A count: some vendors send whole numbers as floats, some send null or nonsense."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if value >= 0 else None


def raw_in(value: object) -> msgspec.Raw:
    """A field that is handed on as it was written, written again; nothing for null."""
    if value is None:
        return msgspec.Raw()
    try:
        written = text_in(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) or ""
    except RecursionError:
        return msgspec.Raw()
    return msgspec.Raw(written.encode())

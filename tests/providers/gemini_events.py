"""What the tests of the dialect of Google Gemini make streams of."""

from __future__ import annotations

import json
from typing import Any

from streamguard_core import Count
from streamguard_providers import StreamDecoder

from .decoding import Decoded
from .wire import event


def decoded(*events: bytes) -> Decoded:
    """Decode a stream."""
    return Decoded(StreamDecoder.gemini(), events)


def answer(
    *parts: dict[str, Any], finish: Any = None, index: int = 0, **more: Any
) -> dict[str, Any]:
    """A payload with one candidate, as Gemini writes it: what is empty is left out."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    if finish is not None:
        candidate["finishReason"] = finish
    if index:
        candidate["index"] = index
    return {"candidates": [candidate], **more}


def text(piece: str, **more: Any) -> dict[str, Any]:
    """A payload with a piece of text."""
    return answer({"text": piece}, **more)


def call(**fields: Any) -> dict[str, Any]:
    """A payload with a function call or a piece of one."""
    return answer({"functionCall": fields})


def piece(path: str, **value: Any) -> dict[str, Any]:
    """A piece of a call's arguments."""
    return {"jsonPath": path, **value}


def usage(prompt: int, output: int | None = None, thoughts: int | None = None) -> dict[str, Any]:
    """Usage as Gemini writes it."""
    counts = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": prompt + (output or 0) + (thoughts or 0),
    }
    return {name: value for name, value in counts.items() if value is not None}


SAID = [
    text("Hm.", usageMetadata={"trafficType": "ON_DEMAND"}, modelVersion="gemini-test"),
    answer({"text": "Sums.", "thought": True}, {"text": "Grüße 🌍"}, usageMetadata=usage(19)),
    call(name="find", id="f1", willContinue=True),
    call(partialArgs=[piece("$.q", stringValue='"]}\\ ', willContinue=True)], willContinue=True),
    call(partialArgs=[piece("$.q", stringValue="\u2028")], willContinue=True),
    call(),
    answer(
        {"text": "", "thoughtSignature": "c2ln"}, finish="STOP", usageMetadata=usage(17, 30, 12)
    ),
]
SSE = b"".join(
    b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n" for said in SAID
)
ARRAY = b"[" + b"\n,\r\n".join(json.dumps(s, indent=2).encode() for s in SAID) + b"\n]\n"
FORMS = {"sse": SSE, "array": ARRAY}
#: From here on the last payload is whole, and nothing is missing but framing.
ENDS = {"sse": len(SSE) - 4, "array": len(ARRAY) - 3}


def holds(bounds: Count, true: int | None) -> bool:
    """True when a count allows the true number."""
    assert true is not None
    return bounds.lower <= true and (bounds.upper is None or true <= bounds.upper)


def streamed(*pieces: dict[str, Any], end: bool = True) -> Decoded:
    """A call whose arguments come in pieces."""
    begin = call(name="f", willContinue=True)
    middle = [call(partialArgs=[one], willContinue=True) for one in pieces]
    return decoded(*map(event, [begin, *middle, *([call()] if end else [])]))

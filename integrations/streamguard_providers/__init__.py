"""Providers' streams: wire formats, producers, transports that govern any SDK built on httpx."""

from streamguard_providers import supported
from streamguard_providers.anthropic_messages import Anthropic
from streamguard_providers.anthropic_producer import AnthropicProducer
from streamguard_providers.anthropic_usage import anthropic_iterations, anthropic_total
from streamguard_providers.breaker import Breaker, BreakerRule, BreakerState, Permit
from streamguard_providers.continuation import Continuation
from streamguard_providers.dialects import Dialect, ToolFragment
from streamguard_providers.errors import CutOffReadError, EventTooLarge, ProviderError
from streamguard_providers.failover import RoutesFailed, WhenBroken
from streamguard_providers.gemini import Gemini
from streamguard_providers.gemini_producer import GeminiProducer
from streamguard_providers.json_array import JSONArrayDecoder
from streamguard_providers.lookup import cancel_response, look_up
from streamguard_providers.ndjson import NDJSONDecoder
from streamguard_providers.ollama_dialect import Ollama
from streamguard_providers.ollama_producer import OllamaProducer
from streamguard_providers.open_stream import AsyncOpenStream, OpenStream, open_stream
from streamguard_providers.openai_chat import OpenAIChat
from streamguard_providers.openai_completions import OpenAICompletions
from streamguard_providers.openai_producer import OpenAIProducer
from streamguard_providers.openai_responses import OpenAIResponses
from streamguard_providers.pacing import Pacer, PacingRule, Slot
from streamguard_providers.pools import ProviderPool, shared_pool
from streamguard_providers.producers import CallOptions
from streamguard_providers.results import End, EndState, Obstacle, StreamAccumulator, ToolCall
from streamguard_providers.retries import Retries
from streamguard_providers.route import Route, RoutedCall, RouteHealth
from streamguard_providers.router import RoutedProducer, Router, RouterOptions
from streamguard_providers.sse import SSEDecoder
from streamguard_providers.sse_event import SSEEvent
from streamguard_providers.stream_decoder import StreamDecoder
from streamguard_providers.stream_reader import ReadFailure, StreamReader, StreamReadError
from streamguard_providers.termination import (
    Evidence,
    ExplicitCancel,
    Grade,
    LateLookup,
    TerminationRow,
    TerminationTable,
    UsageArrives,
    row_of_call,
)
from streamguard_providers.transports import GuardedAsyncTransport, GuardedTransport

__all__ = [
    "Anthropic",
    "AnthropicProducer",
    "AsyncOpenStream",
    "Breaker",
    "BreakerRule",
    "BreakerState",
    "CallOptions",
    "Continuation",
    "CutOffReadError",
    "Dialect",
    "End",
    "EndState",
    "EventTooLarge",
    "Evidence",
    "ExplicitCancel",
    "Gemini",
    "GeminiProducer",
    "Grade",
    "GuardedAsyncTransport",
    "GuardedTransport",
    "JSONArrayDecoder",
    "LateLookup",
    "NDJSONDecoder",
    "Obstacle",
    "Ollama",
    "OllamaProducer",
    "OpenAIChat",
    "OpenAICompletions",
    "OpenAIProducer",
    "OpenAIResponses",
    "OpenStream",
    "Pacer",
    "PacingRule",
    "Permit",
    "ProviderError",
    "ProviderPool",
    "ReadFailure",
    "Retries",
    "Route",
    "RouteHealth",
    "RoutedCall",
    "RoutedProducer",
    "Router",
    "RouterOptions",
    "RoutesFailed",
    "SSEDecoder",
    "SSEEvent",
    "Slot",
    "StreamAccumulator",
    "StreamDecoder",
    "StreamReadError",
    "StreamReader",
    "TerminationRow",
    "TerminationTable",
    "ToolCall",
    "ToolFragment",
    "UsageArrives",
    "WhenBroken",
    "anthropic_iterations",
    "anthropic_total",
    "cancel_response",
    "look_up",
    "open_stream",
    "row_of_call",
    "shared_pool",
    "supported",
]

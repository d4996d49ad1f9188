"""StreamGuard's core: governs the life of every token stream, from its first byte to its receipt."""

__version__ = "0.1.0"

from streamguard_core.accounting import (
    NO_USAGE,
    UNKNOWN,
    Count,
    CountSource,
    Usage,
    total_usage,
)
from streamguard_core.causes import Category, Cause, Party, Signal
from streamguard_core.chunks import AnyChunk, Chunk, ChunkKind, size_of, text_of
from streamguard_core.clock import Clock, LoopClock, SystemClock
from streamguard_core.errors import (
    CutOffError,
    LedgerError,
    ProducerError,
    StreamGuardError,
    TruncatedStream,
    UsageError,
)
from streamguard_core.gates import CUT, HOLD, PASS, Gate, Verdict
from streamguard_core.ledger import Ledger, MemoryLedger, ReadableLedger, Verification
from streamguard_core.limits import Deadlines, Limits
from streamguard_core.observers import CutOff, Flushed, Notice, Observer, Opened, Sealed
from streamguard_core.options import SessionOptions
from streamguard_core.plain import plain_receipt, plain_record
from streamguard_core.policies import (
    ByProvider,
    DisconnectPolicy,
    DrainEnd,
    DrainLimit,
    Rule,
    by_provider,
    cancel,
    drain,
    grace,
)
from streamguard_core.price import (
    UNPRICED,
    Price,
    PricePart,
    Pricer,
    Unpriced,
    from_pico,
    sum_prices,
    to_pico,
)
from streamguard_core.producers import CancelEvent, Out, Producer, PullProducer, Report
from streamguard_core.protocol import Action, Offer, StreamProtocol
from streamguard_core.receipt import (
    Attempt,
    AttemptOutcome,
    AttemptRole,
    CloseState,
    Instants,
    OpenRecord,
    Receipt,
)
from streamguard_core.recorded import RecordedStream
from streamguard_core.scope import Governed, Scope, current_scope, use_scope
from streamguard_core.session import StreamSession
from streamguard_core.shutdown import Shutdown
from streamguard_core.statistics import Statistics
from streamguard_core.sync_session import SyncStreamSession
from streamguard_core.termination import OnClose, Termination, TerminationLookup
from streamguard_core.totals import PriceSum, Sum, count_text, price_text
from streamguard_core.transitions import TRANSITIONS, ConsumerState, ProducerState, State

__all__ = [
    "CUT",
    "HOLD",
    "NO_USAGE",
    "PASS",
    "TRANSITIONS",
    "UNKNOWN",
    "UNPRICED",
    "Action",
    "AnyChunk",
    "Attempt",
    "AttemptOutcome",
    "AttemptRole",
    "ByProvider",
    "CancelEvent",
    "Category",
    "Cause",
    "Chunk",
    "ChunkKind",
    "Clock",
    "CloseState",
    "ConsumerState",
    "Count",
    "CountSource",
    "CutOff",
    "CutOffError",
    "Deadlines",
    "DisconnectPolicy",
    "DrainEnd",
    "DrainLimit",
    "Flushed",
    "Gate",
    "Governed",
    "Instants",
    "Ledger",
    "LedgerError",
    "Limits",
    "LoopClock",
    "MemoryLedger",
    "Notice",
    "Observer",
    "Offer",
    "OnClose",
    "OpenRecord",
    "Opened",
    "Out",
    "Party",
    "Price",
    "PricePart",
    "PriceSum",
    "Pricer",
    "Producer",
    "ProducerError",
    "ProducerState",
    "PullProducer",
    "ReadableLedger",
    "Receipt",
    "RecordedStream",
    "Report",
    "Rule",
    "Scope",
    "Sealed",
    "SessionOptions",
    "Shutdown",
    "Signal",
    "State",
    "Statistics",
    "StreamGuardError",
    "StreamProtocol",
    "StreamSession",
    "Sum",
    "SyncStreamSession",
    "SystemClock",
    "Termination",
    "TerminationLookup",
    "TruncatedStream",
    "Unpriced",
    "Usage",
    "UsageError",
    "Verdict",
    "Verification",
    "by_provider",
    "cancel",
    "count_text",
    "current_scope",
    "drain",
    "from_pico",
    "grace",
    "plain_receipt",
    "plain_record",
    "price_text",
    "size_of",
    "sum_prices",
    "text_of",
    "to_pico",
    "total_usage",
    "use_scope",
]

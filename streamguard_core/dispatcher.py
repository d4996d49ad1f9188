"""Moves chunks in order through the speculative buffer, past the gates, into the committed queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from streamguard_core.causes import Cause
from streamguard_core.chunks import AnyChunk, buffer_size, size_of, text_of
from streamguard_core.gates import CUT, DEFAULT_LOOKBACK, HOLD, PASS, Gate, Verdict
from streamguard_core.protocol import ACCEPTED, FULL, Offer, StreamProtocol
from streamguard_core.transitions import STREAMING


class Dispatcher:
    """The two buffers of one stream. Knows no loop and no thread: drivers wait, this moves.

    Invariant: `queue` holds the chunks the consumer has yet to take, in order. With gates, those are the
    committed ones, and `held` has the speculative ones. Without, nothing has to be moved when it is
    committed: `queue` has both, the speculative ones last, and the counters say where they begin.
    """

    __slots__ = ("_decides", "_gates", "_lookback", "_passed", "_text", "held", "protocol", "queue")

    def __init__(self, protocol: StreamProtocol, gates: tuple[Gate, ...] = ()) -> None:
        self.protocol = protocol
        self.queue: deque[AnyChunk] = deque()
        # Mostly empty and always short: a list is a tenth of what a deque weighs.
        self.held: list[AnyChunk] = []
        self._gates = gates
        self._decides = tuple(enumerate(gate.decide for gate in gates))
        self._passed = [0] * len(gates)
        """For each gate, up to which chunk it has let everything pass."""
        self._text = ""
        self._lookback = _lookback(gates)

    def offer(self, chunk: AnyChunk, size: int, at_ns: int) -> Offer:
        """Take `chunk` into the speculative buffer if there is room, ask the gates, commit what may go."""
        protocol = self.protocol
        answer = protocol.offer(size, at_ns)
        if answer is ACCEPTED:
            if self._gates:
                self._judge(chunk, at_ns)
            else:
                self.queue.append(chunk)
                protocol.clear(protocol.produced)
                self.advance(at_ns)
        elif answer is FULL:
            self._cut_when_stuck(at_ns)
            if not protocol.live:
                return protocol.offer(size, at_ns)
        return answer

    def pass_on(self, chunk: AnyChunk, at_ns: int) -> None:
        """`offer`, for streams with gates, where nothing but the gates has to be asked: `StreamProtocol` in place."""
        self.protocol.produced += 1
        self._judge(chunk, at_ns)

    def advance(self, at_ns: int) -> int:
        """Commit what is cleared and fits; returns how many chunks were committed."""
        moved = self.protocol.commit(at_ns)
        if self._gates:
            for _ in range(moved):
                self.queue.append(self.held.pop(0))
        return moved

    def weigh(self, size: int) -> None:
        """Where bytes are not counted chunk by chunk: tell the protocol, before it judges `size` more.

        Four times the characters are enough to know where they are far from the bound.
        """
        protocol = self.protocol
        try:
            protocol.buffered_bytes = 4 * (sum(map(len, self.queue)) + sum(map(len, self.held)))
        except TypeError:
            # An SDK's own objects, which weigh nothing that we know of.
            protocol.buffered_bytes = self.buffered_bytes()
        if protocol.buffered_bytes + size > protocol.max_bytes:
            protocol.buffered_bytes = self.buffered_bytes()

    def buffered_bytes(self) -> int:
        """The bytes in both buffers."""
        return sum(map(buffer_size, self.queue)) + sum(map(buffer_size, self.held))

    def taken(self, size: int, at_ns: int) -> int:
        """The consumer took a chunk of `size` bytes over; returns how many chunks its room let be committed."""
        self.protocol.consume(1, size)
        return self.advance(at_ns)

    def took(self, chunks: int) -> None:
        """The consumer took over the first `chunks` chunks of the queue, which are removed; `advance()` next."""
        for _ in range(chunks):
            self.queue.popleft()
        # Their bytes are weighed when they are asked for.
        self.protocol.consume(chunks)

    def finished(self, at_ns: int) -> None:
        """The producer ended: ask the gates about what they still hold, and commit what may go."""
        for index, gate in enumerate(self._gates):
            if self._passed[index] < self.protocol.produced:
                verdict = _finish(gate, self._text)
                # Nothing more will come: what is not cut is released.
                self._note(index, PASS if verdict is HOLD else verdict, at_ns)
        if self._gates and self.protocol.live:
            self.protocol.clear(min(self._passed))
        self.advance(at_ns)

    def discard(self) -> int:
        """Throw the speculative chunks away, at the cutoff; returns how many there were."""
        if not self._gates:
            for _ in range(len(self.queue) - (self.protocol.committed - self.protocol.consumed)):
                self.held.append(self.queue.pop())
        dropped = len(self.held)
        self.protocol.discard(sum(buffer_size(chunk) for chunk in self.held))
        self.held.clear()
        return dropped

    def check_stuck(self, at_ns: int) -> None:
        """A producer waits for room: cut off if no room can ever come."""
        self._cut_when_stuck(at_ns)

    def _judge(self, chunk: AnyChunk, at_ns: int) -> None:
        """Ask the gates about a chunk that was counted as produced, and commit what may go."""
        protocol, text, passed = self.protocol, self._text, self._passed
        for index, decide in self._decides:
            try:
                verdict = decide(text, chunk)
            except Exception as error:
                verdict = _failed(error)
            if verdict is PASS:
                passed[index] = protocol.produced
            elif verdict is not HOLD:
                self._note(index, verdict, at_ns)
            if protocol.state is not STREAMING:
                # Cut off, by this verdict or by what the gate did: the chunk is discarded.
                protocol.discard(size_of(chunk))
                return
        cleared = min(passed)
        room = protocol.committed - protocol.consumed < protocol.max_inflight
        if room and cleared == protocol.produced and not self.held:
            # `clear` and `commit` in place: nothing was held, and there is room.
            protocol.cleared = protocol.committed = cleared
            self.queue.append(chunk)
        else:
            self.held.append(chunk)
            protocol.clear(cleared)
            if room:
                self.advance(at_ns)
        # Nobody else may hold the text while it grows: then it grows in place.
        self._text = ""
        text += chunk if isinstance(chunk, str) else text_of(chunk)
        if self._lookback is not None and len(text) > 2 * self._lookback:
            # Cut in halves so that the copying is paid once per `lookback` characters.
            text = text[-self._lookback :]
        self._text = text

    def _note(self, index: int, verdict: Verdict | object, at_ns: int) -> None:
        if isinstance(verdict, CUT):
            self.protocol.terminate(verdict.cause, verdict.detail, at_ns)
        elif verdict is PASS:
            self._passed[index] = self.protocol.produced
        else:
            name = type(self._gates[index]).__name__
            self.protocol.terminate(
                Cause.INTERNAL_ERROR, f"gate {name} answered neither PASS, HOLD nor CUT", at_ns
            )

    def _cut_when_stuck(self, at_ns: int) -> None:
        """A full buffer in which a gate holds everything and the consumer has nothing to take never empties."""
        protocol = self.protocol
        if self.held and protocol.cleared == protocol.committed == protocol.consumed:
            protocol.terminate(
                Cause.GUARDRAIL,
                f"a gate held {len(self.held)} chunks and the speculative buffer is full",
                at_ns,
            )


def _lookback(gates: tuple[Gate, ...]) -> int | None:
    """How many characters to keep: the most any gate asks for; None for all."""
    wanted = [getattr(gate, "lookback", DEFAULT_LOOKBACK) for gate in gates]
    return None if None in wanted else max(wanted, default=0)


def _finish(gate: Gate, text: str) -> Verdict:
    finish = getattr(gate, "finish", None)
    return PASS if finish is None else _ask(finish, text)


def _ask(question: Callable[..., Verdict], *arguments: object) -> Verdict:
    try:
        return question(*arguments)
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> CUT:
    """A gate that raises cuts: it fails closed, and its failure is not the producer's (G14)."""
    # The type alone: the message might quote the text the gate was looking at.
    return CUT(Cause.INTERNAL_ERROR, f"a gate raised {type(error).__name__}")

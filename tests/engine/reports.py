"""What is known of readers that left: tokens generated afterwards, connections held."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .readers import Leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """One reader that left.

    Args:
        leave: How it left.
        read: Tokens it had read.
        generated: Tokens the engine had generated for it just before it left.
        burn: Tokens the engine generated for it afterwards; None where only the sum is known.
        rest: Tokens that were left to generate, so the burn of an application that never stops.
        let_go: Seconds until the application's connection to the engine was gone; infinite
            where it was still there when the watch ended.
    """

    leave: Leave
    read: int
    generated: int
    burn: int | None
    rest: int
    let_go: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a group of readers left behind.

    Args:
        path: The pattern.
        moment: When they left.
        departures: One per reader.
        burned: Tokens generated after their leaving, all readers together.
    """

    path: str
    moment: str
    departures: tuple[Departure, ...]
    burned: int

    def burns(self) -> list[int]:
        """The burn of every reader, smallest first."""
        return sorted(gone.burn for gone in self.departures if gone.burn is not None)

    def burn(self, share: float) -> int:
        """The burn that this share of readers does not exceed: 0.99 for p99."""
        burns = self.burns()
        return burns[max(0, math.ceil(share * len(burns)) - 1)]

    def to_the_end(self) -> int:
        """How many readers were generated for to the last token."""
        return sum(gone.burn is not None and gone.burn >= gone.rest for gone in self.departures)

    def let_go(self) -> float:
        """The longest time, in seconds, that the application held a reader's connection."""
        return max(gone.let_go for gone in self.departures)

    def __str__(self) -> str:
        burns = self.burns()
        each = f"burn p50 {self.burn(0.5)} p99 {self.burn(0.99)} of {burns}, " if burns else ""
        return (
            f"{self.path} {self.moment}: {len(self.departures)} readers, {each}"
            f"{self.burned} tokens in all, {self.to_the_end()} to the end, "
            f"let go after {self.let_go():.2f} s at most"
        )

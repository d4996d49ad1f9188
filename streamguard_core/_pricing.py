"""Prices a stream at its seal: every attempt, and their sum; no price source can change how a stream ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from streamguard_core.accounting import NO_USAGE, Usage
from streamguard_core.errors import UsageError
from streamguard_core.price import UNPRICED, Price, Pricer, Unpriced, sum_prices
from streamguard_core.receipt import Attempt, Receipt

logger = logging.getLogger("streamguard")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_REFUSED: Final = Price(unpriced=Unpriced.REFUSED)
_FAILED: Final = Price(unpriced=Unpriced.PRICER_FAILED)
_UNCOUNTED: Final = Price(unpriced=Unpriced.UNKNOWN_USAGE)
_MIXED: Final = Price(unpriced=Unpriced.MIXED_CURRENCIES)


def priced(receipt: Receipt, pricer: Pricer | None) -> Receipt:
    """The same receipt with a price on each attempt that has none, and their sum on itself.

    Without attempts the receipt's own usage is priced.
    """
    attempts = receipt.attempts
    if pricer is None and not attempts:
        return receipt
    asked = _Asked(pricer, receipt)
    if not attempts:
        total = asked.price(receipt.provider, receipt.model, receipt.usage, receipt.opened_us)
        return msgspec.structs.replace(receipt, price=total)
    attempts = tuple(_with_price(one, asked, receipt) for one in attempts)
    return msgspec.structs.replace(receipt, attempts=attempts, price=_together(attempts, receipt))


class _Asked:
    """A price source that is asked until it fails."""

    def __init__(self, pricer: Pricer | None, receipt: Receipt) -> None:
        self._pricer = pricer
        self._stream_id = receipt.stream_id
        self._otherwise = UNPRICED

    def price(self, provider: str | None, model: str | None, usage: Usage, at_us: int) -> Price:
        """What it says, or UNPRICED."""
        if self._pricer is None:
            return self._otherwise
        try:
            price = self._pricer.price(
                provider, model, usage, _EPOCH + timedelta(microseconds=at_us)
            )
            if not isinstance(price, Price):
                raise TypeError(type(price).__name__)
        except Exception as error:
            # The type alone: a message might quote what was asked. Once: it is not asked again.
            logger.error(
                "stream %s: the price source %s raised %s; what is left stays unpriced",
                self._stream_id,
                type(self._pricer).__qualname__,
                type(error).__name__,
            )
            self._pricer, self._otherwise = None, _FAILED
            return _FAILED
        return price


def _with_price(attempt: Attempt, asked: _Asked, receipt: Receipt) -> Attempt:
    if attempt.price is not None:
        return attempt
    if attempt.cost_nothing:
        price = _REFUSED
    else:
        provider = attempt.provider or receipt.provider
        model = attempt.model or receipt.model
        usage = _usage_of(attempt, receipt)
        price = asked.price(provider, model, usage, _called_us(attempt, receipt))
    return msgspec.structs.replace(attempt, price=price)


def _usage_of(attempt: Attempt, receipt: Receipt) -> Usage:
    """What the call's provider reported; where only the stream was told, it was told by its only call."""
    if attempt.usage is not None and attempt.usage != NO_USAGE:
        return attempt.usage
    calls = [one for one in receipt.attempts if not one.cost_nothing]
    return receipt.usage if len(calls) == 1 else NO_USAGE


def _called_us(attempt: Attempt, receipt: Receipt) -> int:
    """Wall time of the call. A clock of its own may have nothing to do with the session's: then the opening."""
    opened_ns, sealed_ns = receipt.instants.opened_ns, receipt.instants.sealed_ns
    started_ns = attempt.started_ns
    if started_ns is None or sealed_ns is None or not opened_ns <= started_ns <= sealed_ns:
        return receipt.opened_us
    return receipt.opened_us + (started_ns - opened_ns) // 1000


def _together(attempts: Sequence[Attempt], receipt: Receipt) -> Price:
    prices = [one.price for one in attempts if one.price is not None]
    if receipt.attempts_beyond:
        prices.append(_UNCOUNTED)
    try:
        return sum_prices(prices)
    except UsageError:
        return _MIXED

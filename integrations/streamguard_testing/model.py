"""A small n-gram model: text that looks like language and is the same for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

_TOKEN: Final = re.compile(r"\s?\w+|\s?[^\w\s]|\s")
_SENTENCE_ENDS: Final = frozenset(".!?")

# Written for this model. A few words outside ASCII are there on purpose: bytes are not characters.
_TEXT: Final = """
The river begins as a thin thread of water between two stones, and nobody who steps over it would
call it a river. A little further down it has found a second thread, and then a third, and by the
time it reaches the first bridge it has a name and a sound of its own. People come to the bridge in
the evening and lean on the rail. They look at the water, and the water goes on under them whether
they look or not. When the last of them has gone home the river is still running, and it carries
what it carries past the dark houses to the sea. A mill once stood below the bridge. The miller had
a gate of oak in the channel, and a rule that was older than he was: when there is no grain, close
the gate. He said that a wheel that turns for nobody wears out the stone, the axle and the patience
of the miller, in that order. His neighbour had no gate. His wheel turned all night, and in the
morning he wondered why the stone was thin and the flour was none. Children asked the miller how he
knew that there was no grain left, and he told them to listen. An empty stone sings, he said, and a
full one only hums. On the other bank lived a woman who kept the lighthouse and wrote everything
down. She wrote the hour at which the lamp was lit, the ships that passed, and the oil that was
burnt for each of them. If a ship turned back before it reached the rocks she wrote that too, and
she drew a line under the entry so that nobody could add a word to it. Once a year a clerk came from
the town and read the book from the first page to the last. He never found a line that had been
changed, and he always stayed for coffee at the small café by the harbour. The naïve traveller
thinks that the lamp is there for the keeper. The keeper knows better: the lamp is there for whoever
is still out on the water, and when nobody is out it may as well be dark. In winter the fjord froze
from the edges to the middle, and the ships stayed where they were. The lamp was not lit, the mill
did not turn, and the river went on under the ice without a sound. In spring the ice broke with a
crack that could be heard in every house, and somebody always ran to the bridge to see it go. Then
the gate was opened, the wheel began to turn, and the first ship of the year came round the point
with its flag up. The keeper wrote down the hour. The miller listened to the stone. The water came
down from the hills, as much as was wanted and not a drop more, and the evening was long and clear.
"""


class NGramModel:
    """Generates tokens from the n-grams of a text, endlessly, the same ones for the same seed.

    Invariant: the text made with a seed depends on nothing but text, order and seed.

    Args:
        text: What the model was "trained" on; a short story of its own when not given.
        order: How many tokens decide about the next one.

    Example:
        >>> NGramModel().generate(5, seed=1) == NGramModel().generate(5, seed=1)
        True
    """

    __slots__ = ("_followers", "_starts", "order")

    def __init__(self, text: str | None = None, *, order: int = 2) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        # With a blank in front, so that the text also reads on where its end meets its start.
        tokens = _tokens(" " + " ".join((_TEXT if text is None else text).split()))
        if len(tokens) <= order:
            raise ValueError(
                f"the text has {len(tokens)} tokens; order {order} needs more than that"
            )
        self.order = order
        self._followers: dict[tuple[str, ...], list[str]] = {}
        self._starts: list[tuple[str, ...]] = []
        # The text is read as a ring, so that every context has a follower.
        ring = tokens + tokens[:order]
        for at in range(len(tokens)):
            context = tuple(ring[at : at + order])
            self._followers.setdefault(context, []).append(ring[at + order])
            if ring[at - 1] in _SENTENCE_ENDS:
                self._starts.append(context)
        self._starts = self._starts or [tuple(tokens[:order])]

    def tokens(self, seed: int = 0) -> Iterator[str]:
        """Yield tokens without end; joined together they are the text."""
        chance = random.Random(seed)  # noqa: S311 - the point is that it is predictable
        context = self._starts[int(chance.random() * len(self._starts))]
        yield context[0].lstrip()
        yield from context[1:]
        while True:
            followers = self._followers[context]
            token = followers[int(chance.random() * len(followers))]
            context = (*context[1:], token)
            yield token

    def generate(self, count: int, seed: int = 0) -> list[str]:
        """Return the first `count` tokens that `tokens(seed)` yields."""
        return list(islice(self.tokens(seed), count))

    def count(self, text: str) -> int:
        """Return how many tokens a text (a prompt) has in this model's eyes."""
        return len(_tokens(text))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)

"""The rounds of `--simulate-failures`: what goes wrong in each, and what is to be seen."""

from __future__ import annotations

from dataclasses import dataclass

from streamguard_testing import Cut, Fault

WELL = Fault()
BREAKS_OFF = Fault(cut_after=10, cut=Cut.ABRUPT)
REFUSES = Fault(status=503)
NEW_QUESTION = "And what did the miller say?"


@dataclass(frozen=True, slots=True)
class Round:
    """One stream.

    Args:
        title: for people.
        first, second: what goes wrong with the engines.
        new: whether a question is asked that was not answered before.
        later: whether it is so much later that no breaker is open any more.
    """

    title: str
    first: Fault = WELL
    second: Fault = WELL
    new: bool = False
    later: bool = False


ONLY = (Round(""),)
ROUNDS = (
    Round("nothing fails, and the answer is kept"),
    Round("the first engine breaks off: the second goes on from the last chunk", BREAKS_OFF),
    Round("the first engine refuses, its breaker opens: the second answers", REFUSES),
    Round("both break off, again and again: the kept answer stands in", BREAKS_OFF, BREAKS_OFF),
    Round(
        "a minute later, the same with a question that has none: a part is a part",
        BREAKS_OFF,
        BREAKS_OFF,
        new=True,
        later=True,
    ),
    Round("both breakers are open: nobody is called", new=True),
    Round("a minute later the engines are well again: a probe closes the breaker", later=True),
)

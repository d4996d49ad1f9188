"""Closes a sync chain from its models outwards, so that no part of it reads on for its trace."""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Generator, Iterator
from types import GeneratorType
from typing import Any, Final

from streamguard_langchain.frames import is_chain
from streamguard_langchain.stopping import ChainStopped

logger = logging.getLogger("streamguard")

_BETWEEN: Final[tuple[type, ...]] = (
    GeneratorType,
    type(itertools.tee(())[0]),
    itertools.chain,
    itertools.islice,
    map,
    filter,
    zip,
    enumerate,
    type(iter([])),
)
"""Through what one generator may hold another one, besides containers."""
_CONTAINERS: Final = (list, tuple, dict, set)
_LONGEST: Final = 64
"""Containers with more in them are data."""


def close_inside_out(outermost: Generator[Any, Any, Any]) -> None:
    """Close a chain's generator, and before it those that it iterates.

    LangChain's own `close()` begins outside: each part then reads its input to the end, for its trace,
    and the model answers to the last token (P40). Closed first, the model has nothing more to say.

    A generator in which another thread is cannot be closed: its next chunk is refused.
    """
    for generator in reversed(list(_inner(outermost))):
        if not generator.gi_running and is_chain(generator.gi_frame):
            _close(generator)
    outermost.close()


def _inner(outermost: Any) -> Iterator[GeneratorType[Any, Any, Any]]:
    """The generators that one iterates, through whatever is between, from the outermost on."""
    seen = {id(outermost)}
    level: list[Any] = [outermost]
    while level:
        found = [each for holder in level for each in gc.get_referents(holder) if _leads_on(each)]
        level = []
        for each in found:
            if id(each) not in seen:
                seen.add(id(each))
                level.append(each)
                if isinstance(each, GeneratorType):
                    yield each


def _leads_on(value: object) -> bool:
    if isinstance(value, _BETWEEN):
        return True
    if type(value).__name__ == "_tee_dataobject":
        return True
    return type(value) in _CONTAINERS and len(value) <= _LONGEST  # type: ignore[arg-type]


def _close(generator: GeneratorType[Any, Any, Any]) -> None:
    try:
        generator.close()
    except ChainStopped:
        pass
    except Exception as error:  # noqa: BLE001 - its reader has left; the type alone is told
        logger.warning("closing a part of a chain raised %s", type(error).__name__)

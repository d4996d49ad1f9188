"""What kind of callable an endpoint is, and the signature under which frameworks see it when it is guarded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from streamguard_asgi._starlette import Request

REQUEST_PARAMETER: Final = "streamguard_request"
"""Added to a published signature when the endpoint takes no `Request` of its own."""


class Kind(Enum):
    """How an endpoint is called."""

    COROUTINE = "coroutine"
    FUNCTION = "function"
    """Runs in the thread pool, as it would unguarded."""
    GENERATOR = "generator"
    """Of either kind: calling it runs nothing yet."""


def kind_of(endpoint: Callable[..., Any]) -> Kind:
    """Decide by the function that is behind partials and instances with `__call__`."""
    target = function_of(endpoint)
    if inspect.isasyncgenfunction(target) or inspect.isgeneratorfunction(target):
        return Kind.GENERATOR
    return Kind.COROUTINE if inspect.iscoroutinefunction(target) else Kind.FUNCTION


def function_of(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself: without partials, and an instance's `__call__`."""
    target = endpoint
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    return target


def publish(wrapper: Callable[..., Any], endpoint: Callable[..., Any], returns: type) -> None:
    """Make `wrapper` look like `endpoint` to those who read names, documentation and parameters.

    `__wrapped__` is left out: FastAPI decides by the function behind it how to call the wrapper.
    Annotations are evaluated here, because as strings they would be looked up in this package.
    """
    named = endpoint
    while isinstance(named, functools.partial):
        named = named.func
    if not hasattr(named, "__name__"):
        named = type(named)
    functools.update_wrapper(wrapper, named, updated=())
    del wrapper.__wrapped__  # type: ignore[attr-defined]
    wrapper.__signature__ = _signature(endpoint, returns)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {}


def return_annotation(endpoint: Callable[..., Any]) -> Any:
    """What `endpoint` says it returns; a string where that is only known to type checkers."""
    return _evaluated(inspect.signature(endpoint).return_annotation, _names(endpoint))


def _names(endpoint: Callable[..., Any]) -> Mapping[str, Any]:
    return getattr(inspect.unwrap(function_of(endpoint)), "__globals__", {})


def _signature(endpoint: Callable[..., Any], returns: type) -> inspect.Signature:
    signature = inspect.signature(endpoint)
    names = _names(endpoint)
    parameters = [
        parameter.replace(annotation=_evaluated(parameter.annotation, names))
        for parameter in signature.parameters.values()
    ]
    if not any(_takes_request(parameter) for parameter in parameters):
        _insert(
            parameters,
            inspect.Parameter(
                REQUEST_PARAMETER, inspect.Parameter.KEYWORD_ONLY, annotation=Request
            ),
        )
    return signature.replace(parameters=parameters, return_annotation=returns)


def _insert(parameters: list[inspect.Parameter], extra: inspect.Parameter) -> None:
    """Keyword-only parameters stand before `**keywords`."""
    last = parameters[-1:]
    at = -1 if last and last[0].kind is inspect.Parameter.VAR_KEYWORD else len(parameters)
    parameters.insert(at, extra)


def _takes_request(parameter: inspect.Parameter) -> bool:
    return inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, Request)


def _evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return what a string annotation means; one that is only known to type checkers stays what it is."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))  # noqa: S307 - the programmer's own source, as `inspect` does
    except NameError:
        return annotation


def take_request(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Request | None:
    """Find the request among an endpoint's arguments; ours is taken out."""
    ours = keywords.pop(REQUEST_PARAMETER, None)
    if isinstance(ours, Request):
        return ours
    for value in (*arguments, *keywords.values()):
        if isinstance(value, Request):
            return value
    return None

"""What code may give where a file can only name it: functions, keys of several parts, sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import WrapValidator

from aggregator.errors import ConfigurationError
from aggregator.sinks.base import Sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import ValidatorFunctionWrapHandler


def allowed(check: Callable[[Any], object]) -> WrapValidator:
    """Let functions, tuples and sinks through as they are, once ``check`` has looked at them.

    ``check`` raises ``ConfigurationError``. All other values are validated like any setting.
    """

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if not (callable(value) or isinstance(value, tuple | Sink)):
            return handler(value)
        try:
            check(value)
        except ConfigurationError as exc:
            raise ValueError(exc.problem) from None
        return value

    return WrapValidator(validate)

"""What gateways' words mean: looked up by the word, or by the status where the word is new or missing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

Concern = TypeVar("Concern", bound=Enum)


class Meaning(NamedTuple, Generic[Concern]):
    """``concern``: whom it concerns. ``dead``: the token is reported as feedback."""

    concern: Concern
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Meanings(Generic[Concern]):
    """The tables of one gateway. ``busy``: any other 5xx; ``foreign``: what else is none of its answers."""

    reasons: Mapping[str, Meaning[Concern]]
    statuses: Mapping[int, Meaning[Concern]]
    busy: Meaning[Concern]
    foreign: Meaning[Concern]

    def find(self, reason: str, status: int) -> Meaning[Concern]:
        """Return what a reply means, by its status if the reason is unknown."""
        found = self.reasons.get(reason) or self.statuses.get(status)
        if found is not None:
            return found
        return self.busy if status >= HTTPStatus.INTERNAL_SERVER_ERROR else self.foreign

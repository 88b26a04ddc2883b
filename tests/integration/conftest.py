"""Services under test: none outlives its test, and none may have met a fault of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.service import Service, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    """A factory of running services: ``service("--size", "20")``."""
    started: list[Service] = []

    def start(*flags: str, **options: Any) -> Service:
        started.append(Service(*flags, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()
    assert not [fault for each in started for fault in each.faults()]


@pytest.fixture
def stage(
    rabbitmq: Any, queue: str, elasticsearch: Any, index: str, service: Callable[..., Service]
) -> Stage:
    """A queue on each broker, an index, and services between them."""
    return Stage(rabbitmq, queue, elasticsearch, index, service)

"""Real servers as fixtures, and what happens where one is missing.

A test that names one of these fixtures belongs to ``-m integration``. Servers are started once for
the whole run, side by side, as soon as it is known which tests will run. Whatever a test did to a
server (killed, frozen), the next test finds it well.
"""

from __future__ import annotations

import gc
import logging
import os
import uuid
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import requests
import structlog
from hypothesis import Phase, settings

from aggregator.logs import _CHATTY
from tests.servers import Fleet, Prometheus, Unavailable
from tests.servers.elastic import Elasticsearch
from tests.servers.elastic import elasticsearch as make_elasticsearch
from tests.servers.prometheus import prometheus as make_prometheus
from tests.servers.rabbitmq import RabbitMQ
from tests.servers.rabbitmq import rabbitmq as make_rabbitmq
from tests.servers.rabbitmq import rabbitmq4 as make_rabbitmq4

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tests.servers import OpenSearch, Redis, Server, Tarantool, Toxiproxy

# pytest --hypothesis-profile=quick; without deadlines, as they would measure the machine
settings.register_profile("default", deadline=None)
# a failure is told as it was found: to make it small can take minutes, and the default profile,
# which finds it again at once, does that
settings.register_profile(
    "quick", max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.register_profile("long", max_examples=5000, deadline=None)

BROKERS = {"rabbitmq": "3.10", "rabbitmq4": "4.0"}
SERVER_FIXTURES = {"elasticsearch", "rabbitmq4", "redis", "tarantool", "toxiproxy"}
FLEET = pytest.StashKey[Fleet]()
WANTED = pytest.StashKey[dict[Path, set[str]]]()
#: The order in which workers side by side take files: long ones first, short ones level the end.
ROOMS = ("faults", "integration", "contract", "property", "unit")


def missing(why: object) -> NoReturn:
    """Fail in CI, skip elsewhere, with the reason."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"a server is missing: {why}", pytrace=False)
    pytest.skip(str(why))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FLEET] = Fleet()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[FLEET].close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the long files first, where there are several workers."""
    if _is_worker(config):
        items.sort(key=lambda item: next((n for n, room in enumerate(ROOMS) if room in item.path.parts), -1))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests will ask for, while the first of them run."""
    wanted: dict[Path, set[str]] = defaultdict(set)
    for item in session.items:
        wanted[item.path].update(_servers(item))
    session.config.stash[WANTED] = wanted
    if not (session.config.option.collectonly or _is_worker(session.config)):
        session.config.stash[FLEET].prefetch(sorted(set().union(*wanted.values())))
    # modules and tests stay until the end: no need to look through them again and again
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start what this file will ask for: a worker beside others meets some of the files only."""
    item.config.stash[FLEET].prefetch(sorted(item.config.stash[WANTED][item.path]))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # set by pytest-xdist


def _servers(item: pytest.Item) -> Iterator[str]:
    names = getattr(item, "fixturenames", [])
    yield from SERVER_FIXTURES.intersection(names)
    if "rabbitmq" in names:
        yield item.callspec.params["rabbitmq"]  # type: ignore[attr-defined]  # parametrised below


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """A test that asks of a server what it cannot do (restart one given by URL) counts as missing it."""
    try:
        return (yield)
    except Unavailable as why:
        missing(why)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What a test sets up for logs ends with it: another's stream would be closed by then."""
    root = logging.getLogger()
    loggers = {logger: logger.level for logger in (root, *map(logging.getLogger, _CHATTY))}
    yield
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # pytest's own are of other classes
            root.removeHandler(handler)
    for logger, level in loggers.items():
        logger.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def fleet(pytestconfig: pytest.Config) -> Fleet:
    """Each server of this run."""
    return pytestconfig.stash[FLEET]


def _healthy(fleet: Fleet, name: str) -> Iterator[Any]:
    try:
        server = fleet.get(name)
    except Unavailable as why:
        missing(why)
    yield server
    server.heal()


@pytest.fixture(params=list(BROKERS), ids=list(BROKERS.values()))
def rabbitmq(request: pytest.FixtureRequest, fleet: Fleet) -> Iterator[RabbitMQ]:
    """RabbitMQ in both versions: the test runs on each."""
    yield from _healthy(fleet, request.param)


@pytest.fixture
def rabbitmq4(fleet: Fleet) -> Iterator[RabbitMQ]:
    """RabbitMQ 4.0 alone."""
    yield from _healthy(fleet, "rabbitmq4")


@pytest.fixture
def elasticsearch(fleet: Fleet) -> Iterator[Elasticsearch]:
    """Elasticsearch 9."""
    yield from _healthy(fleet, "elasticsearch")


@pytest.fixture
def opensearch(fleet: Fleet) -> Iterator[OpenSearch]:
    """OpenSearch 3."""
    yield from _healthy(fleet, "opensearch")


@pytest.fixture
def redis(fleet: Fleet) -> Iterator[Redis]:
    """Redis."""
    yield from _healthy(fleet, "redis")


@pytest.fixture
def tarantool(fleet: Fleet) -> Iterator[Tarantool]:
    """Tarantool with the project's modules in it."""
    yield from _healthy(fleet, "tarantool")


@pytest.fixture
def toxiproxy(fleet: Fleet) -> Iterator[Toxiproxy]:
    """Toxiproxy; whoever makes a leg removes it."""
    yield from _healthy(fleet, "toxiproxy")


@pytest.fixture
def queue(rabbitmq: RabbitMQ) -> Iterator[str]:
    """A queue's name that nobody else uses; it and its ``.dead`` are deleted after the test."""
    name = f"test.{uuid.uuid4().hex}"
    yield name
    rabbitmq.heal()
    rabbitmq.delete_queues(name, f"{name}.dead")


@pytest.fixture
def index(elasticsearch: Elasticsearch) -> Iterator[str]:
    """An index's name that nobody else uses; it is deleted after the test."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    elasticsearch.heal()
    with suppress(requests.HTTPError):
        elasticsearch.call("DELETE", f"/{name}?ignore_unavailable=true")


@pytest.fixture
def _own() -> Iterator[Callable[[Callable[[], Server]], Any]]:
    made: list[Server] = []

    def start(make: Callable[[], Server]) -> Server:
        try:
            server = make()
        except Unavailable as why:
            missing(why)
        made.append(server)
        server.start()
        return server

    yield start
    for server in made:
        server.close()


@pytest.fixture
def own_rabbitmq(_own: Callable[..., Any]) -> Callable[..., RabbitMQ]:
    """A factory of brokers with settings of their own: ``own_rabbitmq("4.0", consumer_timeout="5000")``.

    Dots in the names of ``rabbitmq.conf`` are written as two underscores.
    """

    def start(version: str = "4.0", **settings: str) -> RabbitMQ:
        make = make_rabbitmq4 if version == "4.0" else make_rabbitmq
        lines = {name.replace("__", "."): value for name, value in settings.items()}
        return _own(lambda: make(lines))  # type: ignore[no-any-return]

    return start


@pytest.fixture
def own_elasticsearch(_own: Callable[..., Any]) -> Callable[..., Elasticsearch]:
    """A factory of nodes with settings of their own: ``own_elasticsearch({"name": "value"})``."""
    return lambda settings, **options: _own(lambda: make_elasticsearch(settings, **options))


@pytest.fixture
def prometheus(_own: Callable[..., Any]) -> Callable[..., Prometheus]:
    """A factory: ``prometheus("127.0.0.1:9108", rules=[…])`` scrapes these targets every second."""
    return lambda *targets, **options: _own(lambda: make_prometheus(targets, **options))

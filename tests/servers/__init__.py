"""Real servers for tests and benchmarks, each with a life of its own: ports, data and logs apart.

A server comes from the first of: a URL in the environment, an installed program, a container.
``Unavailable`` tells why there is none. ``python -m tests.servers run rabbitmq elasticsearch``
starts servers for whoever wants to look at them; ``install.sh`` installs what Debian offers.
"""

from tests.servers.base import Server, Unavailable
from tests.servers.elastic import Elasticsearch
from tests.servers.fleet import NAMES, Fleet
from tests.servers.open_search import OpenSearch
from tests.servers.prometheus import Prometheus
from tests.servers.rabbitmq import QueueCounts, RabbitMQ
from tests.servers.redis import Redis
from tests.servers.tarantool import Tarantool
from tests.servers.toxiproxy import Leg, Toxiproxy

__all__ = [
    "NAMES",
    "Elasticsearch",
    "Fleet",
    "Leg",
    "OpenSearch",
    "Prometheus",
    "QueueCounts",
    "RabbitMQ",
    "Redis",
    "Server",
    "Tarantool",
    "Toxiproxy",
    "Unavailable",
]

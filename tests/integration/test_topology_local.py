"""Exchanges and a route map without a broker that speaks AMQP: the queue file, memory, folders, and Redis."""

from __future__ import annotations

import pytest
from kombu.connection import Connection
from kombu.transport import filesystem, memory

from aggregator.consume import load_settings
from aggregator.errors import UnrecoverableError
from consumers.declaring import ensure
from consumers.transports import register

TEXT = """
[exchanges.all-{everything}]
type = "{everything}"
[queues.one]
bindings = [{{ exchange = "all-{everything}"{pattern} }}]
[queues.two]
bindings = [{{ exchange = "all-{everything}"{pattern} }}]
[route-map]
"video.*" = "one"
"mail.*" = "two"
[routes.one]
queue = "one"
[routes.two]
queue = "two"
"""


@pytest.fixture(params=["sqlite-queue", "memory", "filesystem"])
def local(request, tmp_path):
    """Return URL and transport options of a broker of this machine that nobody has used."""
    for transport in (filesystem.Transport, memory.Transport):
        transport.global_state.clear()
    folder = tmp_path / "queues"
    folder.mkdir()
    if request.param == "sqlite-queue":
        return f"sqlite-queue:///{tmp_path}/queue.db", {}
    if request.param == "memory":
        return "memory://", {}
    paths = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(folder))
    return "filesystem://", paths


def routed(tmp_path, url, options, everything, pattern=""):
    """Declare it as routes do, publish, and return what each queue got."""
    path = tmp_path / "settings.toml"
    path.write_text(f'broker = "{url}"\n' + TEXT.format(everything=everything, pattern=pattern))
    routes = load_settings(["--config", str(path)]).routes
    register()
    with Connection(url, transport_options=options) as connection:
        for route in routes.values():
            ensure(connection, route.queue, None, route.topology, insist=True)
        for route in routes.values():
            ensure(connection, route.queue, None, route.topology)  # as a worker that connects again
        channel = connection.default_channel
        for exchange, key in (
            (f"all-{everything}", "x"),
            ("routes", "video.cut"),
            ("routes", "mail.send"),
            ("routes", "audio.cut"),
        ):
            channel.basic_publish(channel.prepare_message(key.encode()), exchange, key)
        return {name: got(channel, name) for name in routes}


def got(channel, queue):
    found = []
    while (message := channel.basic_get(queue, no_ack=True)) is not None:
        found.append(message.delivery_info["routing_key"])
    return sorted(found)


@pytest.mark.parametrize(("everything", "pattern"), [("fanout", ""), ("topic", ', pattern = "#"')])
def test_a_local_broker_routes_alike(local, tmp_path, everything, pattern):
    url, options = local
    assert routed(tmp_path, url, options, everything, pattern) == {
        "one": ["video.cut", "x"],
        "two": ["mail.send", "x"],
    }


def test_an_exchange_of_another_type_is_refused(local, tmp_path):
    url, options = local
    text = 'broker = "{}"\n[exchanges.other-{}]\ntype = "{}"\n[routes.r]\nqueue = "q"\n'
    register()
    with Connection(url, transport_options=options) as connection:
        for kind in ("topic", "fanout"):
            (tmp_path / f"{kind}.toml").write_text(text.format(url, url[:4], kind))
        plans = [load_settings(["--config", str(tmp_path / f"{kind}.toml")]).routes["r"].topology
                 for kind in ("topic", "fanout")]  # fmt: skip
        ensure(connection, "q", None, plans[0])
        with pytest.raises(UnrecoverableError, match=f"exchanges.other-{url[:4]}: the broker refuses it"):
            ensure(connection, "q", None, plans[1])


@pytest.mark.integration
def test_redis_routes_by_topic(redis, tmp_path):
    found = routed(tmp_path, redis.url, {}, "topic", ', pattern = "#"')
    assert found == {"one": ["video.cut", "x"], "two": ["mail.send", "x"]}

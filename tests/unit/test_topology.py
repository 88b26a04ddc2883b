"""Exchanges, queues, bindings and the route map of a file: read, judged, and given to routes."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import rules
from aggregator.check import check
from aggregator.config import load
from aggregator.consume import load_settings
from aggregator.errors import ConfigurationErrors
from aggregator.route_map import covers, route_map
from aggregator.topic import matches, overlap
from consumers.refusals import advice, difference, told
from consumers.topology import kombu_queue
from producers import load as producer
from producers.route_map import load_route_map

AMQP = 'broker = "amqp://localhost//"\n'
ROUTE = '[routes.r]\nqueue = "q"\n'


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(rules, "from_url", lambda url: None)


@pytest.fixture
def written(tmp_path):
    """Return the path of a file with this text."""

    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def faults(written):
    """Return what is wrong with a file."""

    def read(text):
        with pytest.raises(ConfigurationErrors) as caught:
            load_settings(["--config", written(text)])
        return [str(fault) for fault in caught.value.faults]

    return read


@pytest.fixture
def settings(written):
    return lambda text: load(["--config", written(text)])


# ── patterns ──

WORDS = st.lists(st.sampled_from("ab*#"), min_size=1, max_size=4).map(".".join)
KEYS = [".".join(key) for count in range(1, 6) for key in product("abc", repeat=count)]


@given(WORDS, WORDS)
def test_patterns_overlap_where_a_key_fits_both(one, other):
    # an overlap of these shows in a key of at most five words, but where one asks for more
    if one.count(".") + other.count(".") <= 4:
        assert overlap(one, other) == any(matches(one, key) and matches(other, key) for key in KEYS)
    assert overlap(one, other) == overlap(other, one)


@given(WORDS, WORDS)
def test_what_covers_takes_every_key(wide, narrow):
    if covers(wide, narrow):
        assert all(matches(wide, key) for key in KEYS if matches(narrow, key))


@given(st.lists(st.tuples(WORDS, st.sampled_from("rst")), max_size=6, unique_by=lambda pair: pair[0]))
def test_the_first_pattern_wins_at_the_broker_too(pairs):
    table = route_map("routes", [(pattern, route, route) for pattern, route in pairs])
    for key in KEYS[:40]:
        # a level is asked where those before have no binding that fits; there all that fit get a copy
        levels = [
            {e.route for e in table.entries if e.level == at and matches(e.pattern, key)} for at in range(7)
        ]
        taken = next((routes for routes in levels if routes), set())
        found = table.entry(key)
        assert taken == ({found.route} if found else set())


# ── what is refused ──

QUEUE = "[queues.q]\n"
EXCHANGE = '[exchanges.e]\ntype = "topic"\n'
LONG = "n" * 256


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[exchanges.e]\ntype = "topik"\n',
         "exchanges.e.type: 'topik' is no type of exchange; did you mean topic? There are direct, topic, "),
        ("[exchanges.e]\ndurabel = true\n", "exchanges.e.durabel: no such setting; did you mean durable?"),
        ("[exchanges.e]\ndurable = 3\n", "exchanges.e.durable: 3 is something else; true or false is needed"),
        ('[exchanges.e]\ndeclare = "maybe"\n',
         "exchanges.e.declare: 'maybe' is unknown; 'declare', 'check' or 'leave' is needed"),
        ("exchanges = 3\n", "exchanges: a table for each exchange is needed: [exchanges.NAME]"),
        ("queues.q = 3\n", "queues.q: a table is needed: [queues.q]"),
        (f"[exchanges.{LONG}]\n", f"exchanges.{'n' * 67}…: the name has 256 bytes; AMQP allows 255"),
        ('[exchanges."amq.mine"]\n',
         "exchanges.amq.mine.declare: brokers keep names with amq. for themselves"),
        ('[exchanges.e]\nalternate_exchange = "e"\n',
         "exchanges.e.alternate_exchange: it is the exchange itself"),
        ('[exchanges.e]\nalternate_exchange = "x"\n', "exchanges.e.alternate_exchange: no exchange 'x'"),
        ('[queues.q]\ntype = "stream"\n', "queues.q.type: a stream takes nothing back"),
        ('[queues.q]\ntype = "lazy"\n',
         "queues.q.type: 'lazy' is no type of queue; quorum or classic is needed"),
        ("[queues.q]\nmessage_ttl = 60\n", "queues.q.message_ttl: 60 has no unit"),
        ("[queues.q]\nmax_length = 0\n", "queues.q.max_length: 0 is too small; at least 1 is needed"),
        ('[queues.q]\ntype = "quorum"\nmax_priority = 5\n',
         "queues.q.max_priority: a quorum queue takes none"),
        ('[queues.q]\ntype = "quorum"\ndurable = false\n',
         "queues.q.durable: a quorum queue is always durable"),
        ("[queues.q]\ndelivery_limit = 30\n", "queues.q.delivery_limit: only quorum queues count deliveries"),
        ('[queues.q]\noverflow = "drop-head"\n', "queues.q.overflow: there is no max_length"),
        ("[queues.q]\narguments = { x-message-ttl = 5 }\n",
         "queues.q.arguments: x-message-ttl has a setting of its own; write message_ttl"),
        ("[queues.q]\narguments = { x-foo = [1] }\n",
         "queues.q.arguments.x-foo: a text, a number, true or false is needed"),
        ('[queues.q]\ndead_letter_routing_key = "x"\n',
         "queues.q.dead_letter_routing_key: there is no dead_letter_exchange"),
        ('[queues.q]\ndead_letter_exchange = ""\n',
         "queues.q.dead_letter_routing_key: it is the queue itself"),
        ('[queues.q]\ndead_letter_exchange = "nowhere"\n',
         "queues.q.dead_letter_exchange: no exchange 'nowhere'"),
        ("[queues.q]\nauto_delete = true\n", "queues.q: auto_delete: a lost connection would delete it"),
        ('[queues.q]\ntype = "quorum"\ndelivery_limit = 5\n',
         "routes.r.delivery_limit: the queue's x-delivery-limit 5"),
        (EXCHANGE + QUEUE + 'bindings = [{ exchange = "f", pattern = "a" }]\n',
         "queues.q.bindings[0].exchange: no exchange 'f'"),
        (EXCHANGE + QUEUE + 'bindings = [{ pattern = "a" }]\n',
         "queues.q.bindings[0].exchange: it is not said"),
        (EXCHANGE + QUEUE + 'bindings = [{ exchange = "e", patern = "a" }]\n',
         "queues.q.bindings[0].patern: no such setting; did you mean pattern?"),
        (EXCHANGE + QUEUE + 'bindings = "e"\n', "queues.q.bindings: a list of tables is needed"),
        (EXCHANGE + QUEUE + 'bindings = ["e"]\n', "queues.q.bindings[0]: a list of tables is needed"),
        (EXCHANGE + QUEUE + 'bindings = [{ exchange = "e", headers = { a = 1 } }]\n',
         "queues.q.bindings[0].headers: 'e' is a topic exchange, which looks at no headers"),
        (EXCHANGE + QUEUE + 'bindings = [{ exchange = "e", pattern = "vid*" }]\n',
         "queues.q.bindings[0].pattern: 'vid*': * stands for whole words, not for a part of 'vid*'"),
        (EXCHANGE + QUEUE + 'bindings = [{ exchange = "e" }]\n',
         "queues.q.bindings[0].pattern: the pattern is empty"),
        (QUEUE + 'bindings = [{ exchange = "amq.direct", pattern = "a.*" }]\n',
         "queues.q.bindings[0].pattern: 'amq.direct' is a direct exchange, to which * and # are letters"),
        (QUEUE + 'bindings = [{ exchange = "amq.fanout", pattern = "a" }]\n',
         "queues.q.bindings[0].pattern: 'amq.fanout' is a fanout exchange, which gives everything to all"),
        (QUEUE + 'bindings = [{ exchange = "amq.headers", pattern = "a" }]\n',
         "queues.q.bindings[0].pattern: 'amq.headers' is a headers exchange, which looks at no routing key"),
        (QUEUE + 'bindings = [{ exchange = "amq.headers" }]\n',
         "queues.q.bindings[0].headers: 'amq.headers' is"),
        (QUEUE + f'bindings = [{{ exchange = "amq.direct", pattern = "{LONG}" }}]\n',
         "queues.q.bindings[0].pattern: it has 256 bytes; AMQP allows 255"),
        (QUEUE + 'bindings = [{ exchange = "" }]\n',
         "queues.q.bindings[0].exchange: the default exchange has"),
        ('[route-map]\n"video.#" = "s"\n', "route-map.\"video.#\": no route 's'; there are r"),
        ('[route-map]\n"vid#" = "r"\n', "route-map.\"vid#\": 'vid#': # stands for whole words"),
        ('[route-map]\n"a" = 3\n', 'route-map."a": the name of a route is needed'),
        ('[route-map]\n"a" = "r"\n[exchanges.routes]\n', "exchanges.routes: the route map makes an exchange"),
        ("route-map = 3\n", "route-map: a table is needed"),
    ],
)  # fmt: skip
def test_what_is_refused(faults, text, said):
    found = faults(AMQP + text + ROUTE)
    assert len(found) == 1, found
    assert found[0].startswith(said)


def test_routes_at_several_brokers_share_no_route_map(faults):
    two = '[routes.r]\n[routes.s]\nvhost = "other"\nqueue = "z"\n'
    (fault,) = faults(AMQP + '[route-map]\n"a" = "r"\n"b" = "s"\n' + two)
    assert fault.startswith("route-map: routes 'r' and 's' take from different brokers or vhosts")


def test_what_no_route_reaches_needs_a_broker(faults):
    (fault,) = faults(AMQP + '[queues.z]\n[routes.r]\nqueue = "q"\nbroker = "amqp://elsewhere//"\n')
    assert fault.startswith("queues.z: no route takes from it, and none from the broker at the top")


def test_vhosts_are_amqp_s(faults, settings):
    (fault,) = faults('vhost = "v"\nbroker = "memory://"\n' + ROUTE)
    assert fault.startswith("vhost: memory:// has none")
    route = settings('vhost = "a/b"\nbroker = "amqp://u:p@one//;amqp://two/x"\n' + ROUTE).routes["r"]
    assert route.broker.get_secret_value() == "amqp://u:p@one/a%2Fb;amqp://two/a%2Fb"


@pytest.mark.parametrize(
    ("broker", "text", "said"),
    [
        ("redis://localhost", '[exchanges.e]\ntype = "fanout"\n',
         "exchanges.e.type: Redis keeps nothing of it"),
        ("memory://", '[exchanges.e]\ntype = "headers"\n',
         "exchanges.e.type: by memory there are direct, fanout, topic"),
        ("sqlite-queue:///x.db", "[exchanges.e]\ninternal = true\n",
         "exchanges.e.internal: sqlite-queue has no such"),
        ("sqlite-queue:///x.db", "[queues.q]\nmax_length = 3\n",
         "queues.q: sqlite-queue would read over x-max-length"),
        ("memory://", '[queues.q]\nmessage_ttl = "1s"\n', "queues.q: memory would read over x-message-ttl"),
        ("memory://", '[queues.q]\ndeclare = "check"\n',
         "queues.q.declare: by memory each process knows only"),
        ("tarantool://localhost:3301", "[queues.q]\n", "queues.q: tubes are made by tubes.create"),
        ("memory://", '[route-map]\n"a.*" = "r"\n"#" = "s"\n[routes.s]\nqueue = "z"\n',
         "route-map.\"#\": 'a.*' takes some of its names too"),
    ],
)  # fmt: skip
def test_what_a_broker_has_not_is_refused(faults, broker, text, said):
    assert said in "\n".join(faults(f'broker = "{broker}"\n{text}{ROUTE}'))


def test_what_a_queue_file_has_is_not_refused(written):
    text = (
        EXCHANGE + '[queues.q]\nmessage_ttl = "1s"\nbindings = [{ exchange = "e", pattern = "#" }]\n' + ROUTE
    )
    assert (
        load_settings(["--config", written('broker = "sqlite-queue:///x.db"\n' + text)]).routes["r"].topology
    )


# ── who declares what ──

TWO = """
[exchanges.events]
type = "topic"
[exchanges.copy]
type = "fanout"
bindings = [{ exchange = "events", pattern = "#" }]
[exchanges.dead]
[queues.one]
dead_letter_exchange = "dead"
bindings = [{ exchange = "events", pattern = "a" }]
[queues.two]
bindings = [{ exchange = "events", pattern = "b" }]
[queues.graves]
bindings = [{ exchange = "dead", pattern = "one" }]
[queues.kept]
bindings = [{ exchange = "copy" }]
[queues.lonely]
[routes.r]
queue = "one"
[routes.s]
queue = "two"
vhost = "other"
"""


def test_each_broker_gets_what_its_routes_need(settings):
    routes = settings(AMQP + TWO).routes
    names = {
        name: ({e.name for e in route.topology.exchanges}, {q.name for q in route.topology.queues})
        for name, route in routes.items()
    }
    assert names == {
        "r": ({"events", "copy", "dead"}, {"one", "graves", "kept", "lonely"}),
        "s": ({"events", "copy"}, {"two", "kept"}),
    }


def test_nothing_described_is_nothing_to_declare(settings):
    route = settings(AMQP + ROUTE).routes["r"]
    assert not route.topology


def test_settings_have_amqp_s_names(settings):
    text = (
        '[queues.q]\ntype = "quorum"\nmessage_ttl = "1h"\nexpires = "2h"\nmax_length = 5\n'
        'max_length_bytes = "1kB"\n'
        'overflow = "reject-publish"\nsingle_active_consumer = true\ndelivery_limit = 20\n'
        'dead_letter_exchange = ""\ndead_letter_routing_key = "k"\narguments = { x-other = "y" }\n'
    )
    (queue,) = settings(AMQP + text + ROUTE).routes["r"].topology.queues
    assert kombu_queue(queue).queue_arguments == {
        "x-queue-type": "quorum", "x-message-ttl": 3_600_000, "x-expires": 7_200_000, "x-max-length": 5,
        "x-max-length-bytes": 1000, "x-overflow": "reject-publish", "x-single-active-consumer": True,
        "x-delivery-limit": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "k",
        "x-other": "y",
    }  # fmt: skip


MAP = AMQP + '[route-map]\n"a.b" = "s"\n"a.*" = "r"\n"a.c" = "s"\n' + ROUTE + '[routes.s]\nqueue = "z"\n'


def test_the_route_map_is_exchanges_and_bindings(settings):
    routes = settings(MAP).routes
    bound = {
        name: [(binding.exchange, binding.pattern) for binding in route.topology.queue.bindings]
        for name, route in routes.items()
    }
    assert bound == {"r": [("routes.2", "a.*")], "s": [("routes", "a.b"), ("routes.3", "a.c")]}
    assert all(route.topology.taken for route in routes.values())
    assert ("routes", "a.*") in routes["s"].topology.stale
    assert ("routes", "a.b") not in routes["s"].topology.stale


def test_the_check_shows_it_and_warns(settings):
    lines = str(check(settings(MAP + '[queues.q]\nmessage_ttl = "1m"\n')))
    assert "name a.*  to route 'r', queue 'q', by exchange 'routes.2'" in lines
    assert "queue 'q' the broker's default type, durable, message_ttl 1m" in lines
    assert "Warning: route-map.\"a.c\": 'a.*' stands before it and takes all of it" in lines
    assert (
        "Warning: queues.q.message_ttl: what waited 1m is lost; set dead_letter_exchange to keep it" in lines
    )


def test_producers_ask_the_map(written, capsys):
    path = written(MAP)
    table = load_route_map(path)
    assert (table.queue("a.b"), table.queue("a.x"), table.exchange) == ("z", "q", "routes")
    with pytest.raises(
        LookupError, match=r"no pattern of the route map takes 'b'; there are a\.b, a\.\*, a\.c"
    ):
        table.queue("b")
    with pytest.raises(ConfigurationErrors, match="route-map: the file has none"):
        load_route_map(written(AMQP + ROUTE))
    assert producer.main(["--name", "b"]) == 2
    assert producer.main(["--name", "b", "--config", written(MAP)]) == 2
    assert "go together" in (said := capsys.readouterr().err)
    assert "no pattern of the route map takes 'b'" in said


# ── what a broker says ──


class RefusedError(Exception):
    def __init__(self, text, method=()):
        super().__init__(text)
        self.method_sig = method


@pytest.mark.parametrize(
    ("text", "method", "declared", "said"),
    [
        ("access to queue 'q' in vhost '/' refused for user 'u'", (50, 10), "q", "to configure queue 'q'"),
        ("access to exchange 'd' in vhost '/' refused for user 'u'", (50, 10), "q", "to write exchange 'd'"),
        ("access to queue 'q' in vhost '/' refused for user 'u'", (50, 20), "q", "to write queue 'q'"),
        ("access to exchange 'e' in vhost '/' refused for user 'u'", (50, 20), "q", "to read exchange 'e'"),
        ("access to exchange 'e' in vhost '/' refused for user 'u'", (40, 30), "d", "to read exchange 'e'"),
        ("access to exchange 'd' in vhost '/' refused for user 'u'", (40, 30), "d", "to write exchange 'd'"),
        ("read access to exchange 'e' in vhost '/' refused for user 'u'", (), "", "to read exchange 'e'"),
        ("NOT_ALLOWED - vhost zz not found", (10, 40), "", "vhost 'zz' is not there"),
        (
            "NOT_ALLOWED - access to vhost '/' refused for user 'u'",
            (10, 40),
            "",
            "user 'u' has no rights in vhost",
        ),
    ],
)
def test_the_right_that_is_missing(text, method, declared, said):
    assert said in advice(RefusedError(f"ACCESS_REFUSED - {text}", method), declared)


def test_other_words_are_no_advice():
    assert advice(RefusedError("Login was refused")) is None
    assert difference(RefusedError("invalid arg 'x-max-priority' for queue 'q'")) is None


@pytest.mark.parametrize(
    ("received", "current", "field", "said"),
    [
        (
            "'60000'",
            "'30000'",
            "message_ttl",
            '"1m" is wanted, at the broker it is "30s"; write message_ttl = "30s"',
        ),
        (
            "none",
            "the value '30000' of type 'signedint'",
            "message_ttl",
            "not set is wanted, at the broker it is",
        ),
        (
            "the value '5' of type 'signedint'",
            "none",
            "max_length",
            "5 is wanted, at the broker it is not set; remove",
        ),
        ("'true'", "'false'", "durable", "true is wanted, at the broker it is false; write durable = false"),
        ("the value 'y' of type 'longstr'", "none", 'arguments."x-z"', '"y" is wanted'),
    ],
)
def test_the_argument_that_differs(settings, received, current, field, said):
    argument = {"message_ttl": "x-message-ttl", "max_length": "x-max-length"}.get(
        field, field.split('"')[-2:][0]
    )
    (queue,) = settings(AMQP + QUEUE + ROUTE).routes["r"].topology.queues
    values = f"received {received} but current is {current}"
    text = f"inequivalent arg '{argument}' for queue 'q' in vhost '/': {values}"
    where, problem = told(queue, difference(RefusedError(f"PRECONDITION_FAILED - {text}")))
    assert where == field
    assert problem.startswith(said)

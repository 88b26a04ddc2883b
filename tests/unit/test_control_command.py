"""The command line of control: what is sent where, what is shown, and how it ends."""

from __future__ import annotations

import pytest

from aggregator import control
from aggregator.errors import ControlUnavailableError

ROW = {"route": "r", "groups": 2}


@pytest.fixture
def sent(monkeypatch):
    """Return what was sent; ``sent.answers`` is what comes back."""

    class Sent:
        answers = {"1@a": {"ok": [ROW]}}  # noqa: RUF012
        error = None

        def __call__(self, broker, namespace, command, arguments, *, destination, timeout):
            self.broker, self.namespace, self.timeout = broker, namespace, timeout
            self.what, self.to = (command, arguments), destination
            if self.error:
                raise self.error
            return self.answers

    made = Sent()
    monkeypatch.setattr(control, "send", made)
    return made


@pytest.mark.parametrize(
    ("words", "command", "arguments"),
    [
        ("ping", "ping", {}),
        ("stats", "stats", {}),
        ("stats r", "stats", {"route": "r"}),
        ("groups --by fullest --limit 5", "groups", {"by": "fullest", "limit": 5}),
        ("flush", "flush", {}),
        ("flush r k1 k2", "flush", {"route": "r", "keys": ["k1", "k2"]}),
        ("pause r", "pause", {"route": "r"}),
        ("resume", "resume", {}),
        ("revoke 1 2 --ttl 5m", "revoke", {"ids": ["1", "2"], "ttl": "5m"}),
        ("revoke --keys a b --route r --undo", "revoke", {"keys": ["a", "b"], "route": "r", "undo": True}),
        ("set r size=5 age=a=b", "set", {"route": "r", "values": {"size": "5", "age": "a=b"}}),
    ],
)
def test_what_is_sent(sent, words, command, arguments):
    assert control.main(words.split()) == 0
    assert sent.what == (command, arguments)


@pytest.mark.parametrize("where", ["before", "after"])
def test_flags_stand_before_the_command_or_after_it(sent, capsys, where):
    flags = [
        "--broker",
        "amqp://h/v",
        "--control-namespace",
        "n",
        "-d",
        "1@a",
        "--timeout",
        "500ms",
        "--json",
    ]
    assert control.main([*flags, "ping"] if where == "before" else ["ping", *flags]) == 0
    assert (sent.broker.url, sent.namespace, sent.timeout) == ("amqp://h/v", "n", 0.5)
    assert sent.to.names == ["1@a"]
    assert capsys.readouterr().out == '{"1@a":{"ok":[{"groups":2,"route":"r"}]}}\n'


def test_variables_and_files_say_where_as_they_do_to_the_service(sent, monkeypatch, tmp_path):
    monkeypatch.setenv("AGGREGATOR_BROKER", "amqp://variable")
    assert control.main(["ping"]) == 0
    assert sent.broker.url == "amqp://variable"
    path = tmp_path / "service.toml"
    path.write_text(
        'control_broker = "amqps://control"\ncontrol_namespace = "f"\n[routes.a]\nbroker = "amqp://a"\n'
        '[routes.b]\nqueue = "q"\nbroker = "amqp://b"\n'
    )
    monkeypatch.delenv("AGGREGATOR_BROKER")
    assert control.main(["--config", str(path), "ping"]) == 0
    assert (sent.broker.url, sent.namespace) == ("amqps://control", "f")


def test_a_table(sent, capsys):
    sent.answers = {
        "2@b": {"ok": [{"route": "r", "reason": "", "key": None, "verdicts": {"written": 3, "revoked": 1}}]},
        "1@a": {"ok": [{"route": "r", "reason": "", "key": "a\x1b[2J\nb", "verdicts": {}}]},
    }
    assert control.main(["stats"]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [[word.strip() for word in line if word.strip()] for line in lines] == [
        ["node", "route", "key", "verdicts"],
        ["1@a", "r", "a\ufffd[2J\ufffdb", "-"],
        ["2@b", "r", "-", "3 written, 1 revoked"],
    ]


def test_nothing_to_show(sent, capsys):
    sent.answers = {"1@a": {"ok": []}}
    assert control.main(["groups"]) == 0
    assert capsys.readouterr().out == "nothing\n"


def test_nobody_answers(sent, capsys):
    sent.answers = {}
    assert control.main(["ping"]) == 1
    assert "nobody has answered within 2 s, namespace 'aggregator'" in capsys.readouterr().err


def test_one_refuses_and_one_is_silent(sent, capsys):
    sent.answers = {"1@a": {"ok": [ROW]}, "2@a": {"refused": "why"}}
    assert control.main(["flush", "-d", "1@a,2@a,3@a"]) == 1
    said = capsys.readouterr()
    assert "1@a" in said.out
    assert said.err.splitlines() == [
        "2@a: refused: why",
        "3@a: no answer within 2 s, namespace 'aggregator'",
    ]


def test_the_broker_is_away(sent, capsys):
    sent.error = ControlUnavailableError("amqp://u:***@h: OSError: refused")
    assert control.main(["ping"]) == 1
    assert capsys.readouterr().err == "amqp://u:***@h: OSError: refused\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("set r size", "'size' sets nothing; SETTING=VALUE is needed, like size=500"),
        ("ping --timeout 5", "5 has no unit"),
        ("ping -d a,b", "several nodes are named in full"),
        ("ping --broker memory://", "control: what is in memory is seen by one process alone"),
        ("ping --broker tarantool://u:S3CRET@h:3301/", "control: commands cannot come over tubes"),
        (
            "ping --control-broker amqq://u:S3CRET@h",
            "control_broker: unknown scheme 'amqq'; did you mean amqp?",
        ),
        ("ping --control-namespace a/b", "--control-namespace: 'a/b': up to 64 letters"),
        ("ping --broker etcd://h", "etcd"),
    ],
)
def test_wrong_words_are_refused(sent, capsys, words, why):
    assert control.main(words.split()) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "S3CRET" not in said
    assert not hasattr(sent, "what")


def test_routes_of_several_brokers_need_one_for_control(sent, capsys, tmp_path):
    path = tmp_path / "service.toml"
    path.write_text('[routes.a]\nbroker = "amqp://a"\n[routes.b]\nqueue = "q"\nbroker = "amqp://b"\n')
    assert control.main(["--config", str(path), "ping"]) == 2
    why = "control_broker: the routes take from 2 brokers; name the one that commands come over\n"
    assert capsys.readouterr().err == why

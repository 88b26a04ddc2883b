"""The URL of the Elasticsearch sink: what is read, and each fault with its words."""

from __future__ import annotations

import pytest

from aggregator.errors import ConfigurationError
from aggregator.sinks import from_url
from aggregator.sinks.elasticsearch_options import read_url
from aggregator.urls import url_parts


def settings(rest, scheme="elasticsearch+http"):
    return read_url(url_parts(f"{scheme}://{rest}"))


def test_defaults():
    found = settings("localhost/tasks")
    assert found.urls == ["http://localhost:9200"]
    assert (found.op, found.names, found.fixed, found.user, found.api_key) == (
        "create",
        ("tasks",),
        "tasks",
        None,
        None,
    )
    assert (found.options.timeout, found.options.max_bytes, found.options.max_items) == (
        30.0,
        10 * 2**20,
        None,
    )


def test_hosts():
    found = settings("a,b:1,[::1]:2,[fe80::2]/tasks", "elasticsearch+https")
    assert found.urls == ["https://a:9200", "https://b:1", "https://[::1]:2", "https://[fe80::2]:9200"]


def test_credentials_are_unquoted_and_never_shown():
    found = settings("us%40er:pa%2Fss%3F@h/tasks")
    assert found.user == "us@er"
    assert found.password.read() == "pa/ss?"
    assert "pa/ss" not in repr(found)
    assert "pa/ss" not in repr(from_url("elasticsearch+http://user:pa%2Fss%3F@h/tasks"))


def test_options():
    found = settings(
        "h/tasks?op=index&timeout=2s&max_bytes=1MB&max_items=5&concurrency=2&gzip=true&pipeline=p"
    )
    assert found.op == "index"
    options = found.options
    assert (options.timeout, options.max_bytes, options.max_items, options.concurrency) == (2.0, 10**6, 5, 2)
    assert options.gzip
    assert options.pipeline == "p"


def test_limits_and_where():
    sink = from_url("elasticsearch+http://user:secret@h:1,i/tasks?max_items=5&max_bytes=2MB&concurrency=3")
    assert (sink.limits.items, sink.limits.bytes, sink.limits.concurrency) == (5, 2_000_000, 3)
    assert sink.where() == "http://h:1/tasks/_search?pretty"


@pytest.mark.parametrize(
    ("rest", "where"),
    [
        ("h/logs-{/t:%Y.%m}", "http://h:9200/logs-*/_search?pretty"),
        ("h/?index_from=type&allow=a,b", "http://h:9200/a,b/_search?pretty"),
    ],
)
def test_where_of_several_indices(rest, where):
    assert from_url(f"elasticsearch+http://{rest}").where() == where


def test_a_version_implies_index():
    assert settings("h/tasks?version=header:v").op == "index"


def test_secrets_by_environment_and_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("id:key\n")
    monkeypatch.setenv("THE_PASSWORD", "x y")
    assert settings(f"h/tasks?api_key_file={tmp_path}/key").api_key.read() == "id:key"
    assert settings("u@h/tasks?password_env=THE_PASSWORD").password.read() == "x y"
    (tmp_path / "key").write_text("other")
    assert settings(f"h/tasks?api_key_file={tmp_path}/key").api_key.read() == "other"


FAULTS = {
    "h": "the name of the index is missing",
    "h/": "the name of the index is missing",
    "h/Tasks": "index 'Tasks': an index name is in lower case: 'tasks'",
    "h/a/b": "an index name holds no '/'",
    "h/a%2Fb": "an index name holds no '/'",
    "h/a%20b": "an index name holds no ' '",
    "h/a,b": "an index name holds no ','",
    "h/a*": r"an index name holds no '\*'",
    "h/a:b": "an index name holds no ':'",
    "h/a%0Ab": r"an index name holds no '\\n'",
    "h/_all": "starts with none of - _ [+]: 'all' would be right",
    "h/-a": "starts with none of",
    "h/+a": "starts with none of",
    "h/..": "neither . nor .. and has at most 255 bytes",
    "h/" + "ä" * 128: "at most 255 bytes",
    "h/a-{/t}": "is no pattern; write it like logs-{/timestamp:%Y",
    "h/a-{/t:%Q}": "unknown code of a date",
    "h/a-{/t:%Y-%}": "unknown code of a date",
    "h/A-{/t:%Y}": "an index name is in lower case",
    "h/{nonsense:%Y}": "'nonsense' is no expression",
    "h/a{/t:%Y}?require_alias=true": "require_alias: it needs one index or an allow-list",
    "/tasks": "host: it is missing or wrong",
    "h,/tasks": "host: it is missing or wrong",
    "h:0/tasks": "host: it is missing or wrong",
    "h:x/tasks": "host: a port is a number",
    "h:99999/tasks": "host: a port is a number",
    "u@h/tasks": "the user has no password",
    ":p@h/tasks": "the password has no user",
    "h/tasks?password_env=X": "the password has no user",
    "u:p@h/tasks?password_env=HOME": "password: it is given twice",
    "u:p@h/tasks?api_key_env=HOME": "api_key: either an API key or a user",
    "h/tasks?api_key_env=NOT_THERE": "api_key_env: the environment has no variable NOT_THERE",
    "h/tasks?api_key_file=/not/there": "api_key_file: /not/there cannot be read: No such file",
    "h/tasks?api_key_file=/dev/null": "api_key_file: /dev/null is empty",
    "h/tasks?colour=red": "colour: unknown option; one of op, version",
    "h/tasks?op=update": "op: it should be 'create' or 'index'",
    "h/tasks?op=create&version=header:v": "op: a version needs op=index",
    "h/tasks?op=index&op=create": "each option may stand in the URL once",
    "h/tasks?timeout=5": "timeout: 5 has no unit",
    "h/tasks?timeout=10ms": "timeout: it should be greater than or equal to 1",
    "h/tasks?max_bytes=ten": "max_bytes: 'ten' is no size",
    "h/tasks?max_bytes=0": "max_bytes: it should be greater",
    "h/tasks?max_items=0": "max_items: it should be greater",
    "h/tasks?concurrency=65": "concurrency: it should be less",
    "h/tasks?gzip=maybe": "gzip: it should be a valid boolean",
    "h/tasks?pipeline=": "pipeline: ",
    "h/tasks?routing=nonsense": "routing: 'nonsense' is no expression",
    "h/tasks?version=nonsense": "version: 'nonsense' is no expression",
    "h/tasks?ca=/etc/hostname": "ca: only https has a certificate to check",
    "h/tasks#x": "the URL holds a #",
    "h/?allow=a": "index_from and allow need each other",
    "h/?index_from=type": "index_from and allow need each other",
    "h/?index_from=nonsense&allow=a": "index_from: 'nonsense' is no expression",
    "h/tasks?index_from=type&allow=a": "index_from: the URL names an index as well",
    "h/?index_from=type&allow=a,B": "allow 'B': an index name is in lower case",
}


@pytest.mark.parametrize(("rest", "words"), FAULTS.items(), ids=range(len(FAULTS)))
def test_faults(rest, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        settings(rest)
    assert caught.value.field == "sink"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ca", ["/not/there", "/etc/hostname"])
def test_a_ca_that_cannot_be_used(ca):
    with pytest.raises(ConfigurationError, match=f"ca: {ca} cannot be used"):
        settings(f"h/tasks?ca={ca}", "elasticsearch+https")


@pytest.mark.parametrize(
    "rest",
    [
        "u:hunter2/x@h/tasks",
        "u:hunter2?x@h/tasks",
        "u:hunter2#x@h/tasks",
        "u:x?hunter2=1@h/tasks",
        "u:x#hunter2@h/tasks",
        "u:hunter2@h:port/tasks",
        "u:hunter2@@h/Tasks",
        "h/tasks?api_key=hunter2",
        "h/tasks?password=hunter2",
        "u:hunter2@h/tasks?colour=red",
        "u:hunter2@/tasks",
        "u:[hunter2@h/tasks",
    ],
)
def test_no_fault_shows_a_password(rest):
    with pytest.raises(ConfigurationError) as caught:
        from_url(f"elasticsearch+http://{rest}")
    assert "hunter2" not in str(caught.value)


def test_an_alias_may_hold_capital_letters():
    assert settings("h/Tasks?require_alias=true").fixed == "Tasks"

"""URLs of several hosts: what the library makes of one host, whatever it thinks of brackets."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from aggregator.urls import url_parts


@pytest.mark.parametrize(
    "url", ["http://u:p@[::1]:1/a?b=c#d", "http://h", "function:module:name", "jsonl:///folder", "sqlite:x"]
)
def test_one_host_is_as_the_library_has_it(url):
    assert url_parts(url) == urlsplit(url)


@pytest.mark.parametrize("tail", ["", "/tasks", "/tasks?at=[x]", "?timeout=1s", "/#f,g"])
def test_of_several_hosts_each_may_stand_in_brackets(tail):
    parts = url_parts(f"a+http://me:p,w@a:1,[::1]:2,[fe80::2]{tail}")
    assert parts.netloc == "me:p,w@a:1,[::1]:2,[fe80::2]"
    assert parts._replace(netloc="h") == urlsplit(f"a+http://h{tail}")


def test_what_is_no_host_is_refused_as_ever():
    with pytest.raises(ValueError, match="IPv6"):
        url_parts("http://[::1/path")

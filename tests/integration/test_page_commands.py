"""The commands and programs of README.md and docs, run as they stand there, a page at a time."""

from __future__ import annotations

import re
import shutil
import uuid
from urllib.parse import urlsplit

import pytest

from tests.page_run import assert_printed, run_page
from tests.pages import all_blocks

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not shutil.which("bash"), reason="the pages show commands of a shell"),
]

IN_A_SHELL = {"sh", "console", "python"}
#: As the pages name them: servers at their usual ports.
RABBITMQ, ELASTICSEARCH = "localhost:5672/", "localhost:9200"
ADD = """
rabbit_vhost:add(<<"{0}">>, <<"pages">>),
All = <<".*">>,
{{rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{0}">>, All, All, All, <<"pages">>)}}.
"""
REMOVE = '{{rabbit_vhost:delete(<<"{0}">>, <<"pages">>)}}.'


def pages():
    """Return the blocks of each page that has something to run, in their order."""
    found = {}
    for block in all_blocks():
        if block.runs_here:
            found.setdefault(block.page, []).append(block)
    return {
        page: blocks for page, blocks in found.items() if {block.language for block in blocks} & IN_A_SHELL
    }


PAGES = pages()
#: The pages that name a server of the loopback, and those that make do with files.
ON_SERVERS = [
    page for page, blocks in PAGES.items() if any(re.search(r"localhost:\d", it.whole) for it in blocks)
]
IN_FILES = [page for page in PAGES if page not in ON_SERVERS]


@pytest.fixture
def virtual_host(rabbitmq4):
    """The address of a virtual host for one page: pages call their queues alike."""
    name = f"pages-{uuid.uuid4().hex}"
    rabbitmq4.evaluate(ADD.format(name))
    yield f"{urlsplit(rabbitmq4.url).netloc.rpartition('@')[2]}/{name}"
    rabbitmq4.evaluate(REMOVE.format(name))


@pytest.fixture
def addresses(page, virtual_host, elasticsearch):
    """What is shown, and what stands for it here."""
    shown = "\n".join(block.whole for block in PAGES[page])
    indices = set(re.findall(rf"{ELASTICSEARCH}/([\w-]+)", shown))
    yield {
        f"{RABBITMQ}/": virtual_host,
        RABBITMQ: virtual_host,
        ELASTICSEARCH: urlsplit(elasticsearch.url).netloc,
        "--metrics-port 9108": "--metrics-port 0",
    }
    for index in indices:
        elasticsearch.call("DELETE", f"/{index}?ignore_unavailable=true")


@pytest.mark.parametrize("page", ON_SERVERS)
def test_its_commands_run_on_servers(page, addresses, tmp_path):
    run(page, tmp_path, addresses)


@pytest.mark.parametrize("page", IN_FILES)
def test_its_commands_run_in_files(page, tmp_path):
    run(page, tmp_path, {})


def run(page, folder, addresses):
    blocks = [it for it in PAGES[page] if it.language in IN_A_SHELL or it.file or "printed by" in it.notes]
    assert_printed(blocks, run_page(blocks, folder, addresses))

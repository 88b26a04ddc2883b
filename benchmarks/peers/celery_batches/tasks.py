"""celery-batches: the worker hands a task a list of requests; acks follow the task (acks_late)."""

from __future__ import annotations

import os

import orjson
from celery import Celery
from celery_batches import Batches
from elasticsearch import Elasticsearch
from kombu import Queue

SIZE, AGE = int(os.environ["BENCH_SIZE"]), int(os.environ["BENCH_AGE_MS"]) / 1000

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_queues=[
        Queue(os.environ["BENCH_QUEUE"], no_declare=True, queue_arguments={"x-queue-type": "quorum"})
    ],
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=2 * SIZE,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_detect_quorum_queues=True,
    broker_connection_retry_on_startup=True,
)
client = Elasticsearch(os.environ["BENCH_SINK"])


@app.task(name="bench.write", base=Batches, flush_every=SIZE, flush_interval=AGE)
def write(requests: list) -> None:
    """Write the documents that were given as the tasks' only argument."""
    lines = []
    for request in requests:
        document = request.args[0]
        lines += (b'{"create":{"_id":%b}}' % orjson.dumps(document["id"]), orjson.dumps(document))
    body = b"\n".join(lines) + b"\n"
    answer = client.bulk(index=os.environ["BENCH_INDEX"], operations=body, filter_path="errors,items.*.error")
    if answer["errors"]:
        raise RuntimeError(answer)

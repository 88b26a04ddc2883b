"""How many pushes a second a sink sends, and what each costs: ``python -m benchmarks.pushes URL``.

The URL is that of a sink for pushes, at any gateway that takes everything: the compiled one of
``benchmarks/gateway``, say. Prints one line of JSON: pushes a second, CPU milliseconds of this
process for a push, peak memory in MB, verdicts by fate.
"""

from __future__ import annotations

import argparse
import resource
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, process_time

import orjson

from aggregator.push import Address, Notification
from aggregator.sinks import from_url
from aggregator.testing.memory import MemoryDelivery

PAYLOADS = {
    "apns": b'{"aps":{"alert":{"title":"hello","body":"You have 3 new letters"},"badge":3}}',
    "fcm": b'{"notification":{"title":"hello","body":"You have 3 new letters"}}',
}


class Item(MemoryDelivery):
    """A delivery with an address."""

    def __init__(self, address):
        super().__init__(b"")
        self.address = address
        self.document = address.notification.payload


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pushes", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2, help="writes at once")
    parser.add_argument("--items", type=int, default=1000, help="pushes in a write")
    chosen = parser.parse_args()
    platform = chosen.url.partition("+")[0]
    notification = Notification(payload=PAYLOADS[platform], campaign="c1", priority=10, expiration=0)
    sink = from_url(chosen.url)
    sink.open()

    def write(start):
        numbers = range(start, min(start + chosen.items, chosen.pushes))
        items = [Item(Address(f"{n:064x}", f"d{n}", platform, "", 0.0, n, notification)) for n in numbers]
        verdicts = sink.write(items)
        return Counter({"written": len(items)} if verdicts is None else (v.fate.value for v in verdicts))

    start, used = monotonic(), process_time()
    with ThreadPoolExecutor(chosen.threads) as pool:
        fates = sum(pool.map(write, range(0, chosen.pushes, chosen.items)), Counter())
    seconds, used = monotonic() - start, process_time() - used
    sink.close()
    told = {
        "pushes_per_second": round(chosen.pushes / seconds),
        "cpu_ms_per_push": round(used / chosen.pushes * 1000, 4),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "fates": dict(fates),
    }
    print(orjson.dumps(told).decode())


if __name__ == "__main__":
    main()

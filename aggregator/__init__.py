"""Single messages off a queue, written in bulk, acked only after the write.

The core: it knows no broker and no service. The way of one message is
``delivery`` → ``correlation`` → ``buffer`` → ``flush`` → ``sinks`` → ``ledger`` → ack.
"""

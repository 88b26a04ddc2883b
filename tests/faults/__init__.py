"""The fault suite: everything that can break is broken, and then each message is accounted for.

``trial`` plays one trial on a queue and an index of its own, ``catalogue`` lists what is tried,
``python -m tests.faults`` runs it and writes ``docs/reliability.md``.
"""

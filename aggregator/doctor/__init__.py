"""``python -m aggregator.doctor``: what would go wrong, before it does. It looks, and changes nothing.

A place is one server, queue or folder that the settings name; its examination is a generator of findings,
run in a thread of its own. Each kind of place has a module with small functions; those that need the
broker's client stand in ``consumers.doctor_…``.
"""

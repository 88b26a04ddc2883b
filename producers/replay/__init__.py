"""Dead letters: listed, shown, sent back to their queue, dropped.

``python -m producers.replay list --queue task_queue`` counts the letters in ``task_queue.dead`` by
reason; ``show`` prints them; ``send`` publishes each to the queue that it was refused from, confirmed
and mandatory, and only then takes it out; ``drop`` takes it out. All four take the same filters.
``--edit MODULE:NAME`` names a function that gets each :class:`~producers.replay.letter.DeadLetter` and
returns it mended, or None to leave it.

It never goes round in circles: a run looks at each letter that it found at its start once, a letter
that it sent itself is left, and one that was sent back ``--most-replays`` times is left too.
"""

from producers.replay.letter import DeadLetter

__all__ = ["DeadLetter"]

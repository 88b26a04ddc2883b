"""The drawings of docs/index.md, docs/concepts.md and docs/guarantees.md."""

from __future__ import annotations

from docs.pictures.svg import RADIUS, Drawing

WIDTH = 480.0


def drawn() -> dict[str, str]:
    """Return the drawings by the names of their files."""
    return {
        "icon.svg": ICON,
        "overview.svg": str(overview()),
        "aggregator.svg": str(aggregator()),
        "guaranteed-delivery.svg": str(guaranteed_delivery()),
        "idempotent-receiver.svg": str(idempotent_receiver()),
        "dead-letter-channel.svg": str(dead_letter_channel()),
        "kill-points.svg": str(kill_points()),
    }


#: For the browser's tab: three messages, and what they become.
ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32" viewBox="0 0 32 32">
<path d="M3 6a4 4 0 1 0 8 0 4 4 0 1 0-8 0m9 0a4 4 0 1 0 8 0 4 4 0 1 0-8 0m9 0a4 4 0 1 0 8 0 4 4 0 1 0-8 0"
 fill="#26a69a"/>
<path d="M16 12v5m-3.5-3.5L16 17l3.5-3.5" stroke="#80868b" stroke-width="2" fill="none"/>
<rect x="3" y="20" width="26" height="9" rx="2" fill="#26a69a"/>
</svg>
"""


def overview() -> Drawing:
    """Draw the whole in one picture."""
    drawing = Drawing(
        WIDTH,
        282,
        "Single messages become bulk writes",
        "Workers take single messages from a queue into groups. A complete group is written to the sink as "
        "one bulk request. Only then are its messages acked. What the sink refuses goes to dead letters.",
    )
    stations = ((14, 96, "queue"), (140, 84, "workers"), (254, 104, "groups"), (388, 78, "sink"))
    for x, width, name in stations:
        drawing.text(x + width / 2, 22, name, "bold")
        drawing.box(x, 38, width, 116)
    spots = [(38, 64), (86, 64), (62, 96), (38, 128), (86, 128)]
    for number, spot in enumerate(spots):
        drawing.message(*spot, "abcde"[number], ("teal", "amber", "violet", "teal", "amber")[number])
    for row in range(3):
        y = 61.0 + 35 * row
        drawing.arrow([(112, y), (152, y)])
        drawing.text(182, y, "thread", "small soft")
        drawing.arrow([(210, y), (258, y)])
    for row, (names, hue) in enumerate([("fgh", "teal"), ("ij", "amber"), ("kl", "violet")]):
        y = 61.0 + 35 * row
        drawing.box(260, y - 15, 92, 30, f"{hue}-line")
        for position, name in enumerate(names):
            drawing.message(279 + 27 * position, y, name, hue)
    drawing.arrow([(354, 61), (396, 61)], "teal")
    drawing.document(399, 46, 58, 34)
    drawing.text(428, 64, "f g h", "small")
    drawing.text(427, 106, "one bulk", "small soft")
    drawing.text(427, 122, "request", "small soft")
    drawing.arrow([(416, 158), (416, 182), (62, 182), (62, 158)], "green")
    drawing.text(239, 196, "ack, once each message's document is written", "small green-text")
    drawing.arrow([(450, 158), (450, 244), (306, 244)], "red")
    drawing.text(386, 260, "refused: with the reason", "small red-text")
    drawing.box(170, 226, 132, 36, "red")
    drawing.text(236, 244, "queue.dead", "code")
    return drawing


def aggregator() -> Drawing:
    """Draw the three questions that an Aggregator answers."""
    drawing = Drawing(
        WIDTH,
        262,
        "The Aggregator",
        "Correlation sorts messages into groups by a key. The completeness condition says when a group goes. "
        "The aggregation algorithm says what it becomes.",
    )
    columns = (
        (86, "Correlation", "which belong together?", "--correlate"),
        (246, "Completeness", "when is it complete?", "--size --age …"),
        (400, "Aggregation", "what does it become?", "--aggregate"),
    )
    for x, name, question, flag in columns:
        drawing.text(x, 24, name, "bold")
        drawing.text(x, 44, question, "small soft")
        drawing.text(x, 240, flag, "code")
    for number, hue in enumerate(("teal", "amber", "teal", "violet", "amber", "teal")):
        drawing.message(28, 78 + 27 * number, str(number + 1), hue)
    lanes = (("teal", "136", "a", 3), ("amber", "25", "b", 3), ("violet", "4", "c", 3))
    for lane, (hue, members, key, size) in enumerate(lanes):
        y = 90.0 + 50 * lane
        drawing.arrow([(48, 144), (116, y)], hue)
        drawing.text(132, y, key, "bold")
        drawing.box(148, y - 19, 138, 38, f"{hue}-line" if len(members) == size else f"{hue}-line dashed")
        for position, name in enumerate(members):
            drawing.message(168 + 28 * position, y, name, hue)
        full = len(members) == size
        drawing.text(266, y, "✓" if full else f"{len(members)}/{size}", "small" if full else "small soft")
    drawing.arrow([(290, 90), (358, 90)], "teal")
    drawing.document(362, 70, 76, 42)
    drawing.text(400, 92, "1 3 6", "small")
    drawing.text(400, 132, "one document, or", "small soft")
    drawing.text(400, 148, "one for each message", "small soft")
    drawing.text(400, 190, "b and c wait", "small soft")
    return drawing


class Talk:
    """Parties side by side, and what goes between them, downwards."""

    def __init__(self, height: float, title: str, told: str, parties: tuple[str, ...]) -> None:
        self.drawing = Drawing(WIDTH, height, title, told)
        edge = 62.0
        step = (WIDTH - 2 * edge) / (len(parties) - 1)
        self.xs = [edge + step * number for number in range(len(parties))]
        for x, name in zip(self.xs, parties, strict=True):
            self.drawing.box(x - 54, 12, 108, 28)
            self.drawing.text(x, 26, name, "code" if "." in name else "bold")
            self.drawing.line([(x, 40), (x, height - 14)], "line dashed")

    def say(self, y: float, sender: int, receiver: int, words: str, hue: str = "") -> None:
        """Draw what one says to another."""
        start, end = self.xs[sender], self.xs[receiver]
        side = 4 if end > start else -4
        self.drawing.arrow([(start + side, y), (end - side, y)], hue)
        self.drawing.text((start + end) / 2, y - 11, words, f"small halo {hue}-text" if hue else "small halo")

    def note(self, y: float, party: int, words: str, hue: str = "grey") -> None:
        """Write what one does."""
        width = len(words) * 6.4 + 18
        x = min(max(self.xs[party], 8 + width / 2), WIDTH - 8 - width / 2)
        self.drawing.box(x - width / 2, y - 12, width, 24, hue)
        self.drawing.text(x, y, words, "small")


def guaranteed_delivery() -> Drawing:
    """Draw what a kill before the ack leads to."""
    talk = Talk(
        362,
        "Guaranteed Delivery",
        "The broker hands a message out and keeps it until it is acked. The service is killed while it "
        "holds it: the broker hands it out again. Only after the sink's verdict it is acked, and forgotten.",
        ("queue", "service", "sink"),
    )
    talk.say(72, 0, 1, "message a")
    talk.note(100, 1, "held in its group")
    talk.note(134, 1, "kill -9", "red")
    talk.note(134, 0, "a was not acked", "grey")
    talk.say(176, 0, 1, "a, redelivered")
    talk.note(204, 1, "held in its group")
    talk.say(246, 1, 2, "a b c in one request", "teal")
    talk.say(280, 2, 1, "a ✓  b ✓  c ✓", "teal")
    talk.say(314, 1, 0, "ack a b c", "green")
    talk.note(338, 0, "forgotten")
    return talk.drawing


def idempotent_receiver() -> Drawing:
    """Draw how a second write of a message is none."""
    talk = Talk(
        322,
        "Idempotent Receiver",
        "A document is created under its message's id. The service is killed between write and ack: the "
        "message comes again, the sink says that the id is there, and it is acked as a duplicate.",
        ("queue", "service", "sink"),
    )
    talk.say(72, 0, 1, "message, id 7")
    talk.say(106, 1, 2, "create 7", "teal")
    talk.say(140, 2, 1, "201: written", "teal")
    talk.note(168, 1, "kill -9, before the ack", "red")
    talk.say(210, 0, 1, "message, id 7, redelivered")
    talk.say(244, 1, 2, "create 7", "teal")
    talk.say(278, 2, 1, "409: it is there", "amber")
    talk.say(304, 1, 0, "ack, as a duplicate", "green")
    return talk.drawing


def dead_letter_channel() -> Drawing:
    """Draw how one document that is refused leaves those beside it alone."""
    talk = Talk(
        286,
        "Dead Letter Channel",
        "Of a request of three documents the sink refuses one. The others are acked. The refused message is "
        "published to the queue of dead letters with its reason; once the broker confirms that, it is acked.",
        ("queue", "service", "sink", "queue.dead"),
    )
    talk.say(72, 0, 1, "a, b, c")
    talk.say(106, 1, 2, "a b c", "teal")
    talk.say(140, 2, 1, "a ✓  b ✗  c ✓", "teal")
    talk.say(166, 1, 0, "ack a, c", "green")
    talk.say(204, 1, 3, "b, with the reason", "red")
    talk.say(238, 3, 1, "confirmed", "red")
    talk.say(264, 1, 0, "ack b", "green")
    return talk.drawing


def kill_points() -> Drawing:
    """Draw what a kill leads to, by where it strikes."""
    drawing = Drawing(
        WIDTH,
        196,
        "Where a kill can strike",
        "Before the write and in the midst of it: the message comes again and is written. After the write: "
        "it comes again and is known by its id. After the ack: it is done.",
    )
    points = (
        (70, "it is held", ("comes again,", "is written")),
        (184, "in the write", ("comes again, is", "written or known")),
        (298, "before the ack", ("comes again,", "known by its id")),
        (412, "after the ack", ("done",)),
    )
    drawing.arrow([(14, 74), (WIDTH - 12, 74)])
    for x, where, then in points:
        last = then == ("done",)
        drawing.text(x, 26, where, "small bold")
        drawing.line([(x, 40), (x, 74 - RADIUS)], "line dashed")
        drawing.message(x, 74, "✓" if last else "✗", "green" if last else "red")
        drawing.arrow([(x, 74 + RADIUS + 3), (x, 118)], "green" if last else "amber")
        for row, line in enumerate(then):
            drawing.text(x, 134 + 18 * row, line, "small")
    drawing.text(WIDTH / 2, 180, "lost: never", "small soft")
    return drawing

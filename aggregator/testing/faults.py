"""What must never have happened: noted where it happens, told at the end."""

from __future__ import annotations


class Faults(list[str]):
    """A line for each fault. An exception alone could be swallowed where it is raised, in a sink, say."""

    def unless(self, holds: object, fault: str) -> bool:
        """Note ``fault`` unless ``holds``; return whether it does."""
        if not holds:
            self.append(fault)
        return bool(holds)

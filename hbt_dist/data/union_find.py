"""What belongs together, directly or over others."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Connected(Generic[Item]):
    """Sets that grow together, by union and find; an item nobody has joined is alone."""

    def __init__(self) -> None:
        self._parent: dict[Item, Item] = {}

    def root(self, item: Item) -> Item:
        """The one item that stands for all that are joined with `item`; it changes with later joins."""
        parent = self._parent
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, item: Item, other: Item) -> None:
        """Put the items of both in one set, for which `item`'s root stands."""
        self._parent[self.root(other)] = self.root(item)

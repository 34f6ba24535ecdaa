"""Token rows of a model whose table keeps only part of CLIP's vocabulary."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RowMap:
    """Maps CLIP token ids to rows: start, end, the kept ids in order, then hashed ones.

    kept: ids with a row of their own, ascending.
    hashed: rows that all other ids share, by the CRC-32 of the id's decimal digits.
    """

    kept: tuple[int, ...]
    hashed: int
    _rows: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if list(self.kept) != sorted(set(self.kept)):
            raise ValueError("RowMap: kept must be ascending without repeats")
        if self.hashed < 1:
            raise ValueError(f"RowMap: hashed must be above 0, got {self.hashed}")
        object.__setattr__(self, "_rows", {t: 2 + i for i, t in enumerate(self.kept)})

    def row(self, token: int) -> int:
        known = self._rows.get(token)
        if known is not None:
            return known
        return 2 + len(self.kept) + zlib.crc32(str(token).encode()) % self.hashed

    def chunk(
        self, tokens: list[int], length: int
    ) -> list[int]:  # `length` rows: start, tokens, then the end row as often as needed
        rows = [0, *(self.row(t) for t in tokens[: length - 2]), 1]
        return rows + [1] * (length - len(rows))

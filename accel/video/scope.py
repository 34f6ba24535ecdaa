"""What `with` means for readers and writers, said once."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that closes at the end of its block."""

    def close(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must say what closing it means")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class KeptIfWell(Closing):
    """A context manager that keeps what was written only if its block ends well."""

    def abort(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must say how it is given up")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

"""What marks a run puts on the files it writes, as the user chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accel.core import ConfigError
from accel.provenance.label import LANGUAGES
from accel.provenance.statement import CONSENT

WATERMARKS, LABELS = ("frame", "face", "off"), ("auto", "corner", "off")


@dataclass(frozen=True, kw_only=True)
class ProvenanceConfig:
    """What marks a file gets. All are on unless switched off.

    watermark: the invisible mark: `frame`, `face` (only samples that a swap changed; all others
        stay bit-exact) or `off`.
    label: words that people see: `corner`, `off`, or `auto`: on for swapped faces.
    credentials: sign a Content Credential, and write the IPTC source type into the XMP.
    ledger: add a line to this machine's own list.
    consent: what the user claims of the persons shown: own, licensed, historical, fiction or
        undeclared. It is written down as a claim.
    certificate, key: PEM files to sign with in place of this installation's own key.
    language: of the label, `ko` or `en`; None takes the user's.
    """

    watermark: str = "frame"
    label: str = "auto"
    credentials: bool = True
    ledger: bool = True
    consent: str = "undeclared"
    certificate: Path | None = None
    key: Path | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        choices = {
            "watermark": WATERMARKS, "label": LABELS, "consent": CONSENT,
            "language": (None, *LANGUAGES),
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(map(str, known))}, "
                    f"got {getattr(self, name)!r}"
                )
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("certificate and key go together: give both or none")

    def switched_off(self) -> tuple[str, ...]:
        """What the user does without, in plain words."""
        off = {
            "invisible mark": self.watermark == "off",
            "visible label": self.label == "off",
            "credential": not self.credentials,
            "ledger": not self.ledger,
        }
        return tuple(name for name, is_off in off.items() if is_off)

"""What the doctor finds: one defect at one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DefectKind:
    """A kind of defect.

    Attributes:
        name: In lower case with dashes, e.g. `near-duplicate`: stable, for scripts.
        severity: `error`: a run would refuse it; `warning`: a run goes on, and is worse for it; `note`: good to know.
        why: Why it matters, one short sentence.
    """

    name: str
    severity: Severity
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A defect that was found.

    Attributes:
        kind: What kind it is.
        place: The file or folder, or several parted by commas.
        message: What is there, with the value, e.g. `sharpness 12, half of what is usual here`.
        remedy: What to do: a command or an option where there is one, else words.
        script: Command of a shell that mends it, its words unquoted; empty where no command can.
    """

    kind: DefectKind
    place: str
    message: str
    remedy: str
    script: tuple[str, ...] = ()

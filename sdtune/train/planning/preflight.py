"""Which programs will read the files of a run as trained, in the words of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sdtune.errors import ConfigError, Problems
from sdtune.export.artifact import KIND_TITLES
from sdtune.export.foresight import find_doubt
from sdtune.formats.consumers.remedies import find_remedy
from sdtune.formats.consumers.table import TITLES
from sdtune.train.needs.forecast import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.export.artifact import ArtifactKind
    from sdtune.export.certificate import Certificate
    from sdtune.export.row import Row
    from sdtune.train.run import Run

_NOBODY = "no program reads it as trained"
K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileToBe:
    """A file that a run will write.

    Attributes:
        name: Its name.
        kind: What it is.
        dtype: Of most of its tensors, `fp16`; empty where the method decides.
        size_bytes: About so large.
    """

    name: str
    kind: ArtifactKind
    dtype: str
    size_bytes: int

    def __str__(self) -> str:
        facts = [KIND_TITLES[self.kind], self.dtype, size(self.size_bytes)]
        return ", ".join(filter(None, facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What programs will make of a run's files.

    Attributes:
        files: The files that go to webuis.
        certificate: What each program makes of each; None: that could not be told.
        problem: Why not.
        chosen: Program to the option that chose it.
    """

    files: tuple[FileToBe, ...] = ()
    certificate: Certificate | None = None
    problem: str = ""
    chosen: Mapping[str, str]

    def facts(self) -> dict[str, str]:
        """Give what the plan says where all is well."""
        by_readers = _grouped((f"{file.name} ({file})", self._readers(file)) for file in self.files)
        texts = [f"{', '.join(files)}: {readers or _NOBODY}" for readers, files in by_readers.items()]
        return {"files": "; ".join(texts)} if texts else {}

    def notes(self) -> list[str]:
        """Tell which programs will not use the files as trained, one line each."""
        if self.problem:
            return [f"which programs will read the files cannot be told before training: {self.problem}"]
        complaints = _grouped((_title(row), (row.file, fault)) for row, fault in self._faults())
        doubts = _grouped((row.file, (row.consumer, doubt)) for row in self._rows() if (doubt := find_doubt(row)))
        return [
            *(_complaint(", ".join(names), file, fault) for (file, fault), names in complaints.items()),
            *(
                f"{', '.join(files)} may act otherwise in {TITLES[consumer]}: {doubt}"
                for (consumer, doubt), files in doubts.items()
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values."""
        rows = {file.name: [row for row in self._rows() if row.file == file.name] for file in self.files}
        files = {
            file.name: {
                "kind": file.kind,
                "dtype": file.dtype,
                "bytes": file.size_bytes,
                "programs": {row.consumer: _described(row) for row in rows[file.name]},
            }
            for file in self.files
        }
        return {"files": files, "problem": self.problem, "chosen": dict(self.chosen)}

    def check(self) -> None:
        """Refuse options that go against each other: a program is chosen, and cannot use what is trained.

        Raises:
            ConfigError: Names program, file and reason, for each, and what to change.
        """
        problems = Problems(ConfigError)
        for row, fault in self._faults():
            if option := self.chosen.get(row.consumer):
                remedy = find_remedy(fault) or "docs/certificate.md tells the remedies"
                hint = f"{remedy}, or do not choose it, or train all the same with output.certify=false"
                problems.add(_complaint(_title(row), row.file, fault), where=f"chosen by {option}", hint=hint)
        problems.raise_if_any()

    def _rows(self) -> Sequence[Row]:
        return () if self.certificate is None else self.certificate.rows

    def _faults(self) -> list[tuple[Row, str]]:
        """List what is wrong, also in programs that nobody chose."""
        return [(row, fault) for row in self._rows() if (fault := row.fault(is_chosen=True))]

    def _readers(self, file: FileToBe) -> str:
        own = [row for row in self._rows() if row.file == file.name]
        return ", ".join(_title(row) for row in own if not row.fault(is_chosen=True) and not find_doubt(row))


def _title(row: Row) -> str:
    return TITLES[row.consumer]


def _complaint(programs: str, file: str, fault: str) -> str:
    return f"{programs} will not use {file} as trained: {fault}"


def _grouped(pairs: Iterable[tuple[str, K]]) -> dict[K, list[str]]:
    """Map each key to the names it stands with, in order."""
    found: dict[K, list[str]] = {}
    for name, key in pairs:
        found.setdefault(key, []).append(name)
    return found


def _described(row: Row) -> dict[str, object]:
    doubt = find_doubt(row)
    return {
        "verdict": row.fault(is_chosen=True) or (f"may act otherwise: {doubt}" if doubt else "good"),
        "used": row.used,
        "total": row.total,
        "skipped": dict(row.skipped),
        "unknown": dict(row.unknown),
    }


def check_files(run: Run) -> None:
    """Refuse a run whose files a chosen program cannot use; see `Preflight.check`."""
    if run.preflight:
        run.preflight.check()

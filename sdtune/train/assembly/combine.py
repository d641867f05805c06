"""Several methods in one run, e.g. new words and adapters together (pivotal tuning): one loop, each one's own files."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from sdtune.errors import ConfigError
from sdtune.train.method import Method

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.data.types import ImageRecord, Subset
    from sdtune.export.artifact import AnyArtifact
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.train.info import RunInfo
    from sdtune.train.method import ParamGroup, StepOutput


class CombinedMethod(Method[Any]):
    """Methods that are attached, asked and exported in the order they were named.

    Args:
        members: Method name to method; the first one's kind of file is the run's.
    """

    def __init__(self, members: Mapping[str, Method[Any]]) -> None:
        super().__init__(config=None)
        self._members = members
        self.kind = next(iter(members.values())).kind

    def parts(self) -> Sequence[Part]:
        """List the parts any of them needs."""
        return tuple(dict.fromkeys(chain.from_iterable(member.parts() for member in self._members.values())))

    def attach(self, model: DiffusionModel, seed: int) -> Sequence[ParamGroup]:
        """Attach each.

        Raises:
            ConfigError: Two methods train the same parameters, so they cannot be told apart.
        """
        owners: dict[int, str] = {}
        taken: set[str] = set()
        groups: list[ParamGroup] = []
        for name, member in self._members.items():
            for group in member.attach(model, seed):
                for parameter in group.params.values():
                    owner = owners.setdefault(id(parameter), name)
                    if owner != name:
                        raise ConfigError(
                            f"methods '{owner}' and '{name}' train the same parameters", hint="choose one"
                        )
                shown = f"{name} {group.name}" if group.name in taken else group.name
                taken.add(shown)
                groups.append(replace(group, name=shown))
        return groups

    def export(self, model: DiffusionModel, run: RunInfo) -> Iterator[AnyArtifact]:
        """Give the files of each."""
        for member in self._members.values():
            yield from member.export(model, run)

    def is_whole_in_files(self) -> bool:
        """Tell whether all of them are."""
        return all(member.is_whole_in_files() for member in self._members.values())

    def captions(self, text: str, subset: Subset) -> Sequence[str]:
        """Let each treat the caption in turn: every form that one gives has the forms of the next."""
        forms: Sequence[str] = (text,)
        for member in self._members.values():
            forms = tuple(dict.fromkeys(form for text in forms for form in member.captions(text, subset)))
        return forms

    def check(self, images: Sequence[ImageRecord]) -> None:
        """Let each look at the images."""
        for member in self._members.values():
            member.check(images)

    def notes(self) -> Sequence[str]:
        """List what each has to tell."""
        return [note for member in self._members.values() for note in member.notes()]

    def loss_terms(self, out: StepOutput) -> Mapping[str, Tensor]:
        """Join the terms; one that several name, as the diffusion loss, counts once."""
        return {key: term for member in self._members.values() for key, term in member.loss_terms(out).items()}

    def before_step(self, model: DiffusionModel, step: int) -> None:
        """Let each act."""
        for member in self._members.values():
            member.before_step(model, step)

    def after_step(self, model: DiffusionModel, step: int) -> None:
        """Let each act."""
        for member in self._members.values():
            member.after_step(model, step)

    def metrics(self) -> Mapping[str, float]:
        """Give the numbers of each."""
        return {key: number for member in self._members.values() for key, number in member.metrics().items()}

"""What a UNet predicts, and whether its noise schedule ends in pure noise: told by everything known of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models.sidecar import read_sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.model import ModelOptions
    from sdtune.diffusion.schedule import NoiseSchedule
    from sdtune.models.architecture import SDFamily
    from sdtune.models.base import Prediction
    from sdtune.models.storage import StoredModel

V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"  # empty tensors in a single file, which ComfyUI and Forge look for
_EDM_MARKS = ("edm_mean", "edm_vpred.sigma_max")  # the same of Playground 2.5, and of CosXL
# ComfyUI's rule for SD2, where a single file says nothing: in v models the biases of this norm lie further apart.
TELLING_BIAS = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_TELLING_STD = 0.09
_MODELSPEC: Mapping[str, Prediction] = {"v": "v_prediction", "epsilon": "epsilon", "eps": "epsilon", "sample": "sample"}
_WORDS: Mapping[Prediction, str] = {"epsilon": "noise", "v_prediction": "v", "sample": "x_0"}
_V_ARCHITECTURE, _EPSILON_ARCHITECTURE = "stable-diffusion-v2-768-v", "stable-diffusion-v2-512"
_OPTION, _SCHEDULER = "model.prediction", "scheduler_config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What one source says of a model.

    Attributes:
        source: Where it is said, as shown to the user, e.g. `tensor v_pred`.
        prediction: What the UNet predicts; None: not said.
        zero_snr: Whether the schedule ends in pure noise; None: not said.
        is_inside: It lies in the model's file itself.
    """

    source: str
    prediction: Prediction | None = None
    zero_snr: bool | None = None
    is_inside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameterization:
    """What a UNet predicts, and how that is known.

    Attributes:
        prediction: What it predicts.
        source: Who says so, e.g. `tensor v_pred`.
        zero_snr: Whether the noise schedule ends in pure noise.
        zero_snr_source: Who says so; empty where nobody says anything.
        notes: What a user should know: sources that disagree, a guess.
    """

    prediction: Prediction
    source: str
    zero_snr: bool = False
    zero_snr_source: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = _WORDS[self.prediction]
        zero = f", zero terminal SNR ({self.zero_snr_source})" if self.zero_snr else ""
        return f"predicts {name} ({self.source}){zero}"


def read_parameterization(options: ModelOptions, storage: StoredModel, family: SDFamily) -> Parameterization:
    """Tell what a stored model predicts; at most one small tensor is read.

    Raises:
        ModelError: See `gather_claims` and `decide`.
    """
    unet = storage.components["unet"]
    claims = gather_claims(storage.path, names=storage.shapes, metadata=unet.file.metadata, scheduler=storage.scheduler)

    def guess() -> Claim | None:
        has_bias = family.v_px is not None and TELLING_BIAS in unet.entries
        return guess_from_bias(float(unet.read(TELLING_BIAS).double().std(correction=0))) if has_bias else None

    return decide(options, claims, default=family.prediction, guess=guess)


def gather_claims(
    path: Path, *, names: Collection[str], metadata: Mapping[str, str], scheduler: Mapping[str, Any]
) -> tuple[Claim, ...]:
    """Collect what is said of a model, the most trusted first; no weights are read.

    Args:
        path: Single file or diffusers folder; a `.yaml` of the same stem beside a file is read.
        names: Names of all its tensors.
        metadata: A single file's metadata.
        scheduler: A folder's scheduler configuration.

    Raises:
        ModelError: The model predicts something else, or the `.yaml` cannot be read.
    """
    if marks := [mark for mark in _EDM_MARKS if mark in names]:
        raise ModelError(f"{path.name} is an EDM model (tensor {marks[0]}), whose noise schedule is not trained")
    claims = [_sidecar_claim(path), *_tensor_claims(names), *_metadata_claims(metadata, path), _folder_claim(scheduler)]
    return tuple(claim for claim in claims if claim is not None)


def decide(
    options: ModelOptions,
    claims: Sequence[Claim],
    *,
    default: Prediction,
    guess: Callable[[], Claim | None] = lambda: None,
) -> Parameterization:
    """Weigh what the user and the model say.

    Args:
        options: `prediction` and `zero_terminal_snr` win where they are given.
        claims: What `gather_claims` gave.
        default: What the family predicts when nobody says anything.
        guess: Asked when nobody says anything; may read weights.

    Raises:
        ModelError: The user says one thing and the model's file another; or a model of noise is to have a schedule that
            ends in pure noise.
    """
    spoken = [claim for claim in claims if claim.prediction is not None]
    if options.prediction != "auto":
        _refuse_contradiction(options.prediction, spoken)
        chosen = Claim(source=_OPTION, prediction=options.prediction)
    elif spoken:
        chosen = spoken[0]
    else:
        chosen = guess() or Claim(source="the family's default", prediction=default)
    prediction = chosen.prediction or default
    zero_snr, zero_snr_source = _decide_zero_snr(options, claims, prediction)
    return Parameterization(
        prediction=prediction,
        source=chosen.source,
        zero_snr=zero_snr,
        zero_snr_source=zero_snr_source,
        notes=tuple(_notes(chosen, prediction, spoken)),
    )


def make_schedule(config: Mapping[str, Any], *, is_zero_snr: bool) -> NoiseSchedule:
    """Build a model's noise schedule.

    Args:
        config: A folder's scheduler configuration; empty: Stable Diffusion's schedule.
        is_zero_snr: Rescale it to end in pure noise.

    Raises:
        ModelError: It is of a form that is not trained.
    """
    from sdtune.diffusion.schedule import NoiseSchedule  # imports torch, which telling what is predicted does not need

    shape = config.get("beta_schedule", "scaled_linear")
    if shape != "scaled_linear":
        raise ModelError(f"the model's noise schedule is {shape!r}; only 'scaled_linear' is trained")
    schedule = NoiseSchedule.scaled_linear(
        int(config.get("num_train_timesteps", 1000)),
        float(config.get("beta_start", 0.00085)),
        float(config.get("beta_end", 0.012)),
    )
    return schedule.rescaled_to_zero_snr() if is_zero_snr else schedule


def guess_from_bias(std: float) -> Claim:
    """Tell an SD2 that predicts v by the standard deviation of `TELLING_BIAS`, as ComfyUI does."""
    return Claim(
        source=f"a guess from its weights; {_OPTION} says it for sure",
        prediction="v_prediction" if std > _TELLING_STD else "epsilon",
    )


def _decide_zero_snr(options: ModelOptions, claims: Sequence[Claim], prediction: Prediction) -> tuple[bool, str]:
    said = [claim for claim in claims if claim.zero_snr is not None]
    if options.zero_terminal_snr is not None:
        said = [Claim(source="model.zero_terminal_snr", zero_snr=options.zero_terminal_snr)]
    if not said or not said[0].zero_snr:
        return False, said[0].source if said else ""
    if prediction == "epsilon":
        raise ModelError(
            "zero terminal SNR needs a model that predicts v: in pure noise there is no noise to tell from a picture",
            where=said[0].source,
            hint="set model.zero_terminal_snr=false, or model.prediction=v_prediction if the model does predict v",
        )
    return True, said[0].source


def _refuse_contradiction(wanted: Prediction, spoken: Sequence[Claim]) -> None:
    """Refuse what the model's own file denies, unless the most trusted source says so too."""
    if not spoken or spoken[0].prediction == wanted:
        return
    for claim in spoken:
        if claim.is_inside and claim.prediction != wanted:
            raise ModelError(
                f"{_OPTION} is {wanted}, but the model's own {claim.source} says it predicts "
                f"{_WORDS[claim.prediction or 'epsilon']}",
                where=_OPTION,
                hint="leave model.prediction=auto",
            )


def _sidecar_claim(path: Path) -> Claim | None:
    sidecar = read_sidecar(path)
    return None if sidecar is None else Claim(source=f"sidecar {sidecar.path.name}", prediction=sidecar.prediction)


def _tensor_claims(names: Collection[str]) -> Iterator[Claim]:
    """Tell what marks are there; `ztsnr` alone means v too, since nothing else can be trained so."""
    if V_MARK in names:
        yield Claim(source=f"tensor {V_MARK}", prediction="v_prediction", is_inside=True)
    if ZERO_SNR_MARK in names:
        yield Claim(source=f"tensor {ZERO_SNR_MARK}", prediction="v_prediction", zero_snr=True, is_inside=True)


def _metadata_claims(metadata: Mapping[str, str], path: Path) -> Iterator[Claim]:
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        if text := metadata.get(key, "").strip().lower():
            if text not in _MODELSPEC:
                raise _unknown(text, f"{path.name}, metadata {key}")
            yield Claim(source=f"metadata {key}", prediction=_MODELSPEC[text], is_inside=True)
    architecture = metadata.get("modelspec.architecture", "")
    if architecture in {_V_ARCHITECTURE, _EPSILON_ARCHITECTURE}:
        found: Prediction = "v_prediction" if architecture == _V_ARCHITECTURE else "epsilon"
        yield Claim(source="metadata modelspec.architecture", prediction=found, is_inside=True)


def _folder_claim(scheduler: Mapping[str, Any]) -> Claim | None:
    found = scheduler.get("prediction_type")
    zero_snr = True if scheduler.get("rescale_betas_zero_snr") else None
    match found:
        case None | "epsilon" | "v_prediction" | "sample":
            return Claim(source=_SCHEDULER, prediction=found, zero_snr=zero_snr) if found or zero_snr else None
        case _:
            raise _unknown(str(found), _SCHEDULER)


def _unknown(found: str, where: str) -> ModelError:
    return ModelError(
        f"the model predicts {found!r}; only 'epsilon', 'v_prediction' and 'sample' are trained", where=where
    )


def _notes(chosen: Claim, prediction: Prediction, spoken: Sequence[Claim]) -> Iterator[str]:
    for claim in spoken:
        if claim.prediction is not None and claim.prediction != prediction:
            yield (
                f"the model is taken to predict {_WORDS[prediction]} ({chosen.source}), but {claim.source} says "
                f"{_WORDS[claim.prediction]}"
            )
    if prediction == "sample":
        yield "the model predicts x_0: diffusers can draw with such a model, A1111 and Forge cannot be told of it"

"""The optimizers known by name: where each class lives, what brings it, and what a run must know about it.

Any other class is named by its import string, `module:Class`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ArgValue = bool | int | float | str | tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerEntry:
    """One optimizer.

    Attributes:
        name: What `train.optimizer.name` takes.
        target: Import string, `module:Class`.
        package: What `pip install` calls the package that brings it.
        extra: The extra of sdtune that installs it; empty when sdtune always does.
        kohya: Its name in kohya's scripts, `--optimizer_type`.
        args: Arguments that differ from the class's own defaults; the user's win.
        rate: What becomes of learning rates. `given`: they are used. `factor`: the optimizer finds a rate, and they
            multiply it; all groups must have the same. `own`: it has a rate and a schedule of its own instead.
        averages: It averages the weights itself, so that no schedule is needed; files and pictures show the average
            (`train()` and `eval()` go from one to the other).
        is_fused: It has the argument `fused`: one kernel for all parameters, on CPU and CUDA.
        advice: When to use it, one short sentence.
    """

    name: str
    target: str
    package: str = "torch"
    extra: str = ""
    kohya: str = ""
    args: Mapping[str, ArgValue] = field(default_factory=dict)
    rate: Literal["given", "factor", "own"] = "given"
    averages: bool = False
    is_fused: bool = False
    advice: str = ""

    @property
    def has_own_state(self) -> bool:
        """Whether its state has a form of its own, in 8 bits or in memory that moves to and fro."""
        return self.package == "bitsandbytes"

    @property
    def is_joint(self) -> bool:
        """Whether it looks at all parameters together, or may, since it is not of the table."""
        return self.rate == "factor" or self.name == self.target

    @property
    def is_adamw(self) -> bool:
        """Whether it is a kind of AdamW, so that the rate of one suits the other."""
        return "AdamW" in self.target and not self.averages

    @property
    def dotted(self) -> str:
        """Full name of the class, as kohya's scripts write it into files."""
        return self.target.replace(":", ".")

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install 'sdtune[{self.extra}]'" if self.extra else f"pip install {self.package}"


def _bnb(name: str, target: str, kohya: str, advice: str, **args: ArgValue) -> OptimizerEntry:
    target = f"bitsandbytes.optim.{target}"
    return OptimizerEntry(
        name=name, target=target, package="bitsandbytes", extra="bnb", kohya=kohya, args=args, advice=advice
    )


def _dadapt(name: str, kohya: str, advice: str, **args: ArgValue) -> OptimizerEntry:
    target = f"dadaptation.{name}:{kohya}"
    return OptimizerEntry(
        name=name,
        target=target,
        package="dadaptation",
        extra="optim",
        kohya=kohya,
        args=args,
        rate="factor",
        advice=advice,
    )


def _schedule_free(name: str, kohya: str, advice: str) -> OptimizerEntry:
    return OptimizerEntry(
        name=name,
        target=f"schedulefree.{name}:{kohya}",
        package="schedulefree",
        extra="optim",
        kohya=kohya,
        averages=True,
        advice=advice,
    )


_PAGED = "Its state moves to host memory when the GPU is full."
_TABLE = (
    OptimizerEntry(
        name="adamw", target="torch.optim.adamw:AdamW", kohya="AdamW", is_fused=True, advice="The usual one."
    ),
    OptimizerEntry(
        name="sgd",
        target="torch.optim.sgd:SGD",
        kohya="SGDNesterov",
        args={"momentum": 0.9, "nesterov": True},
        is_fused=True,
        advice="Little state; needs a rate about 100 times that of AdamW.",
    ),
    OptimizerEntry(
        name="rmsprop", target="torch.optim.rmsprop:RMSprop", advice="One moment; for those who compare with old runs."
    ),
    OptimizerEntry(
        name="muon",
        target="torch.optim:Muon",
        args={"adjust_lr_fn": "match_rms_adamw"},
        advice="Matrices only: adapters on linear layers. Rates as with AdamW.",
    ),
    OptimizerEntry(
        name="adafactor",
        target="transformers.optimization:Adafactor",
        package="transformers",
        kohya="AdaFactor with relative_step=False scale_parameter=False",
        args={"relative_step": False, "scale_parameter": False, "warmup_init": False},
        advice="Whole models with little memory: its state is a hundredth of AdamW's.",
    ),
    OptimizerEntry(
        name="adafactor_auto",
        target="transformers.optimization:Adafactor",
        package="transformers",
        kohya="AdaFactor",
        args={"relative_step": True, "scale_parameter": True},
        rate="own",
        advice="The same with a rate of its own, as kohya's scripts have it by default.",
    ),
    _bnb("adamw8bit", "adamw:AdamW8bit", "AdamW8bit", "AdamW with a quarter of the state."),
    _bnb("paged_adamw", "adamw:PagedAdamW", "PagedAdamW, PagedAdamW32bit", _PAGED),
    _bnb("paged_adamw8bit", "adamw:PagedAdamW8bit", "PagedAdamW8bit", f"8 bits as well. {_PAGED}"),
    _bnb("lion8bit", "lion:Lion8bit", "Lion8bit", "Lion with an eighth of AdamW's state."),
    _bnb("paged_lion8bit", "lion:PagedLion8bit", "PagedLion8bit", _PAGED),
    _bnb("sgd8bit", "sgd:SGD8bit", "SGDNesterov8bit", "SGD with 8 bits of state.", momentum=0.9, nesterov=True),
    _bnb(
        "ademamix8bit",
        "ademamix:AdEMAMix8bit",
        "bitsandbytes.optim.AdEMAMix8bit",
        "AdamW with a second, long memory; long runs.",
    ),
    OptimizerEntry(
        name="lion",
        target="lion_pytorch.lion_pytorch:Lion",
        package="lion-pytorch",
        extra="optim",
        kohya="Lion",
        advice="Half of AdamW's state; a rate 3 to 10 times lower, a decay as much higher.",
    ),
    OptimizerEntry(
        name="prodigy",
        target="prodigyopt.prodigy:Prodigy",
        package="prodigyopt",
        extra="optim",
        kohya="Prodigy",
        args={"use_bias_correction": True, "safeguard_warmup": True},
        rate="factor",
        advice="Finds the rate of AdamW by itself: `train.lr=1`, best with `cosine`.",
    ),
    OptimizerEntry(
        name="prodigy_plus",
        target="prodigyplus.prodigy_plus_schedulefree:ProdigyPlusScheduleFree",
        package="prodigy-plus-schedule-free",
        extra="optim",
        kohya="prodigyplus.ProdigyPlusScheduleFree",
        rate="factor",
        averages=True,
        advice="Prodigy without a schedule and with less state.",
    ),
    _dadapt("dadapt_adam", "DAdaptAdam", "As Prodigy, more careful.", decouple=True),
    _dadapt("dadapt_adagrad", "DAdaptAdaGrad", "As above, on AdaGrad."),
    _dadapt("dadapt_adan", "DAdaptAdan", "As above, on Adan."),
    _dadapt("dadapt_lion", "DAdaptLion", "As above, on Lion."),
    _dadapt("dadapt_sgd", "DAdaptSGD", "As above, on SGD."),
    _schedule_free("adamw_schedulefree", "AdamWScheduleFree", "Good at every step, so the length may stay open."),
    _schedule_free("radam_schedulefree", "RAdamScheduleFree", "The same without warmup."),
    _schedule_free("sgd_schedulefree", "SGDScheduleFree", "The same on SGD."),
    OptimizerEntry(
        name="came",
        target="pytorch_optimizer.optimizer.came:CAME",
        package="pytorch_optimizer",
        extra="optim",
        kohya="pytorch_optimizer.CAME",
        advice="As small as Adafactor, with momentum.",
    ),
)
OPTIMIZERS = {entry.name: entry for entry in _TABLE}
ESTIMATORS = ("prodigy", "dadapt_adam")
"""Those that find the rate of AdamW, for `sdtune lr probe`; the first is the usual one."""


def check_optimizer_name(name: str) -> str:
    """Accept a name of the table or `module:Class`.

    Raises:
        ValueError: It is neither.
    """
    module, colon, attribute = name.partition(":")
    if name in OPTIMIZERS or (colon and all(map(str.isidentifier, [*module.split("."), attribute]))):
        return name
    names = {entry.kohya.lower(): entry.name for entry in _TABLE} | {own: own for own in OPTIMIZERS}
    near = difflib.get_close_matches(name.lower(), names, n=1)
    if near:
        raise ValueError(f"must be an optimizer's name, such as {names[near[0]]}, or module:Class")
    raise ValueError(f"must be one of {', '.join(OPTIMIZERS)}, or module:Class")


def find_entry(name: str) -> OptimizerEntry:
    """Give what is known about an optimizer; of `module:Class` only where it is."""
    package = name.partition(":")[0].partition(".")[0]
    return OPTIMIZERS.get(name) or OptimizerEntry(name=name, target=name, package=package)

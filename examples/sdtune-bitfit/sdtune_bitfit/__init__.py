"""BitFit (Ben Zaken et al. 2021): learn what is added to biases, and nothing else."""

from sdtune.api import MethodSpec, Options, hookimpl


class BitFitOptions(Options):
    layers: str = r"to_out|ff\.|mlp|[qv]_proj|out_proj"
    """Regular expression found in a layer's path. The default leaves out keys: attention does not feel their bias."""


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    summary = "BitFit: learns what is added to biases; files of 300 kB"
    return [MethodSpec(name="bitfit", summary=summary, config=BitFitOptions, factory="sdtune_bitfit.method:BitFit")]

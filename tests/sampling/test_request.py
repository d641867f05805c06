import pytest

from sdtune.data.types import Size
from sdtune.sampling.request import PictureRequest, format_infotext

SIZE = Size(512, 384)


def test_infotext_is_written_as_webuis_read_it():
    request = PictureRequest(prompt="a dog", negative="blurry", seed=3, size=SIZE, steps=30, cfg=7.5)
    assert format_infotext(request) == (
        "a dog\nNegative prompt: blurry\n"
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 3, Size: 512x384"
    )


def test_infotext_leaves_out_an_empty_negative():
    assert "Negative" not in format_infotext(PictureRequest(prompt="a dog", size=SIZE))


@pytest.mark.parametrize(("cfg", "texts"), [(7.0, ("bad", "a dog")), (1.0, ("a dog",))])
def test_negative_is_needed_with_guidance_only(cfg, texts):
    assert PictureRequest(prompt="a dog", negative="bad", size=SIZE, cfg=cfg).texts() == texts

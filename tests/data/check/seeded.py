"""Data sets with defects put in on purpose, one function for each kind of defect."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

TAGS = ("sitting on grass", "red collar", "brick wall", "soft light", "green meadow", "open field")


@dataclass
class DataSet:
    """A folder of good images, some of which are spoiled.

    Attributes:
        root: The data set.
        folder: The folder in it with the images.
        free: Images that nothing was done to.
        draws: Decides which are spoiled, and how.
        px: Resolution of the run.
        options: `a.b=c` that the check is told.
    """

    root: Path
    folder: Path
    free: list[Path]
    draws: random.Random
    px: int
    options: list[str] = field(default_factory=list)

    def take(self) -> Path:
        return self.free.pop(self.draws.randrange(len(self.free)))

    def beside(self, name: str) -> Path:
        return self.root.parent / name


def draw_photo(seed, px=320):
    """Draw what photographs are made of: blots of all sizes (power falls with frequency) and some sharp edges."""
    draws = np.random.default_rng(seed)
    rings = np.hypot(np.fft.fftfreq(px)[:, None], np.fft.rfftfreq(px)[None]) + 1 / px
    noise = np.fft.rfft2(draws.normal(size=(3, px, px)), axes=(1, 2)) / rings
    values = np.fft.irfft2(noise, s=(px, px), axes=(1, 2)).transpose(1, 2, 0)
    values = values / values.std()
    y, x = np.mgrid[:px, :px]
    for _ in range(5):
        cx, cy, r = [*draws.uniform(0, px, 2), draws.uniform(px / 12, px / 5)]
        values[(x - cx) ** 2 + (y - cy) ** 2 < r * r] += draws.normal(size=3)
    return Image.fromarray(np.clip(128 + 40 * values, 0, 255).astype(np.uint8))


def make_set(root, pictures, seed=0, px=256, name="10_zwx dog"):
    """Copy pictures into a folder, and give each a good caption."""
    draws = random.Random(seed)
    folder = root / name
    folder.mkdir(parents=True)
    free = []
    for number, picture in enumerate(pictures):
        path = folder / f"{number:03d}{picture.suffix}"
        shutil.copyfile(picture, path)
        path.with_suffix(".txt").write_text(", ".join(["zwx dog", *(TAGS * 2)[number % 6 :][:3]]), encoding="utf-8")
        free.append(path)
    return DataSet(root=root, folder=folder, free=free, draws=draws, px=px)


def caption_of(image):
    return image.with_suffix(".txt")


def say(image, text):
    caption_of(image).write_text(text, encoding="utf-8")


def replaced(image, picture, suffix, **how):
    """Put another picture in the place of an image, under a name with this suffix."""
    image.unlink()
    new = image.with_suffix(suffix)
    picture.save(new, **how)
    return new.name


def opened(image):
    with Image.open(image) as picture:
        return picture.convert("RGB")


def extra(data, image, name, picture, **how):
    """Add a picture with a caption of its own."""
    new = image.with_name(name)
    picture.save(new, **how)
    shutil.copyfile(caption_of(image), caption_of(new))
    return new


# One file


def corrupt(data):
    image = data.take()
    image.write_bytes(data.draws.choice([b"", b"<html>not found</html>", b"\x00" * 5000, b"just words"]))
    return image.name


def cut_off(data):
    image = data.take()
    name = replaced(image, opened(image), data.draws.choice([".jpg", ".png"]))
    data_bytes = image.with_name(name).read_bytes()
    image.with_name(name).write_bytes(data_bytes[: int(len(data_bytes) * data.draws.uniform(0.5, 0.9))])
    return name


def unknown_format(data):
    suffix = data.draws.choice([".psd", ".svg", ".cr2"])
    (data.folder / f"layers{suffix}").write_bytes(b"8BPS" + bytes(100))
    return f"layers{suffix}"


def too_large(data):
    image = data.take()
    return replaced(image, Image.new("1", (12_000, 9_000)), ".png")


def too_small(data):
    image = data.take()
    return replaced(image, opened(image).resize(data.draws.choice([(8, 8), (300, 9)])), ".png")


def bad_name(data):
    image = data.take()
    outside = data.beside(f"outside-{image.name}")
    shutil.move(image, outside)
    image.symlink_to(outside)
    return image.name


def wrong_extension(data):
    image = data.take()
    replaced(image, opened(image), ".jpg")
    image.with_suffix(".jpg").rename(image.with_suffix(".png"))
    return image.with_suffix(".png").name


def turned(data):
    image = data.take()
    exif = Image.Exif()
    exif[274] = data.draws.choice([3, 6, 8])
    return replaced(image, opened(image), ".jpg", exif=exif, quality=95)


def cmyk(data):
    image = data.take()
    return replaced(image, opened(image).convert("CMYK"), ".jpg", quality=95)


def transparent(data):
    image = data.take()
    picture = opened(image).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, picture.width // 3, picture.height))
    return replaced(image, picture, data.draws.choice([".png", ".webp"]), **{"lossless": True})


def animated(data):
    image = data.take()
    frames = [opened(image), opened(image).transpose(Image.Transpose.ROTATE_180)]
    return replaced(image, frames[0], ".gif", save_all=True, append_images=frames[1:])


def tiny(data):
    image = data.take()
    side = int(data.px * data.draws.uniform(0.25, 0.45))
    return replaced(image, opened(image).resize((side, side), Image.Resampling.BOX), ".png")


def enlarged(data):
    image = data.take()
    side = int(data.px * data.draws.uniform(0.51, 0.64))
    return replaced(image, opened(image).resize((side, side), Image.Resampling.BOX), ".png")


def upscaled(data):
    image = data.take()
    picture = opened(image)
    small = picture.resize((picture.width // 3, picture.height // 3), Image.Resampling.BOX)
    how = data.draws.choice([Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
    return replaced(image, small.resize(picture.size, how), ".png")


def blurred(data):
    image = data.take()
    picture = opened(image)
    return replaced(image, picture.filter(ImageFilter.GaussianBlur(min(picture.size) / 60)), ".png")


def blank(data):
    image = data.take()
    return replaced(image, Image.new("RGB", (data.px, data.px), data.draws.choice(["black", "white", "navy"])), ".png")


def framed(data):
    image = data.take()
    picture = opened(image)
    bar = picture.height // 8
    picture.paste("black", (0, 0, picture.width, bar))
    picture.paste("black", (0, picture.height - bar, picture.width, picture.height))
    return replaced(image, picture, ".png")


def poor_jpeg(data):
    image = data.take()
    return replaced(image, opened(image), ".jpg", quality=data.draws.randrange(8, 25))


def exact_duplicate(data):
    image = data.take()
    copy = image.with_name(f"copy of {image.name}")
    shutil.copyfile(image, copy)
    shutil.copyfile(caption_of(image), caption_of(copy))
    return image.name, copy.name


def near_duplicate(data):
    image = data.take()
    picture = opened(image)
    smaller = picture.resize((int(picture.width * 0.9), int(picture.height * 0.9)))
    change = data.draws.choice([lambda p: p, lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    copy = extra(data, image, f"again {image.stem}.jpg", change(smaller), quality=80)
    return image.name, copy.name


def same_stem(data):
    image, other = data.take(), data.take()
    picture, suffix = opened(other), ".webp" if image.suffix != ".webp" else ".png"
    other.unlink()
    caption_of(other).unlink()
    picture.save(image.with_suffix(suffix), lossless=True)
    return image.name, image.with_suffix(suffix).name


def case_names(data):
    image, other = data.take(), data.take()
    new = [image.with_name(f"Twin{image.name}"), image.with_name(f"twin{image.name}")]
    for old, own in zip((image, other), new, strict=True):
        caption_of(old).rename(caption_of(own))
        old.rename(own)
    return tuple(path.name for path in new)


def missing_caption(data):
    image = data.take()
    caption_of(image).unlink()
    return image.name


def empty_caption(data):
    image = data.take()
    say(image, data.draws.choice(["", "  \n", "\n\n"]))
    return caption_of(image).name


def undecodable_caption(data):
    image = data.take()
    caption_of(image).write_bytes("zwx dog, caf\xe9, na\xefve".encode("cp1252"))
    return caption_of(image).name


def caption_extension(data):
    image = data.take()
    new = data.draws.choice([image.with_suffix(".text"), image.with_name(f"{image.name}.txt")])
    caption_of(image).rename(new)
    return new.name


def orphan_caption(data):
    path = data.folder / f"lost{data.draws.randrange(1000)}.txt"
    path.write_text("zwx dog, red collar, soft light")
    return path.name


def several_lines(data):
    image = data.take()
    say(image, caption_of(image).read_text() + "\nblue sky\r\nand a tree\n")
    return caption_of(image).name


def long_caption(data):
    image = data.take()
    say(image, f"{caption_of(image).read_text()}, {' '.join(data.draws.choices(' '.join(TAGS).split(), k=120))}")
    return image.name


def trigger_missing(data):
    image = data.take()
    say(image, caption_of(image).read_text().replace("zwx dog", "a dog"))
    return caption_of(image).name


def typo(data):
    image = data.take()
    tag = data.draws.choice(["red colar", "brick wal", "siting on grass", "soft ligth", "opne field", "gren meadow"])
    say(image, f"{caption_of(image).read_text()}, {tag}")
    return caption_of(image).name


def repeated_tag(data):
    image = data.take()
    text = caption_of(image).read_text()
    say(image, f"{text}, {text.split(', ')[1]}")
    return caption_of(image).name


def contradiction(data):
    image = data.take()
    say(image, f"{caption_of(image).read_text()}, {data.draws.choice(['day, night', 'indoors, outdoors'])}")
    return caption_of(image).name


def heavy_crop(data):
    image = data.take()
    picture = opened(image).resize((data.px * 8, data.px), Image.Resampling.LANCZOS)
    picture = Image.effect_noise(picture.size, 60).convert("RGB")
    return replaced(image, picture, ".png")


def ignored_files(data):
    (data.folder / "notes.docx").write_bytes(b"PK")
    return data.folder.name


# A whole data set


def no_images(data):
    shutil.rmtree(data.folder)
    return data.root.name


def reg_inside(data):
    reg = data.root / data.draws.choice(["reg", "regularization", "1_reg"])
    reg.mkdir()
    shutil.move(data.take(), reg)
    return reg.name


def mixed_captions(data):
    for image in [data.take(), data.take()]:
        caption_of(image).rename(image.with_suffix(".caption"))
    return data.folder.name


def mask_folder(data, but=()):
    masks = data.beside("masks")
    masks.mkdir()
    for image in data.free:
        if image not in but:
            mask = Image.new("L", opened(image).size)
            mask.paste(255, (10, 10, 60, 60))
            mask.save(masks / f"{image.stem}.png")
    data.options.append(f"data.mask.dir={masks}")
    return masks


def mask_size(data):
    masks = mask_folder(data)
    image = data.take()
    Image.linear_gradient("L").resize((64, 64)).save(masks / f"{image.stem}.png")
    return f"{image.stem}.png"


def mask_missing(data):
    mask_folder(data, but=[image := data.draws.choice(data.free)])
    return image.name


def mask_empty(data):
    masks = mask_folder(data)
    image = data.take()
    Image.new("L", opened(image).size, data.draws.choice([0, 255])).save(masks / f"{image.stem}.png")
    return f"{image.stem}.png"


def refused(data):
    data.options.append("data.captions=json")
    return data.root.name


def trigger_common(data):
    data.options.append(f"data.token={data.draws.choice(['woman', 'dog', 'style'])}")
    return data.folder.name


def trigger_splits(data):
    data.options.append("data.token=Zhang_Na_Ying_2024_v7")
    return data.folder.name


def regularization(data, name="1_dog", count=None):
    """Make class images: other pictures than the subject's."""
    folder = data.beside("reg") / name
    folder.mkdir(parents=True)
    for number in range(count or len(data.free)):
        draw_photo(1000 + number, 128).save(folder / f"{number}.png")
    data.options.append(f"regularization.path={data.beside('reg')}")
    return folder


def subject_in_reg(data):
    image, folder = data.take(), regularization(data)
    shutil.copyfile(image, folder / f"x{image.name}")
    return f"x{image.name}"


def unpaired_reg(data):
    return regularization(data, name="1_castle").name


def few_reg(data):
    return regularization(data, count=1).name


def starving_bucket(data):
    image = data.take()
    Image.effect_noise((data.px * 2, data.px), 60).convert("RGB").save(image)
    data.options.append("train.batch_size=11")
    return image.name


def low_area_bucket(data):
    image = data.take()
    Image.effect_noise((data.px * 4, data.px), 60).convert("RGB").save(image)
    data.options.append(f"data.buckets.max_px={data.px}")
    return image.name


def repeats(data):
    data.folder.rename(data.root / "400_zwx dog")
    return "400_zwx dog"


def uneven_folders(data):
    other = data.root / "200_zwx cat"
    other.mkdir()
    image = data.take()
    shutil.move(caption_of(image), other)
    shutil.move(image, other)
    data.folder.rename(data.root / "1_zwx dog")
    return "1_zwx dog"


def leak(data):
    held = data.beside("held out")
    held.mkdir()
    image = data.take()
    opened(image).resize((data.px, data.px)).save(held / "one.png")
    (held / "one.txt").write_text("zwx dog")
    data.options.append(f"validation.path={held}")
    return "one.png"


def unread_folder(data):
    deep = data.folder / "more" / "of them"
    deep.mkdir(parents=True)
    (deep / "run.json").write_text("{}")  # a run of sdtune
    image = data.take()
    shutil.move(image, deep)
    caption_of(image).unlink()
    return deep.name


def huge_file(data):
    image = data.take()
    with image.open("ab") as file:
        file.truncate(40_000_000)
    return image.name


def one_value_tag(data):
    for image in data.free:
        say(image, f"{caption_of(image).read_text()}, white background")
    return data.root.name


def image_count(data):
    for image in data.free[3:]:
        image.unlink()
        caption_of(image).unlink()
    return data.root.name


def run_length(data):
    data.options.append(f"train.epochs={data.draws.choice([1, 400])}")
    return data.root.name


def leaf_folder(data):
    data.root = data.folder
    return data.folder.name


IN_FILES = {
    function.__name__.replace("_", "-"): function
    for function in (
        corrupt, cut_off, unknown_format, too_large, too_small, bad_name, wrong_extension, turned, cmyk, transparent,
        animated, tiny, enlarged, upscaled, blurred, blank, framed, poor_jpeg, exact_duplicate, near_duplicate,
        same_stem, case_names, missing_caption, empty_caption, undecodable_caption, caption_extension, orphan_caption,
        several_lines, long_caption, trigger_missing, typo, repeated_tag, contradiction, heavy_crop, ignored_files,
        huge_file,
    )
}  # fmt: skip
IN_SETS = {
    function.__name__.replace("_", "-"): function
    for function in (
        no_images, reg_inside, mixed_captions, mask_size, mask_missing, mask_empty, refused, trigger_common,
        trigger_splits, subject_in_reg, unpaired_reg, few_reg, starving_bucket, low_area_bucket, repeats,
        uneven_folders, leak, unread_folder, one_value_tag, image_count, run_length, leaf_folder,
    )
}  # fmt: skip
DEFECTS = {**IN_FILES, **IN_SETS}


def look_at(data, *options):
    """Check a data set as the command does."""
    import sdtune_lora
    from sdtune.config.compose import load
    from sdtune.data.check.diagnosis import diagnose
    from sdtune.data.check.looking import look, run_facts
    from sdtune.plugins import Registry

    words = [f"data.path={data.root}", f"data.resolution={data.px}", *data.options, *options]
    loaded = load(Registry.from_plugins([sdtune_lora]), overrides=words).options
    return diagnose(look(loaded, run_facts(loaded)))


def places(diagnosis, kind):
    """Give the names of the files that a kind was found at."""
    return {Path(finding.place).name for finding in diagnosis.findings if finding.kind.name == kind}

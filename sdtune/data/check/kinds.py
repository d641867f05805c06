"""All kinds of defect that the doctor knows, in the order in which they are told."""

from __future__ import annotations

from sdtune.data.check.finding import DefectKind, Severity


def _kind(severity: Severity, name: str, why: str) -> DefectKind:
    return DefectKind(name=name, severity=severity, why=why)


# What a run refuses
CORRUPT = _kind("error", "corrupt", "A picture that cannot be read cannot be learned.")
CUT_OFF = _kind("error", "cut-off", "Half a picture teaches gray bars: a download or copy ended early.")
UNKNOWN_FORMAT = _kind("error", "unknown-format", "Such files are pictures, but this installation cannot read them.")
TOO_LARGE = _kind("error", "too-large", "A picture of so many pixels can use up all memory.")
TOO_SMALL = _kind("error", "too-small", "Too few pixels, or too narrow: it fits no bucket.")
BAD_NAME = _kind(
    "error", "bad-name", "Names that cannot be typed, and links out of the folder, break on other machines."
)
SAME_STEM = _kind(
    "error", "same-stem", "Two pictures would share one caption file, and one of them would have the wrong one."
)
MISSING_CAPTION = _kind("error", "missing-caption", "A picture without words is learned as the answer to any words.")
EMPTY_CAPTION = _kind(
    "error", "empty-caption", "An empty file is mostly a mistake; a picture may go without words on purpose only."
)
UNDECODABLE_CAPTION = _kind("error", "undecodable-caption", "In another encoding letters are read as other ones.")
CAPTION_EXTENSION = _kind(
    "error", "caption-extension", "A caption file that is not called as sdtune expects is not read."
)
NO_IMAGES = _kind("error", "no-images", "Without images there is nothing to learn.")
MASK_SIZE = _kind("error", "mask-size", "A mask of another size covers other places of the picture.")
REFUSED = _kind("error", "refused", "A run would not start with it.")

# What makes a run worse
CMYK = _kind("warning", "cmyk", "Colours for printing are converted roughly: they look different from what you see.")
TRANSPARENT = _kind(
    "warning", "transparent", "What is transparent is filled with one colour, and that colour is learned."
)
ANIMATED = _kind("warning", "animated", "Of several frames or pages only the first is learned.")
TINY = _kind(
    "warning", "tiny", "It has less than half of the pixels it needs each way: blur is learned as part of the subject."
)
ENLARGED = _kind("warning", "enlarged", "It is smaller than its bucket, so it is enlarged and softer than the others.")
UPSCALED = _kind(
    "warning", "upscaled", "It was enlarged before: it has more pixels, but no more detail, and looks soft."
)
BLURRED = _kind("warning", "blurred", "Blur and shake are learned like everything else.")
BLANK = _kind("warning", "blank", "A picture of one colour teaches that colour.")
FRAMED = _kind("warning", "framed", "Bars and frames are learned, and come back in pictures.")
POOR_JPEG = _kind("warning", "poor-jpeg", "The blocks of strong compression are learned as if they were detail.")
EXACT_DUPLICATE = _kind(
    "warning", "exact-duplicate", "The same file twice counts double; use repeats where you want that."
)
NEAR_DUPLICATE = _kind(
    "warning", "near-duplicate", "Almost the same picture counts double, and is learned by heart first."
)
CASE_NAMES = _kind("warning", "case-names", "Windows and macOS cannot hold both files: one overwrites the other.")
MIXED_CAPTIONS = _kind(
    "warning", "mixed-captions", "With two kinds of caption files it is not clear which ones are meant."
)
ORPHAN_CAPTION = _kind("warning", "orphan-caption", "Words without a picture: the picture was lost or renamed.")
SEVERAL_LINES = _kind("warning", "several-lines", "Only the first line is learned.")
LONG_CAPTION = _kind(
    "warning", "long-caption", "The text encoder reads so many tokens; the words behind are not learned."
)
TRIGGER_MISSING = _kind("warning", "trigger-missing", "What is learned without the word does not answer to it.")
TRIGGER_COMMON = _kind(
    "warning", "trigger-common", "The model knows this word already: its old meaning is overwritten or mixed in."
)
TRIGGER_SPLITS = _kind(
    "warning", "trigger-splits", "The text encoder cuts this word into many pieces, so it is hard to learn."
)
TYPO = _kind("warning", "typo", "A word that is spelled wrong is learned apart from the right one.")
CONTRADICTION = _kind(
    "warning", "contradiction", "Two tags that exclude each other: one of them is wrong, and both are learned."
)
REG_INSIDE = _kind(
    "warning",
    "reg-inside",
    "They are not used as regularization images there; other programs learn them as the subject.",
)
SUBJECT_IN_REG = _kind(
    "warning", "subject-in-reg", "The subject is learned as its class, too, and the class gets its face."
)
UNPAIRED_REG = _kind(
    "warning", "unpaired-reg", "It belongs to no training folder by its name, so it is used for all of them."
)
FEW_REG = _kind("warning", "few-reg", "The same few class images return again and again, and are learned by heart.")
STARVING_BUCKET = _kind(
    "warning", "starving-bucket", "Fewer pictures than a batch: its steps are smaller, and noisier, than the others."
)
LOW_AREA = _kind(
    "warning", "low-area-bucket", "Its pictures are learned at less than 80 % of the pixels of the others."
)
HEAVY_CROP = _kind("warning", "heavy-crop", "Much of the picture is cut away, perhaps the subject's head or feet.")
REPEATS = _kind("warning", "repeats", "So many repeats make an epoch long, and the pictures are learned by heart.")
UNEVEN_FOLDERS = _kind("warning", "uneven-folders", "One folder is seen far more often than another and drowns it.")
LEAK = _kind(
    "warning",
    "leak",
    "A picture that is learned cannot tell whether others are learned: the measured loss is too good.",
)
MASK_MISSING = _kind("warning", "mask-missing", "Without a mask all of the picture counts, its background too.")
MASK_EMPTY = _kind("warning", "mask-empty", "A mask that is the same everywhere says nothing.")
UNREAD_FOLDER = _kind("warning", "unread-folder", "Its images are not learned.")

# What is good to know
WRONG_EXTENSION = _kind("note", "wrong-extension", "sdtune reads by content; other programs go by the name and fail.")
TURNED = _kind("note", "turned", "sdtune turns it as the camera says; other programs may show and learn it lying.")
HUGE_FILE = _kind(
    "note", "huge-file", "Many more bytes than a run needs: reading it takes time, and nothing is gained."
)
REPEATED_TAG = _kind("note", "repeated-tag", "Tokens are few, and saying a tag twice takes them from others.")
ONE_VALUE_TAG = _kind(
    "note",
    "one-value-tag",
    "What every caption says is not told apart from the trigger word: leave it out to let the trigger carry it.",
)
IMAGE_COUNT = _kind(
    "note", "image-count", "Usual are 20 to 50 pictures of a subject, of many angles and lights; more for a style."
)
RUN_LENGTH = _kind(
    "note", "run-length", "Usual are 20 to 300 visits of each picture: fewer teach little, more are learned by heart."
)
LEAF_FOLDER = _kind("note", "leaf-folder", "It works; other programs want the folder above, and find no images here.")
IGNORED_FILES = _kind("note", "ignored-files", "They are no images and no captions, and are left alone.")

KINDS: tuple[DefectKind, ...] = tuple(value for value in list(globals().values()) if isinstance(value, DefectKind))
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

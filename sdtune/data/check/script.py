"""Write a shell script that mends what was found; nobody runs it but the user, and nothing is deleted by it."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from typing import TYPE_CHECKING

from sdtune.data.check.kinds import BLURRED, NEAR_DUPLICATE, TINY, TRIGGER_MISSING, TYPO, UPSCALED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sdtune.data.check.diagnosis import Diagnosis
    from sdtune.data.check.finding import DefectKind, Finding

JUDGEMENTS = frozenset({BLURRED, NEAR_DUPLICATE, TINY, TRIGGER_MISSING, TYPO, UPSCALED})
"""Kinds that only the user can judge: their commands are written as comments."""

_DOES = {
    "set_aside": "set aside: move into that folder",
    "rename": "rename: images, captions or folders",
    "part": "part: rename an image, and copy its caption",
    "to_utf8": "to UTF-8: save captions in that encoding",
    "join_lines": "join: put all lines of captions on one",
    "drop_repeated": "drop: tags that a caption says twice",
    "replace_word": "replace: words in captions",
    "put_first": "put first: a word before captions",
}
_FUNCTIONS = r"""
set -eu
cd -- @ROOT@
aside=@ASIDE@

keep() {  # keep FILE: copy it to set-aside before it is changed, once
    to=$aside/${1#/}
    [ -e "$to" ] && return
    mkdir -p -- "$(dirname -- "$to")" && cp -p -- "$1" "$to"
}
set_aside() {  # set_aside FILE...
    for file; do
        [ -e "$file" ] || continue
        to=$aside/${file#/}
        [ -e "$to" ] && to=$to.$$
        mkdir -p -- "$(dirname -- "$to")" && mv -- "$file" "$to" && printf 'set aside: %s\n' "$file"
    done
}
rename() {  # rename OLD NEW [OLD NEW]...
    while [ $# -gt 1 ]; do
        if [ -e "$2" ] && ! [ "$1" -ef "$2" ]; then printf 'is there already: %s\n' "$2" >&2
        elif [ -e "$1" ]; then mv -- "$1" "$2" && printf 'renamed: %s\n' "$2"; fi
        shift 2
    done
}
part() {  # part OLD NEW [CAPTION COPY]...
    rename "$1" "$2"
    shift 2
    while [ $# -gt 1 ]; do
        [ -e "$2" ] || cp -p -- "$1" "$2"
        shift 2
    done
}
put() {  # put FILE: replace it by what comes in
    keep "$1"
    cat > "$1.new" && mv -- "$1.new" "$1" && printf 'changed: %s\n' "$1"
}
to_utf8() {  # to_utf8 FILE, unless it is
    iconv -f UTF-8 -t UTF-8 < "$1" > /dev/null 2>&1 || iconv -f WINDOWS-1252 -t UTF-8 < "$1" | put "$1"
}
join_lines() { awk 'NF { sub(/\r$/, ""); printf "%s%s", sep, $0; sep = " " } END { print "" }' "$1" | put "$1"; }
put_first() {  # put_first FILE WORD, unless it is there
    grep -qiwF -e "$2" -- "$1" || WORD=$2 awk 'NR == 1 { printf "%s, ", ENVIRON["WORD"] } { print }' "$1" | put "$1"
}
drop_repeated() {
    awk -F, '{ line = ""; for (i = 1; i <= NF; i++) { tag = $i; gsub(/^[ \t]+|[ \t\r]+$/, "", tag)
        if (tag != "" && !(tolower(tag) in seen)) { seen[tolower(tag)]; line = line (line == "" ? "" : ", ") tag } }
        print line }' "$1" | put "$1"
}
replace_word() {  # replace_word FILE OLD NEW: whole words, in any case
    OLD=$2 NEW=$3 awk '{ rest = $0; line = ""; old = tolower(ENVIRON["OLD"]); size = length(old)
        while ((at = index(tolower(rest), old)) > 0) {
            ahead = line substr(rest, 1, at - 1); after = substr(rest, at + size)
            whole = ahead !~ /[[:alnum:]_]$/ && after !~ /^[[:alnum:]_]/
            line = ahead (whole ? ENVIRON["NEW"] : substr(rest, at, size)); rest = after }
        print line rest }' "$1" | put "$1"
}
"""


def write_script(diagnosis: Diagnosis) -> str:
    """Write the script: a comment on what it does, its functions, then a command for each finding that has one."""
    mended = [finding for finding in diagnosis.findings if finding.script]
    root = diagnosis.survey.root.resolve()
    lines = [*_head(mended, root), _functions(root)]
    told: set[DefectKind] = set()
    for finding in mended:
        if finding.kind not in told:
            told.add(finding.kind)
            lines += ["", *_comment(f"{finding.kind.name}: {finding.kind.why}")]
            if finding.kind in JUDGEMENTS:
                lines += _comment("Look at each, and take the # away where you agree.")
        lines += _comment(f"  {finding.message}")
        command = " ".join(shlex.quote(_below(word, str(diagnosis.survey.root))) for word in finding.script)
        lines.append(f"# {_one_line(command)}" if finding.kind in JUDGEMENTS else command)
    return "\n".join([*lines, ""])


def set_aside_folder(root: Path) -> Path:
    """Give the folder for what is set aside: beside the data, where nothing takes it for data."""
    return root.with_name(f"{root.name}-set-aside")


def _functions(root: Path) -> str:
    text = _FUNCTIONS.replace("@ROOT@", shlex.quote(str(root)))
    return text.replace("@ASIDE@", shlex.quote(str(set_aside_folder(root))))


def _head(mended: Sequence[Finding], root: Path) -> Iterator[str]:
    yield "#!/bin/sh"
    yield from _comment(f"Mends what `sdtune data check` found in {root}")
    yield from _comment("Nothing is deleted: what is left out, and captions before a change, go into the folder")
    yield from _comment(f"{set_aside_folder(root)}")
    yield from _comment("Read it, and remove what you do not want. It does:")
    sure = Counter(finding.script[0] for finding in mended if finding.kind not in JUDGEMENTS)
    for function, count in sure.items():
        yield from _comment(f"  {count} times {_DOES[function]}")
    if others := sum(finding.kind in JUDGEMENTS for finding in mended):
        yield from _comment(f"  {others} commands are comments: they are for you to judge")


def _comment(text: str) -> list[str]:
    return [f"# {_one_line(text)}"]


def _one_line(text: str) -> str:
    """Keep a text from ending its comment: names may hold line ends."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _below(word: str, root: str) -> str:
    """Name a file as seen from the folder that the script works in; `./` keeps a name from being an option."""
    if word == root or word.startswith(root + os.sep):
        return "./" + os.path.relpath(word, root)
    return word

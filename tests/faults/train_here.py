"""The command line with the bundled LoRA alone, for processes that tests start; notes each one's exit code.

Arguments: a folder for the notes, then the words of the command. With a signal's number in `SEND`, the first process
sends it to the second after two steps.
"""

import os
import sys
from pathlib import Path

import sdtune_lora
from sdtune.testing.runner import command
from sdtune.train.watching.observers import Observer

RANK = os.environ.get("RANK", "0")


class Sender(Observer):
    """Sends a signal to process 1."""

    def __init__(self, number, notes):
        self.number = number
        self.notes = notes
        self.seen = 0

    def on_step(self, run, report):
        self.seen += 1
        if self.seen == 2:
            os.kill(int((self.notes / "pid-1").read_text()), self.number)


def main(notes, words):
    class Plugin:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            return [Sender(int(os.environ["SEND"]), notes)] if "SEND" in os.environ else []

    (notes / f"pid-{RANK}").write_text(str(os.getpid()))
    code = command([sdtune_lora, Plugin], *words)
    (notes / f"exit-{RANK}").write_text(str(code))
    sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

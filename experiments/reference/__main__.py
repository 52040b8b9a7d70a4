"""Write the pages of the documentation that are made from the source: settings, configs, messages of errors.

python -m experiments.reference [--out docs]

It is run in a checkout, after a change of settings, docstrings, configs or messages; a test compares the pages.
"""

from pathlib import Path

import experiments.lean  # noqa: F401  before the first import of Lightning
from contextcir.files import write_text
from experiments.command import command
from experiments.outputs import output_folder


def reference(out: Path = Path("docs")) -> None:
    """Write the pages.

    Args:
        out: The folder of documents.
    """
    from experiments.reference.message_page import message_page
    from experiments.reference.settings_pages import pages

    output_folder(out, "out")
    for name, text in {**pages(), "messages.md": message_page()}.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
        print(file)


if __name__ == "__main__":
    command(reference)

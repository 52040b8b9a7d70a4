"""Captions as CLIP's tokenizer reads them."""

import html

import ftfy


def clean(caption: str) -> str:
    """Return a caption as CLIP's tokenizer reads it; spans of phrases count characters of this text.

    Broken encodings and markup entities are resolved, white space is collapsed, and letters are in lower case. The
    result is that of ``open_clip.tokenizer.get_clean_fn("lower")``, but open_clip takes seconds to import, and this
    module is for code that needs neither open_clip nor torch.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return " ".join(text.split()).lower()

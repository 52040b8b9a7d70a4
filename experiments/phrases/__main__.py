"""Find the noun phrases and clauses of captions once, and keep them in a bank for training.

python -m experiments.phrases --captions FILE... --parser stanza --out BANK --workers 4
python -m experiments.phrases --captions FILE... --parser stanza --out BANK --shard 0/8
python -m experiments.phrases merge --out BANK BANK.shard-*-of-8
python -m experiments.phrases list --stage fit --out captions.jsonl --config a.yaml [--config b.yaml] [--data.root=DIR]

A run that was killed resumes when it is started again. Captions are added to a bank that exists.
"""

import heapq
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from jsonargparse import ArgumentParser
from tqdm import tqdm

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.files import in_shard, one_writer, write_text, writing
from contextcir.phrases.bank import About, PhraseBank, byte_order, write_bank
from contextcir.phrases.parser import Parse, PhraseParser
from contextcir.processors import available_processors
from experiments.arguments import Parser
from experiments.command import read_shard
from experiments.failures import one_line_errors
from experiments.phrases.captions import captions_of, configured, instantiated, read_captions
from experiments.phrases.workers import UnfinishedRun, parse_batches

PARSERS = {
    "stanza": "contextcir.phrases.constituency.ConstituencyParser",
    "spacy": "contextcir.phrases.chunks.ChunkParser",
}


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(prog="python -m experiments.phrases", description=__doc__.partition("\n")[0])
    parser.add_argument("--captions", type=Path, nargs="+", required=True, help="annotation files, manifests, .txt")
    parser.add_argument(
        "--parser", type=PhraseParser, required=True, help=f"{' or '.join(PARSERS)}, or a class; --parser.OPTION=..."
    )
    parser.add_argument("--out", type=Path, required=True, help="bank to write, or to add to")
    parser.add_argument(
        "--shard", type=str | None, default=None, help="I/N: only part I of N, from 0 on, to OUT.shard-I-of-N"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes; 0 for one per core, 1 for this one")
    parser.add_argument("--batch", type=int, default=512, help="captions that are parsed, and kept, at a time")
    return parser


def fill(
    captions: Sequence[str], parser: PhraseParser, about: About, out: Path, workers: int = 1, batch: int = 512
) -> About:
    """Parse the captions that a bank lacks, and rewrite it with them; return its metadata.

    Raises:
        InputError: if the bank is of another parser or another shard, or parsing fails.
    """
    old = PhraseBank(out, about.key) if os.path.lexists(out) else None
    if old is not None and old.about.shard != about.shard:
        problem = f"{out} holds {_shard_name(old.about.shard)}, not {_shard_name(about.shard)}"
        raise InputError(problem, setting="out")
    if old is not None:
        old.check_clauses()
    wanted = sorted((caption for caption in set(captions) if old is None or caption not in old), key=byte_order)
    with UnfinishedRun(out.with_name(f"{out.name}.part"), about.key) as unfinished:
        _parse_into(unfinished, wanted, parser, workers, batch)
        parsed = unfinished.parsed  # those of an earlier run included, be it with other captions
        new = sorted((caption for caption in parsed if old is None or caption not in old), key=byte_order)
        rows = ((caption, parsed[caption]) for caption in new)
        if old is not None:
            about, rows = old.about, heapq.merge(old.rows(), rows, key=lambda row: byte_order(row[0]))
        if old is None or new:
            about = write_bank(out, rows, about)
        unfinished.remove()
    return about


def _parse_into(
    unfinished: UnfinishedRun, wanted: Sequence[str], parser: PhraseParser, workers: int, batch: int
) -> None:
    # Batches do not depend on what is done already: a run that was killed parses the same ones as one that was not.
    batches = [wanted[start : start + batch] for start in range(0, len(wanted), batch)]
    known = unfinished.parsed
    left = [rest for rest in ([caption for caption in part if caption not in known] for part in batches) if rest]
    done = len(wanted) - sum(map(len, left))
    seconds = 0.5 if sys.stderr.isatty() else 30  # in the log of a job, a line now and then
    tqdm.monitor_interval = 0  # no thread beside this one: workers are forked
    with tqdm(total=len(wanted), initial=done, unit=" captions", mininterval=seconds, maxinterval=seconds) as progress:
        for parsed in parse_batches(parser, left, workers) if left else ():
            unfinished.add(parsed)
            progress.update(len(parsed))


def merge(out: Path, shards: Sequence[Path]) -> About:
    """Join the banks of all shards into one, with what it holds already.

    Raises:
        InputError: if a shard is missing, their parsers differ, one has no clauses, or two banks differ in a caption.
    """
    banks = [PhraseBank(path) for path in dict.fromkeys([*([out] if os.path.lexists(out) else []), *shards])]
    if not banks:
        raise InputError("expected the banks of the shards, got none", setting="shards")
    first = banks[0].about
    for bank in banks:
        if bank.about.key != first.key:
            difference = f"{bank.path} has {bank.about.key.difference(first.key)}, as {banks[0].path} has"
            raise InputError(difference, setting="shards")
        bank.check_clauses()
    for count in sorted({bank.about.shard[1] for bank in banks if bank.about.shard}):
        present = {bank.about.shard[0] for bank in banks if bank.about.shard and bank.about.shard[1] == count}
        absent = count - len(present)
        if absent:
            some = [str(number) for number in islice((n for n in range(count) if n not in present), 10)]
            listed = ", ".join(some) + (f" and {absent - 10} more" if absent > 10 else "")
            raise InputError(f"shard {listed} of {count} is missing: run it, and name all shards", setting="shards")
    with writing(out, "out"), one_writer(out.parent, "merges a bank", f".{out.name}.lock"):
        return write_bank(out, _joined(banks), first._replace(shard=None))


def _joined(banks: Sequence[PhraseBank]) -> Iterator[tuple[str, Parse]]:
    rows = heapq.merge(*map(_named_rows, banks), key=lambda row: byte_order(row[0]))
    before: tuple[str, Parse, PhraseBank] | None = None
    for caption, parse, bank in rows:
        if before is None or caption != before[0]:
            before = (caption, parse, bank)
            yield caption, parse
        elif parse != before[1]:
            what = "phrases" if parse.phrases != before[1].phrases else "clauses"
            problem = f"caption {shown(caption)} has other {what} in {bank.path} than in {before[2].path}"
            raise InputError(problem, setting="shards")


def _named_rows(bank: PhraseBank) -> Iterator[tuple[str, Parse, PhraseBank]]:
    for caption, parse in bank.rows():
        yield caption, parse, bank


def main(args: Sequence[str] | None = None) -> None:
    """Parse the command line."""
    typed = list(sys.argv[1:] if args is None else args)
    command = {"merge": _merge, "list": _list}.get(typed[0] if typed else "")
    with one_line_errors():
        try:
            if command is None:
                _parse(typed)
            else:
                command(typed[1:])
        except InputError as error:
            bank = "shards" if command is _merge else "out"
            raise error.relocate("data.phrases.path", bank).relocate("data.phrases", bank) from None


def _parse(typed: Sequence[str]) -> None:
    command_line = build_parser()
    settings = command_line.parse_args([_spelled_out(typed, place) for place in range(len(typed))])
    whole(settings.workers, 0, "workers")
    whole(settings.batch, 1, "batch")
    parser = instantiated(command_line, settings).parser
    shard = read_shard(settings.shard)
    distinct: set[str] = set()
    for path in settings.captions:
        captions = read_captions(path)
        distinct.update(captions)
        print(f"{path}: {len(captions):,} captions, {len(set(captions)):,} different")
    chosen = [caption for caption in distinct if shard is None or in_shard(caption, *shard)]
    out = settings.out if shard is None else _shard_path(settings.out, *shard)
    workers = settings.workers or available_processors()
    about = fill(chosen, parser, About(parser.key, _arguments(typed), 0, shard), out, workers, settings.batch)
    megabytes = out.stat().st_size / 1e6
    print(f"{about.captions:,} captions in {out} ({megabytes:.1f} MB): {_shard_name(shard)}, by {about.key}")
    if shard is not None:
        all_shards = shlex.quote(str(settings.out)) + f".shard-*-of-{shard[1]}"
        print(f"when all shards are done: python -m experiments.phrases merge --out {settings.out} {all_shards}")


def _merge(typed: Sequence[str]) -> None:
    parser = Parser(prog="python -m experiments.phrases merge", description="Join the banks of shards.")
    parser.add_argument("--out", type=Path, required=True, help="bank to write, or to add to")
    parser.add_argument("shards", type=Path, nargs="+", help="banks")
    settings = parser.parse_args(typed)
    about = merge(settings.out, settings.shards)
    print(f"{about.captions:,} captions in {settings.out} ({settings.out.stat().st_size / 1e6:.1f} MB), by {about.key}")


def _list(typed: Sequence[str]) -> None:
    data, stage, out = configured(list(typed))
    if out.suffix != ".jsonl":
        raise InputError(f"expected the name of a .jsonl file, got {out}", setting="out")
    captions = sorted(set(captions_of(data, stage)), key=byte_order)
    with writing(out, "out"):
        write_text(out, "".join(json.dumps({"caption": caption}) + "\n" for caption in captions))
    print(f"{len(captions):,} different captions in {out}")


def _spelled_out(typed: Sequence[str], place: int) -> str:
    """Return an argument of the command line, with the class in the place of a parser's short name."""
    argument = typed[place]
    if place and typed[place - 1] == "--parser":
        return PARSERS.get(argument, argument)
    flag, _, name = argument.partition("=")
    return f"--parser={PARSERS[name]}" if flag == "--parser" and name in PARSERS else argument


def _arguments(typed: Sequence[str]) -> str:
    """Return the arguments that choose and set up the parser, for the commands that error messages give."""
    chosen = []
    for place, argument in enumerate(typed):
        if argument.partition("=")[0] == "--parser" or argument.startswith("--parser."):
            chosen.append(argument if "=" in argument else f"{argument}={typed[place + 1]}")
    return shlex.join(chosen).encode("utf-8", "backslashreplace").decode()  # bytes that are no text, in a name


def _shard_path(out: Path, number: int, count: int) -> Path:
    return out.with_name(f"{out.name}.shard-{number}-of-{count}")


def _shard_name(shard: tuple[int, int] | None) -> str:
    return "all captions" if shard is None else f"shard {shard[0]} of {shard[1]}"


if __name__ == "__main__":
    main()

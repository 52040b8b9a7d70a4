"""`experiments.evaluate`: the figures of `experiments.run`, from a model, through the store, and from a file."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.retrieved import path_of, read_retrieved
from contextcir.embedders import Reranker
from contextcir.embedders.base import Embedder, Unfinished
from experiments.evaluate.__main__ import main
from experiments.evaluate.usage import total
from experiments.features import main as features
from experiments.run import main as run
from tests.data.test_manifest import RECORDS, make_manifest
from tests.helpers.embedding_server import EmbeddingServer, YesNoServer
from tests.helpers.make_data import make_circo, make_cirr
from tests.helpers.make_fashioniq import make_fashioniq
from tests.helpers.paths import CONFIGS
from tests.helpers.scenes_flags import SIZE, configs, draw

SCENES = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]


class Toy(Embedder):
    """Mean colours and the length of the text; counts what it is asked, and may stop.

    Args:
        stop: items after which it stops; None for never.
    """

    name, revision, licence = "toy", "1", "none"
    batch = 4
    asked = 0

    def __init__(self, stop: int | None = None, image_alone: bool = True) -> None:
        self.stop = stop
        self.parts = ("image", "text") if image_alone else ("text",)

    @property
    def dimension(self) -> int:
        return 5

    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        rows = [self._row(image, text) for image, text in zip(images, texts, strict=True)]
        return self._counted(torch.stack(rows))

    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        return self._counted(torch.stack([self._row(image, None) for image in images]))

    def _row(self, image: Image.Image | None, text: str | None) -> Tensor:
        colour = [0, 0, 0] if image is None else list(image.resize((1, 1)).getpixel((0, 0)))
        return torch.tensor([*colour, 1, 0 if text is None else 10 * len(text)], dtype=torch.float32)

    def _counted(self, rows: Tensor) -> Tensor:
        left = len(rows) if self.stop is None else max(0, self.stop - Toy.asked)
        Toy.asked += min(left, len(rows))
        if left < len(rows):
            raise Unfinished(list(range(left)), rows[:left], KeyboardInterrupt())  # type: ignore[arg-type]
        return rows


TOY = "--embedder=tests.commands.test_evaluate.Toy"


def entries(folder: Path, phase: str = "validate") -> dict:
    return json.loads((folder / "metrics.json").read_text())[phase]


@pytest.mark.slow
def test_the_figures_are_those_of_a_run_with_the_sum_and_of_a_file(
    small: list[str], clip_folder: Path, runs: Path, tmp_path: Path
) -> None:
    root = draw(tmp_path / "scenes")
    data = [*configs("base", "scenes"), f"--data.root={root}", *SCENES]
    whole = [f"--model.backbone.trainable_{part}_blocks=null" for part in ("image", "text")]
    summed = [*whole, "--model.fusion=Sum", "--model.concept=null", "--data.features=null"]
    run(["validate", *data, *small, *summed, "--name=a"])
    model = ["--embedder=OpenCLIPEmbedder", f"--embedder.model=local-dir:{clip_folder}", "--embedder.device=cpu"]
    main(["validate", *data, *model, "--name=b"])
    file = tmp_path / "f.safetensors"
    features(["make", *data, *model, f"--out={file}"])
    features(["template", *data, f"--out={tmp_path / 'listed.jsonl'}"])
    main(["validate", *data, "--embedder=FeaturesFile", f"--embedder.file={file}", "--name=c"])
    first, second, third = (entries(runs / name / "id1") for name in "abc")
    for split in first:
        rows = first[split]["rows"]
        assert list(rows) == ["composed", "image_only", "text_only", "sum"]
        for other in (second, third):
            assert other[split]["rows"] == rows and other[split]["protocol"] == first[split]["protocol"]
            assert other[split]["seen"] == first[split]["seen"]
    told = second["val"]["embedder"]
    assert told["kind"] == "OpenCLIPEmbedder" and told["template"] == "{text}" and told["rule"] == "NormalisedSum"
    assert third["val"]["embedder"]["revision"] == told["revision"]
    ranks = [json.loads((runs / name / "id1" / "queries.json").read_text()) for name in "abc"]
    assert ranks[0] == ranks[1] == ranks[2]
    head, found = read_retrieved(path_of(runs / "b" / "id1", "val"))
    assert len(found) == len(ranks[0]["val"]["queries"]) and set(found[0].top) == {"composed", "sum"}
    assert (runs / "b" / "id1" / "recall_table.md").is_file()
    assert "OpenCLIPEmbedder" in (runs / "b" / "id1" / "config.validate.yaml").read_text()

    listed = [json.loads(line) for line in (tmp_path / "listed.jsonl").read_text().splitlines()]
    protocol = second["val"]["protocol"]
    of_val = [line for line in listed if line["kind"] == "query" and line["id"].startswith("val/")]
    assert len(of_val) == protocol["queries"] and all(Path(line["image"]).is_file() for line in listed)
    assert set(head.pictures) <= {line["id"] for line in listed if line["kind"] == "gallery"}


def test_an_evaluation_that_was_stopped_goes_on_and_asks_for_nothing_twice(runs: Path, tmp_path: Path) -> None:
    data = [*configs("base", "cirr_b32"), f"--data.root={make_cirr(tmp_path / 'cirr')}", "--name=toy"]
    Toy.asked = 0
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main(["validate", *data, TOY, "--embedder.stop=7"])
    assert Toy.asked == 7
    main(["validate", *data, TOY])
    gallery, queries, references, texts = 12, 6, 6, 3
    assert Toy.asked == gallery + queries + references + texts
    Toy.asked = 0
    main(["validate", *data, TOY])
    assert Toy.asked == 0
    image = next((tmp_path / "cirr" / "img_raw" / "dev").iterdir())
    Image.new("RGB", (9, 9), (1, 2, 3)).save(image)
    main(["validate", *data, TOY])
    assert 1 <= Toy.asked <= 3  # that image of the gallery, and queries with it


def test_a_row_of_the_store_that_was_damaged_is_embedded_again(runs: Path, tmp_path: Path) -> None:
    data = [*configs("base", "cirr_b32"), f"--data.root={make_cirr(tmp_path / 'cirr')}", "--name=toy"]
    main(["validate", *data, TOY])
    for file in (runs / "embeddings").glob("*/features.bin"):
        content = bytearray(file.read_bytes())
        content[0] ^= 255
        file.write_bytes(content)
    before, Toy.asked = entries(runs / "toy" / "id1"), 0
    main(["validate", *data, TOY])
    assert Toy.asked == 4 and entries(runs / "toy" / "id1") == before  # one of each kind


def test_rows_that_an_embedder_can_not_give_are_left_out(runs: Path, tmp_path: Path) -> None:
    data = [*configs("base", "cirr_b32"), f"--data.root={make_cirr(tmp_path / 'cirr')}"]
    main(["validate", *data, TOY, "--embedder.image_alone=false", "--name=one"])
    assert list(entries(runs / "one" / "id1")["val"]["rows"]) == ["composed", "text_only"]
    main(["validate", *data, TOY, "--unimodal=false", "--name=two"])
    assert list(entries(runs / "two" / "id1")["val"]["rows"]) == ["composed"]


def test_hidden_labels_give_submission_files(runs: Path, tmp_path: Path) -> None:
    make_cirr(tmp_path / "cirr", sets=10)
    make_circo(tmp_path / "circo", size=60)
    main(["predict", *configs("base", "cirr_b32"), f"--data.root={tmp_path / 'cirr'}", TOY, "--name=cirr"])
    files = {file.name for file in (runs / "cirr" / "id1" / "submission").iterdir()}
    assert files == {"cirr_test1_recall.json", "cirr_test1_recall_subset.json"}
    main(["predict", *configs("base", "cirr_b32", "circo"), f"--data.root={tmp_path / 'circo'}", TOY, "--name=circo"])
    written = json.loads((runs / "circo" / "id1" / "submission" / "circo_test.json").read_text())
    assert set(written) == {"0", "1", "2"} and len(written["0"]) == 50


class Backwards(Reranker):
    """Likes images that come late in the gallery."""

    name = "backwards"

    def scores(self, image: Image.Image | None, text: str, candidates: Sequence[Image.Image]) -> Tensor:
        assert image is not None and text
        return torch.arange(len(candidates), dtype=torch.float64)  # the first stage's worst is best

    def describe(self) -> dict[str, object]:
        return {"reranker": self.name}


@pytest.mark.parametrize("count", [5, 60])
def test_the_reranked_row_has_submission_files_of_its_own(count: int, runs: Path, tmp_path: Path) -> None:
    make_cirr(tmp_path / "cirr", sets=10)  # 60 images, of which a query has 59 to rank and the file 50
    second = [f"--reranking.first={count}", "--reranking.reranker=tests.commands.test_evaluate.Backwards"]
    main(["predict", *configs("base", "cirr_b32"), f"--data.root={tmp_path / 'cirr'}", TOY, *second, "--name=cirr"])
    read = {
        (folder, file): json.loads((runs / "cirr" / "id1" / folder / f"cirr_test1_{file}.json").read_text())
        for folder in ("submission", "submission_reranked")
        for file in ("recall", "recall_subset")
    }
    first, again = read["submission", "recall"], read["submission_reranked", "recall"]
    assert first.keys() == again.keys()
    for query in first.keys() - {"version", "metric"}:
        if count == 5:
            assert again[query] == first[query][:5][::-1] + first[query][5:]
        else:
            assert again[query][9:] == first[query][9:][::-1]
    of_sets = [read[folder, "recall_subset"] for folder in ("submission", "submission_reranked")]
    assert of_sets[0].keys() == of_sets[1].keys() and (count == 5 or of_sets[0] != of_sets[1])


def test_fashioniq_with_both_orders_and_its_file_give_the_same(runs: Path, tmp_path: Path) -> None:
    make_fashioniq(tmp_path / "fashioniq")
    data = [*configs("base", "cirr_b32", "fashioniq"), f"--data.root={tmp_path / 'fashioniq'}"]
    data.append("--data.query_text=BothOrders")
    main(["validate", *data, TOY, "--name=one"])
    features(["make", *data, TOY, f"--out={tmp_path / 'f'}"])
    main(["validate", *data, "--embedder=FeaturesFile", f"--embedder.file={tmp_path / 'f'}", "--name=two"])
    one, two = (entries(runs / name / "id1") for name in ("one", "two"))
    assert set(one) == {"val_dress", "val_shirt", "val_toptee", "val"}
    assert all(one[split]["rows"] == two[split]["rows"] for split in one)


def test_a_manifest_is_ranked(runs: Path, tmp_path: Path) -> None:
    make_manifest(tmp_path / "own", RECORDS)
    main(["validate", "--data=Manifest", f"--data.root={tmp_path / 'own'}", TOY, "--name=own"])
    entry = entries(runs / "own" / "id1")["val"]
    assert entry["protocol"]["benchmark"] == "manifest" and entry["seen"] == {"queries": 2, "gallery": 3}


def test_a_server_and_a_reranker_give_rows_and_their_usage_is_kept(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    data = [*configs("base", "cirr_b32"), f"--data.root={make_cirr(tmp_path / 'cirr')}", "--name=served"]
    with EmbeddingServer() as server, YesNoServer(lambda body: {"yes": -1.0, "no": -2.0}) as judge:
        flags = [
            "--embedder=ServerEmbedder", "--embedder.model=m", f"--embedder.url={server.url}",
            "--embedder.instruction=Find it.", "--reranking.first=3", "--reranking.reranker=ChatReranker",
            "--reranking.reranker.model=vlm", f"--reranking.reranker.url={judge.url}",
            f"--reranking.reranker.answers={tmp_path / 'answers.jsonl'}",
        ]  # fmt: skip
        main(["validate", *data, *flags])
        asked = len(server.asked), len(judge.asked)
        assert asked[0] == 1 + 12 + 6 + 6 + 3 and 6 <= asked[1] <= 6 * 3  # the first for the dimension
        main(["validate", *data, *flags])
        assert (len(server.asked), len(judge.asked)) == (asked[0] + 1, asked[1])
    entry = entries(runs / "served" / "id1")["val"]
    rows = entry["rows"]
    assert list(rows) == ["composed", "reranked", "image_only", "text_only", "sum"]
    assert rows["reranked"] == rows["composed"]  # every pair was judged alike
    assert entry["reranking"]["reranker"] == "vlm" and entry["embedder"]["instruction"] == "Find it."
    assert total(runs / "served" / "id1")["requests"] == sum(asked) + 1
    assert json.loads((runs / "served" / "id1" / "queries.json").read_text())["val"]["rows"]["reranked"]


def test_a_spent_budget_stops_in_good_order_and_a_larger_one_goes_on(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    data = [*configs("base", "cirr_b32"), f"--data.root={make_cirr(tmp_path / 'cirr')}", "--name=paid"]
    with EmbeddingServer() as server:
        flags = ["--embedder=ServerEmbedder", "--embedder.model=m", f"--embedder.url={server.url}"]
        flags += ["--embedder.dimension=8", "--embedder.concurrency=2"]
        for _ in range(2):
            with pytest.raises(SystemExit) as ended:
                main(["validate", *data, *flags, "--embedder.budget.requests=10"])
            assert ended.value.code == 3 and len(server.asked) == 10
            assert "the same command continues with a larger budget" in capsys.readouterr().err
        main(["validate", *data, *flags, "--embedder.budget.requests=27"])
        assert len(server.asked) == 12 + 6 + 6 + 3 and total(runs / "paid" / "id1")["requests"] == 27


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--embedder=NoSuch"], "no class 'NoSuch' here"),
        (["--embedder=FeaturesFile", "--embedder.file=none.safetensors"], "no file none.safetensors"),
        (["--embedder=OpenCLIPEmbedder"], "missing: --embedder.model"),
        ([], "missing: --embedder"),
        ([TOY, "--workers=0"], "--workers"),
    ],
)
def test_a_mistake_is_one_line(
    flags: list[str], words: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [f"--config={CONFIGS / 'cirr_b32'}.yaml", f"--data.root={make_cirr(tmp_path / 'cirr')}"]
    with pytest.raises(SystemExit) as ended:
        main(["validate", *data, *flags])
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code in (1, 2) and len(said) == 1 and words in said[0]


def test_check_lists_what_is_wrong_with_a_file(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, file = make_cirr(tmp_path / "cirr"), tmp_path / "f.safetensors"
    data = ["--benchmark", "cirr", "--root", str(root)]
    features(["make", *data, TOY, f"--out={file}"])
    with pytest.raises(SystemExit) as ended:
        features(["check", str(file), *data])
    assert ended.value.code == 0 and "no problem found: toy, 12 images, 6 queries" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        features(["check", str(file), *data, "--split=train"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "error: 4 problems" in said.err
    assert "gallery: 12 of 12 ids are missing, the first is 'train-0-0-img0'" in said.out
    assert "query: 6 ids are not of these splits, the first is 'val/1000'" in said.out

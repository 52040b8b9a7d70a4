"""What a searcher finds, compared with the formulas written out, and what it refuses."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

import contextcir
from contextcir.batch import clauses_of
from contextcir.errors import InputError, MissingFileError
from contextcir.fusion import ClauseSum, ConceptAttentionFusion, CrossAttentionFusion, Fusion, Sum
from contextcir.search.index import Where
from contextcir.search.places import describe
from contextcir.search.queries import MOST_IMAGES, MOST_TEXT, read_pictures
from contextcir.search.searcher import Query, Searcher
from contextcir.search.texts import TextReader, divided
from contextcir.training.module import ContextCIR
from tests.helpers import tiny
from tests.helpers.photos import MemoryIndex, damaged, encoded, picture, save
from tests.helpers.word_parser import WordParser

PHOTOS = 12
TEXT = "make it red and remove the dog"


def model(fusion: Callable[..., Fusion] = Sum, seed: int = 0) -> ContextCIR:
    torch.manual_seed(seed)
    return ContextCIR(tiny.backbone(seed=seed), fusion).eval()


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for number in range(PHOTOS):
        save(folder / f"{'odd/' if number % 2 else ''}{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def searcher(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    made = Searcher(model(), "tiny", texts=TextReader(WordParser()))
    made.index_folder(album, tmp_path_factory.mktemp("out") / "index")
    return made


def of(fusion: Callable[..., Fusion], searcher: Searcher) -> Searcher:
    """A searcher of another fusion in the same index: the image tower is the same."""
    return Searcher(model(fusion), "other", searcher.index, TextReader(WordParser()))


def paths(found: Any) -> list[str]:
    return [result.photo.path for result in found.results]


def image_vector(searcher: Searcher, image: Image.Image) -> Tensor:
    return searcher.model.embed_image(searcher.model.preprocess(image)[None])[0]


def composed_vector(searcher: Searcher, image: Image.Image, text: str) -> Tensor:
    (parse,) = searcher.texts.read([text])
    clauses = clauses_of([parse.clauses])
    return searcher.model.embed_query(searcher.model.preprocess(image)[None], [text], None, clauses)[0]


def text_vector(searcher: Searcher, text: str) -> Tensor:
    (parse,) = searcher.texts.read([text])
    features = searcher.model.fusion.encode_text(searcher.model.backbone, [text], clauses_of([parse.clauses]))
    return normalize(features.embedding[0], dim=0).detach()


def naive(searcher: Searcher, vector: Tensor, count: int = PHOTOS) -> list[tuple[str, float]]:
    """Rank all photos by their cosine, one by one."""
    scores = [
        (photo.path, float(normalize(vector, dim=0) @ embedding.float()))
        for photo, embedding in searcher.index.fetch(embeddings=True)
    ]
    return sorted(scores, key=lambda pair: -pair[1])[:count]


def same(found: Any, expected: list[tuple[str, float]]) -> None:
    assert paths(found) == [path for path, _ in expected]
    assert [result.score for result in found.results] == pytest.approx([score for _, score in expected], abs=2e-3)


def test_a_photo_finds_itself_and_its_embedding_is_the_model_s(searcher: Searcher, album: Path) -> None:
    found = searcher.search(album / "odd" / "3.png", k=3)
    assert paths(found)[0] == "odd/3.png" and found.results[0].score > 0.999
    assert [result.rank for result in found.results] == [1, 2, 3]
    assert searcher.folder / found.results[0].photo.path == album.resolve() / "odd/3.png"
    same(searcher.search(album / "2.png", fold=False), naive(searcher, image_vector(searcher, picture(2))))


@pytest.mark.parametrize("fusion", [Sum, ClauseSum, partial(CrossAttentionFusion, layers=1, heads=2)])
@pytest.mark.parametrize("balance", [0, 0.25, 0.5, 0.8, 1])
def test_the_balance_is_as_its_formula_says(fusion: Any, balance: float, searcher: Searcher) -> None:
    searcher, image, b = of(fusion, searcher), picture(40), balance
    i, t = image_vector(searcher, image), text_vector(searcher, TEXT)
    q = composed_vector(searcher, image, TEXT)
    vector = (1 - 2 * b) * i + 2 * b * q if b <= 0.5 else (2 - 2 * b) * q + (2 * b - 1) * t
    same(searcher.search(image, TEXT, balance=b, fold=False), naive(searcher, vector))


def test_text_alone_image_alone_and_several_images(searcher: Searcher) -> None:
    one, other = picture(41), picture(42)
    for given in ({"text": TEXT}, {"text": TEXT, "balance": 0.1}):
        same(searcher.search(**given, fold=False), naive(searcher, text_vector(searcher, TEXT)))
    same(searcher.search(one, balance=0.9, fold=False), naive(searcher, image_vector(searcher, one)))
    mean = sum(composed_vector(searcher, image, TEXT) for image in (one, other))
    same(searcher.search([one, other], TEXT, fold=False), naive(searcher, mean))
    mean = sum(image_vector(searcher, image) for image in (one, other))
    same(searcher.search([one, other], fold=False), naive(searcher, mean))


def test_unwanted_photos_are_left_out_and_moved_away_from(searcher: Searcher) -> None:
    image = picture(43)
    best = paths(searcher.search(image, fold=False))[:2]
    found = searcher.search(image, without=best, fold=False)
    away = torch.stack([embedding.float() for _, embedding in searcher.index.fetch(best, embeddings=True)]).mean(0)
    moved = 2 * image_vector(searcher, image) - away
    same(found, [pair for pair in naive(searcher, moved) if pair[0] not in best])
    assert paths(searcher.search(image, without=best[0], fold=False)) != paths(found)
    with pytest.raises(InputError, match="no photo 'none.png' in the index") as refused:
        searcher.search(image, without="none.png")
    assert refused.value.setting == "without"


def test_conditions_hold(searcher: Searcher) -> None:
    found = searcher.search(picture(44), where=Where(folder="odd"))
    assert len(found.results) == PHOTOS // 2 and all(path.startswith("odd/") for path in paths(found))
    assert not searcher.search(picture(44), where=Where(formats=("GIF",))).results
    assert not searcher.search(picture(44), where=Where(since=0)).results  # none has a date


def test_many_queries_find_what_each_finds_alone(searcher: Searcher) -> None:
    queries = [
        Query((picture(50),), TEXT, 3),
        Query((), "a blue cup", 5),
        Query((picture(51), picture(52)), "", 2, Where("odd")),
        Query((picture(50),), "a much longer text, so that the others are padded", 4, balance=0.9),
        Query((picture(53),), TEXT, 4, without=("2.png",), balance=0.2, fold=False),
        Query((picture(53),), TEXT, 4, Where("odd"), maps=True),
    ]
    for query, found in zip(queries, searcher.search_many(queries), strict=True):
        (alone,) = searcher.search_many([query])
        assert paths(found) == paths(alone) and found.text == alone.text and len(found.results) <= query.count
        assert [r.score for r in found.results] == pytest.approx([r.score for r in alone.results], abs=1e-4)
    assert searcher.search_many([]) == []


def test_near_duplicates_are_folded_and_as_many_results_remain(searcher: Searcher, tmp_path: Path) -> None:
    for number in range(4):
        for quality in range(90, 60, -1):
            (tmp_path / "a").mkdir(exist_ok=True)
            content = encoded(picture(number, (200, 160)), quality=quality)
            (tmp_path / "a" / f"{number}-{quality}.jpg").write_bytes(content)
    other = Searcher(searcher.model, "tiny", texts=searcher.texts)
    other.index_folder(tmp_path / "a", tmp_path / "index")
    found = other.search(picture(0, (200, 160)), k=3)
    assert {result.photo.path.split("-")[0] for result in found.results} <= {"0", "1", "2", "3"}
    assert len(found.results) == 3 and found.results[0].photo.path.startswith("0-")
    assert len(found.results[0].copies) == 29
    assert all(copy.path.startswith("0-") for copy in found.results[0].copies)
    assert len(other.search(picture(0), k=3, fold=False).results) == 3
    assert len(other.search(picture(0), k=50).results) == 4


def test_phrases_have_places_and_maps_that_sum_to_one(searcher: Searcher) -> None:
    for fusion in (partial(CrossAttentionFusion, layers=2, heads=2), partial(ConceptAttentionFusion, heads=2)):
        attending = of(fusion, searcher)
        found = attending.search([picture(60), picture(61)], "The  DOG &amp; a red ball", maps=True)
        assert found.text == "the dog & a red ball" and found.phrases
        for phrase in found.phrases:
            assert found.text[phrase.start : phrase.end] == phrase.text
            assert phrase.attention is not None and phrase.attention.shape == (4, 4)
            assert float(phrase.attention.sum()) == pytest.approx(1, abs=1e-5) and bool((phrase.attention >= 0).all())
        assert [phrase.start for phrase in found.phrases] == sorted(phrase.start for phrase in found.phrases)
        alone = attending.search(picture(60), "The  DOG &amp; a red ball", maps=True)  # maps are of the first image
        for one, other in zip(found.phrases, alone.phrases, strict=True):
            assert torch.allclose(one.attention, other.attention, atol=1e-4)
        for without in (attending.search(picture(60), "the dog"), attending.search(text="the dog", maps=True)):
            assert without.phrases and all(phrase.attention is None for phrase in without.phrases)
    assert all(phrase.attention is None for phrase in searcher.search(picture(60), "the dog", maps=True).phrases)


def test_phrases_beyond_what_the_model_reads_have_no_map(searcher: Searcher) -> None:
    attending = of(partial(CrossAttentionFusion, layers=1, heads=2), searcher)
    found = attending.search(picture(60), f"the dog {'and ' * 100} the cat", maps=True)
    assert [phrase.text for phrase in found.phrases] == ["the dog", "the cat"]
    assert found.phrases[0].attention is not None and found.phrases[-1].attention is None


def test_the_map_is_the_mean_attention_to_the_phrase_s_tokens(searcher: Searcher) -> None:
    attending = of(partial(CrossAttentionFusion, layers=2, heads=2), searcher)
    image, text = picture(62), "add the dog"
    (phrase,) = attending.search(image, text, maps=True).phrases
    assert phrase.text == "the dog"
    maps = attending.model.attention_maps(attending.model.preprocess(image)[None], [text])  # (L, 1, H, V, T)
    mean = maps[:, 0, :, 1:, 2:4].mean(dim=(0, 1, 3))  # (N,); a token for each word, after the start
    assert torch.allclose(phrase.attention.flatten(), mean / mean.sum(), atol=1e-5)


def test_fusions_that_read_clauses_get_them(searcher: Searcher) -> None:
    clausal = of(ClauseSum, searcher)
    image = picture(63)
    clausal.texts = TextReader(None)
    clausal.texts._plain = True  # as without spaCy
    spans = divided(TEXT)
    assert len(spans) == 2
    clauses = [text_vector(searcher, TEXT[start:end]) for start, end in spans]
    raw = [clausal.model.backbone.encode_text(tiny.tokenizer()([TEXT[a:b]])).embedding[0].detach() for a, b in spans]
    vector = image_vector(clausal, image) + clausal.model.fusion.log_scale.exp().detach() * sum(raw)
    same(clausal.search(image, TEXT, fold=False), naive(clausal, vector))
    assert len(clauses) == 2


def test_images_are_given_in_many_forms(searcher: Searcher, album: Path) -> None:
    file = album / "4.png"
    forms = [file, str(file), file.read_bytes(), Image.open(file), np.asarray(picture(4))]
    vectors = [paths(searcher.search(form, TEXT)) for form in forms]
    assert all(found == vectors[0] for found in vectors)
    grey = np.asarray(picture(4).convert("L"))
    assert read_pictures(grey)[0].mode == "RGB" and len(read_pictures(forms)) == 5 and read_pictures(None) == ()


def test_a_photo_is_turned_before_it_is_encoded(searcher: Searcher) -> None:
    shown = picture(64, (64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(shown.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    for form in (turned, Image.open(__import__("io").BytesIO(turned))):
        assert paths(searcher.search(form, fold=False)) == paths(searcher.search(shown, fold=False))


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "neither", "text"),
    ({"text": " \n"}, "neither", "text"),
    ({"text": "x" * (MOST_TEXT + 1)}, "characters", "text"),
    ({"text": 3}, "expected a text", "text"),
    ({"text": "x", "k": 0}, "whole number", "k"),
    ({"text": "x", "k": 10**9}, "whole number", "k"),
    ({"text": "x", "k": True}, "whole number", "k"),
    ({"text": "x", "balance": float("nan")}, "number from 0 to 1", "balance"),
    ({"text": "x", "balance": 1.5}, "number from 0 to 1", "balance"),
    ({"image": np.zeros((2, 2, 4), np.uint8)}, "array", "image"),
    ({"image": np.zeros((0, 2, 3), np.uint8)}, "array", "image"),
    ({"image": np.zeros((2, 2, 3))}, "array", "image"),
    ({"image": b"no image"}, "damaged or no image", ""),
    ({"image": 3}, "expected a file", "image"),
    ({"image": "none.jpg"}, "no file none.jpg", "image"),
    ({"image": [picture(1)] * (MOST_IMAGES + 1)}, "at most", "image"),
]


@pytest.mark.parametrize(("given", "words", "setting"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_what_can_not_be_searched_with_is_refused(
    given: dict[str, Any], words: str, setting: str, searcher: Searcher
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        searcher.search(**given)
    assert (refused.value.setting or "") == setting and "\n" not in str(refused.value)


def test_damaged_images_are_refused_in_one_line(searcher: Searcher, tmp_path: Path) -> None:
    for name in damaged(tmp_path):
        with pytest.raises(InputError) as refused:
            searcher.search(tmp_path / name)
        assert name in str(refused.value) and "\n" not in str(refused.value)


def test_another_model_is_refused_with_the_command_that_indexes_anew(searcher: Searcher, album: Path) -> None:
    with pytest.raises(InputError) as refused:
        Searcher(model(seed=1), "/models/b.ckpt", searcher.index)
    line = str(refused.value)
    assert "made with another model (tiny)" in line and len(line) < 400 and "\n" not in line
    command = line[line.index("python -m experiments.search index ") :]
    assert f"{album.resolve()} --model /models/b.ckpt --out " in command and command.split()[-1] != ""
    with pytest.raises(InputError, match="another model"):  # nor are its photos mixed in
        Searcher(model(seed=1), "b").index_folder(album, searcher.index.folder)
    about = describe(model(), "x")
    for field in ("format", "preprocess", "reading"):
        with pytest.raises(InputError, match="another model"):
            Searcher(model(), "x", MemoryIndex({**about, field: "other"}))


def test_other_fusions_and_text_towers_may_search_what_the_image_tower_made(searcher: Searcher) -> None:
    other = model(CrossAttentionFusion)
    with torch.no_grad():
        other.backbone.clip.transformer.resblocks[0].ln_1.bias += 1
    assert paths(Searcher(other, "other", searcher.index).search(picture(5)))[0] == "odd/5.png"


def test_an_index_is_of_one_folder(searcher: Searcher, tmp_path: Path) -> None:
    save(tmp_path / "other" / "a.png", 1)
    with pytest.raises(InputError, match="is of the photos in"):
        searcher.index_folder(tmp_path / "other", searcher.index.folder)
    with pytest.raises(MissingFileError, match="no folder"):
        searcher.index_folder(tmp_path / "none", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    with pytest.raises(InputError, match="other files than an index"):
        searcher.index_folder(tmp_path / "other", tmp_path / "other")


def test_an_index_among_the_photos_is_not_indexed(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 1)
    made = Searcher(model(), "tiny")
    made.index_folder(tmp_path, tmp_path / "photos.index")
    save(tmp_path / "photos.index" / "b.png", 2)
    report = made.index_folder(tmp_path, tmp_path / "photos.index")
    assert (report.unchanged, report.new) == (1, 0)


def test_a_model_without_text_projection_needs_an_image(searcher: Searcher) -> None:
    published = model()
    with torch.no_grad():
        published.backbone.clip.text_projection.zero_()
    made = Searcher(published, "tiny", searcher.index)
    with pytest.raises(InputError, match="give an image as well"):
        made.search(text="a dog")
    with pytest.raises(InputError, match="a balance of at most"):
        made.search(picture(1), "a dog", balance=0.7)
    with pytest.raises(InputError, match="zero or not finite"):  # the sum of both is the image alone, as t is zero
        made._composer.compose([Query((), "x")], made.texts.read(["x"]))
    assert made.search(picture(1)).results


def test_a_long_text_is_cut_as_elsewhere(searcher: Searcher) -> None:
    long = "a red dog on a green hill " * 100
    cut = long[: len("a red dog on a green hill ") * 40]
    assert paths(searcher.search(text=long, fold=False)) == paths(searcher.search(text=cut, fold=False))


def test_threads_share_a_searcher(searcher: Searcher) -> None:
    queries = [Query((picture(70 + number),), f"text {number}", 4) for number in range(6)]
    expected = [paths(found) for found in searcher.search_many(queries)]
    found: dict[int, list[list[str]]] = {}

    def work(thread: int) -> None:
        found[thread] = [paths(searcher.search_many([query])[0]) for query in queries]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == expected for number in range(4))


def test_an_index_names_its_model(
    album: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip_folder.parent)
    made = Searcher.load(clip_folder.name, device="cpu")
    report = made.index_folder(album, tmp_path / "index", workers=0)
    assert report.new == PHOTOS and made.index.count() == PHOTOS
    monkeypatch.chdir("/")
    again = contextcir.Searcher.load(index=tmp_path / "index")
    assert again.about["model"] == str(clip_folder.resolve())
    assert paths(again.search(album / "4.png", TEXT)) == paths(made.search(album / "4.png", TEXT))
    with pytest.raises(InputError, match="expected a model"):
        Searcher.load()
    with pytest.raises(InputError, match="make one with `index_folder`"):
        Searcher.load(clip_folder).search(text="a")
    with pytest.raises(MissingFileError, match="experiments.search index"):
        Searcher.load(clip_folder, tmp_path / "none")
    for device in ("cuda:99", "nonsense"):
        with pytest.raises(InputError, match="can't use"):
            Searcher.load(clip_folder, device=device)


def test_a_query_is_a_value() -> None:
    query = Query((), "a dog")
    assert replace(query, count=3) == Query(text="a dog", count=3)

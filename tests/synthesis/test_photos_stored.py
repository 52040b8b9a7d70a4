"""Images in shards and stores: the same names, pixels, pairs and triplets as from a folder, and stores that fail."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest

from contextcir.errors import InputError
from contextcir.shards import places
from contextcir.shards.index import ShardIndex
from contextcir.shards.places import StoredFile, StoreError
from contextcir.shards.tar import Tar
from contextcir.synthesis.describe import DescribeReference
from contextcir.synthesis.mining import MinedPairs, SameFile
from contextcir.synthesis.mining.selection import Band
from contextcir.synthesis.mining.store import EmbeddingStore, Loading
from contextcir.synthesis.models.chat import ImageLimits
from contextcir.synthesis.outputs.exports import CIRRRewritten, ExportStage
from contextcir.synthesis.outputs.write import turned
from contextcir.synthesis.pairs import PairFile, PairStage
from contextcir.synthesis.photos import FolderPhotos, StorePhotos, TarPhotos, photos_of
from contextcir.synthesis.request_stage import run_requests
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import read_stage
from experiments.synthesize import main
from tests.helpers.asking import endpoint
from tests.helpers.mining_cases import PixelEncoder, draw_photos
from tests.helpers.model_server import ModelServer
from tests.helpers.photo_shards import BUCKET, KINDS, photos_of_kind, write_shards
from tests.helpers.synthesis_flags import CONFIG
from tests.helpers.synthesis_model import write_pairs

NAMES = [f"kind{kind}/{number}.png" for kind in range(3) for number in range(4)]
PAIRS = [(f"kind{kind}/{one}.png", f"kind{kind}/{other}.png") for kind in range(3) for one, other in ((0, 1), (2, 3))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return draw_photos(tmp_path / "photos", kinds=3, each=4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_are_found_under_the_same_names(kind: str, folder: Path, tmp_path: Path) -> None:
    with photos_of_kind(kind, folder, tmp_path / "shards") as photos:
        photos.begin(tmp_path / "out")
        assert photos.listing().images == FolderPhotos(folder).listing().images == NAMES
        for name in NAMES:
            assert ImageLimits().data_url(photos.image(name)) == ImageLimits().data_url(folder / name)
            assert photos.state(name) == photos.state(name) is not None
        assert photos.state("kind0/9.png") is None
        with pytest.raises(InputError):
            ImageLimits().data_url(photos.image("kind0/9.png"))
        with pytest.raises(InputError):
            photos.image("../kind0/0.png")


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_mined_as_from_a_folder(kind: str, folder: Path, tmp_path: Path) -> None:
    def mined(photos: object, work: str) -> list[tuple[str, str, float | None]]:
        settings = {
            "encoder": PixelEncoder(),
            "loading": Loading(4, 0, 5),
            "duplicates": SameFile(),
            "band": Band(0.1, 1),
        }
        source = MinedPairs(**settings, neighbours=5).within(photos, tmp_path / work)
        return [(pair.reference, pair.target, pair.similarity) for pair in source.pairs()]

    with photos_of_kind(kind, folder, tmp_path / "shards") as photos:
        found = mined(photos, "stored")
    assert found == mined(folder, "folder") and len(found) > 5


def test_workers_read_from_shards(folder: Path, tmp_path: Path) -> None:
    with photos_of_kind("tar in a store", folder, tmp_path / "shards") as photos:
        photos.begin(tmp_path)
        vectors = []
        for work, images, workers in (("one", photos, 2), ("other", folder, 0)):
            store = EmbeddingStore(tmp_path / work, images, PixelEncoder(), Loading(4, workers, 5))
            store.embed()
            store.assemble()
            vectors.append(np.load(tmp_path / work / "vectors.npy"))
    assert (vectors[0] == vectors[1]).all() and len(vectors[0]) == len(NAMES)


def test_a_synthesis_of_shards_writes_the_triplets_of_a_folder(folder: Path, tmp_path: Path) -> None:
    shards = write_shards(folder, tmp_path / "shards")
    (tmp_path / "s.yaml").write_text(CONFIG.replace("images: photos\n", ""))
    write_pairs(tmp_path / "pairs.json", PAIRS)
    given = [f"--config={tmp_path}/s.yaml", f"--pairs.file={tmp_path}/pairs.json"]
    main([*given, f"--images={folder}", f"--out={tmp_path}/a"])
    main([*given, "--images=TarPhotos", f"--images.shards={shards}/*.tar", f"--out={tmp_path}/b"])
    lines = [(tmp_path / out / "manifest" / "train.jsonl").read_text() for out in "ab"]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) > 5
    page = (tmp_path / "b" / "manifest" / "samples.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 2 * page.count("<article")
    for out in "ab":
        (tmp_path / out / "manifest" / "train.jsonl").write_text(json.dumps({"reference": NAMES[0], "target": "x"}))
    made = TarPhotos(f"{shards}/*.tar")
    made.begin(tmp_path / "b")
    assert turned(tmp_path / "a", folder) == turned(tmp_path / "b", made) == 0
    with pytest.raises(InputError, match="an export links to image files"):
        ExportStage(CIRRRewritten(), made)


def test_a_store_that_is_gone_stops_the_run_and_fails_no_image(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setattr(places, "FIRST", 0.0)
    run = Run(tmp_path / "out")
    PairStage(PairFile(write_pairs(tmp_path / "pairs.json", [(name, "t.png") for name in NAMES]))).run(run)
    read, left = StoredFile.read_all, 5

    def fails(self: StoredFile, most: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoreError("memory://bucket can't be read after 4 attempts")
        return read(self, most)

    with photos_of_kind("store", folder, tmp_path / "shards") as photos, ModelServer() as server:
        task = DescribeReference(photos)  # type: ignore[arg-type]
        server.answer = lambda body: {"objects": [{"object": "ball", "descriptors": ["red"]}]}
        monkeypatch.setattr(StoredFile, "read_all", fails)
        with pytest.raises(StoreError, match="can't be read after"):
            run_requests(run, task, endpoint(server.url, concurrency=2))
        kept = len(list(read_stage(run.folder, task.name)))
        assert kept == 5 and not list(read_stage(run.folder, f"{task.name}-failures"))
        monkeypatch.setattr(StoredFile, "read_all", read)
        assert run_requests(run, task, endpoint(server.url, concurrency=2)).done == len(NAMES) - kept
        assert len(server.asked) == len(NAMES)


class SlowTar(Tar):
    """Takes a moment for each shard, and notes it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def members(self, file):
        with open(self.log, "ab", buffering=0) as log:
            log.write(b"listed\n")
        time.sleep(0.05)
        return super().members(file)


def test_a_list_that_is_killed_again_and_again_is_whole_in_the_end(folder: Path, tmp_path: Path) -> None:
    whole = write_shards(folder, tmp_path / "shards") / "kind0.tar"
    for number in range(40):
        (tmp_path / "shards" / f"more{number}.tar").write_bytes(whole.read_bytes())
    files = [StoredFile(str(path)) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    log, work, kills = tmp_path / "log", tmp_path / "list", 10
    log.touch()
    for seed in range(kills):
        index = ShardIndex(work, files, SlowTar(log))
        process = multiprocessing.get_context("fork").Process(target=index.prepare)
        process.start()
        time.sleep(0.05 + random.Random(seed).random() * 0.1)
        process.kill()
        process.join()
    index = ShardIndex(work, files, SlowTar(log))
    index.prepare()
    assert len(index) == sum(1 for _ in index.names()) == 4 * len(files)
    for name in ("kind2/3.png", "more39/0.png"):
        source = name if name.startswith("kind2") else "kind0/0.png"
        found = index.find(name)
        assert found is not None and found[0].read(*found[1:]) == (folder / source).read_bytes()
    assert len(log.read_bytes().splitlines()) <= len(files) + 8 * kills  # eight at once may be lost with each kill


@pytest.mark.parametrize("address", ["s3://bucket/photos", "memory://b"])
def test_an_address_in_the_place_of_a_folder_is_told(address: str) -> None:
    with pytest.raises(InputError, match="give class_path: StorePhotos"):
        photos_of(Path(address))
    with pytest.raises(InputError, match="expected an address"):
        StorePhotos("/photos")
    with pytest.raises(InputError, match="got none"):
        TarPhotos([])
    assert StorePhotos(BUCKET + "/").address == BUCKET

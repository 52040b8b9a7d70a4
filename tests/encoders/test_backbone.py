import json

import pytest
import torch
from PIL import Image

from contextcir.encoders.backbone import OpenCLIPBackbone, Widths
from contextcir.encoders.pretrained import check_pretrained
from tests.helpers import tiny

CAPTIONS = ["the dog lies on a red sofa", "", "zoom out", "more zebras and a long tail of further words"]


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def trained(backbone: OpenCLIPBackbone) -> set[str]:
    return {name.removeprefix("clip.") for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("custom_text", [False, True])
def test_text_cut_to_the_batch_gives_what_the_full_context_gives(custom_text):
    backbone = tiny.backbone(custom_text)
    short = backbone.tokenizer(CAPTIONS)
    full_ids = torch.nn.functional.pad(short.ids, (0, 77 - short.ids.shape[1]))
    full = backbone.clip.forward_intermediates(
        text=full_ids, text_indices=1, text_output_fmt="NLC", normalize=False, normalize_intermediates=True
    )
    features = backbone.encode_text(short)
    assert features.tokens.shape == (4, short.ids.shape[1], 32)
    cut = full["text_intermediates"][0][:, : short.ids.shape[1]]
    torch.testing.assert_close(features.tokens[short.valid], cut[short.valid], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.embedding, full["text_features"], rtol=1e-5, atol=1e-6)
    assert torch.equal(features.valid, short.valid)


def test_other_captions_in_the_batch_change_nothing():
    backbone = tiny.backbone()
    together = backbone.encode_text(backbone.tokenizer(CAPTIONS))
    for row, caption in enumerate(CAPTIONS):
        alone = backbone.encode_text(backbone.tokenizer([caption]))
        length = alone.tokens.shape[1]
        torch.testing.assert_close(together.tokens[row, :length], alone.tokens[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.embedding[row], alone.embedding[0], rtol=1e-5, atol=1e-6)


def test_a_caption_longer_than_the_context_is_read_to_the_cut():
    backbone = tiny.backbone()
    words = "red " * 100
    features = backbone.encode_text(backbone.tokenizer([words]))
    assert features.tokens.shape == (1, 77, 32)
    expected = backbone.encode_text(backbone.tokenizer(["red " * 75]))
    torch.testing.assert_close(features.embedding, expected.embedding)


def test_no_captions_are_encoded_to_nothing():
    backbone = tiny.backbone()
    features = backbone.encode_text(backbone.tokenizer([]))
    assert features.tokens.shape == (0, 2, 32) and features.embedding.shape == (0, 32)


def test_both_classes_of_open_clip_give_the_same():
    plain, custom = tiny.backbone(), tiny.backbone(custom_text=True)
    tokens = plain.tokenizer(CAPTIONS)
    torch.testing.assert_close(plain.encode_text(tokens), custom.encode_text(tokens))
    torch.testing.assert_close(plain.encode_image(images()), custom.encode_image(images()))


def test_image_tokens_are_class_then_patches_before_the_final_norm():
    backbone = tiny.backbone()
    features = backbone.encode_image(images())
    visual = backbone.clip.visual
    assert features.tokens.shape == (2, 17, 64) and backbone.grid == (4, 4)
    torch.testing.assert_close(visual.ln_post(features.tokens[:, 0]) @ visual.proj, features.embedding)
    torch.testing.assert_close(features.embedding, backbone.clip.encode_image(images(), normalize=False))
    changed = images()
    changed[:, :, 24:, 24:] += 3.0  # the last patch of the last row
    with torch.no_grad():  # without attention the only token that sees the change is the last one
        for block in visual.transformer.resblocks:
            block.attn.out_proj.weight.zero_()
            block.attn.out_proj.bias.zero_()
        moved = (backbone.encode_image(changed).tokens - backbone.encode_image(images()).tokens).abs().amax(dim=(0, 2))
    assert moved.nonzero().flatten().tolist() == [16]


def test_autocast_leaves_one_type():
    backbone = tiny.backbone()
    with torch.autocast("cpu", torch.bfloat16):
        image, text = backbone.encode_image(images()), backbone.encode_text(backbone.tokenizer(CAPTIONS))
    types = {x.dtype for x in (image.tokens, image.embedding, text.tokens, text.embedding)}
    assert types == {torch.float32}


def gradients(backbone: OpenCLIPBackbone) -> dict[str, torch.Tensor]:
    pixels = images().to(next(backbone.parameters()).dtype)
    image, text = backbone.encode_image(pixels), backbone.encode_text(backbone.tokenizer(CAPTIONS))
    (image.tokens.pow(2).sum() + image.embedding.sum() + (text.tokens.pow(3).sum() + text.embedding.sum())).backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    folder = f"local-dir:{tiny.clip_folder(tmp_path)}"
    plain = gradients(OpenCLIPBackbone(folder).double())  # the two use different kernels, which round differently
    saving = OpenCLIPBackbone(folder, gradient_checkpointing=True).double()
    assert saving.clip.visual.transformer.grad_checkpointing and saving.clip.transformer.grad_checkpointing
    saved = gradients(saving)
    assert plain.keys() == saved.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], saved[name], rtol=1e-8, atol=1e-8)


def test_the_fused_kernel_is_not_used_on_a_cpu():
    backbone = tiny.backbone()
    seen = []
    blocks = (backbone.clip.visual.transformer.resblocks[0], backbone.clip.transformer.resblocks[0])
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled()))
    backbone.encode_image(images())
    backbone.encode_text(backbone.tokenizer(["a dog"]))
    assert seen == [False, False]


def test_by_default_everything_trains_but_the_unused_scale():
    backbone = tiny.backbone()
    names = {name for name, _ in backbone.clip.named_parameters()}
    assert trained(backbone) == names - {"logit_scale"}
    assert gradients(backbone).keys() == {f"clip.{name}" for name in trained(backbone)}


def test_frozen_towers_record_no_graph(tmp_path):
    folder = f"local-dir:{tiny.clip_folder(tmp_path)}"
    for image_blocks, text_blocks in ((0, None), (None, 0), (0, 0)):
        backbone = OpenCLIPBackbone(folder, None, image_blocks, text_blocks)
        image, text = backbone.encode_image(images()), backbone.encode_text(backbone.tokenizer(CAPTIONS))
        assert image.tokens.requires_grad == image.embedding.requires_grad == (image_blocks is None)
        assert text.tokens.requires_grad == text.embedding.requires_grad == (text_blocks is None)
        assert any(name.startswith("visual.") for name in trained(backbone)) == (image_blocks is None)
        assert any(not name.startswith("visual.") for name in trained(backbone)) == (text_blocks is None)


def test_the_last_blocks_train_with_norm_and_projection(tmp_path):
    backbone = OpenCLIPBackbone(f"local-dir:{tiny.clip_folder(tmp_path)}", None, 1, 2)
    assert {name.rsplit(".", 1)[0] if "ln_" in name else name for name in trained(backbone) if "block" not in name} == {
        "visual.ln_post", "visual.proj", "ln_final", "text_projection"
    }  # fmt: skip
    blocks = {name[: name.index("resblocks.") + 11] for name in trained(backbone) if "resblocks." in name}
    assert blocks == {"visual.transformer.resblocks.1", "transformer.resblocks.0", "transformer.resblocks.1"}


def test_no_gradient_mode_is_respected():
    backbone = tiny.backbone()
    with torch.no_grad():
        assert not backbone.encode_image(images()).tokens.requires_grad
        assert not backbone.encode_text(backbone.tokenizer(CAPTIONS)).tokens.requires_grad


@pytest.mark.parametrize("blocks", [-1, 3])
def test_freezing_more_blocks_than_there_are_is_an_error(tmp_path, blocks):
    with pytest.raises(ValueError, match=rf"trainable_text_blocks is {blocks}, but the tower has 2"):
        OpenCLIPBackbone(f"local-dir:{tiny.clip_folder(tmp_path)}", trainable_text_blocks=blocks)


def test_the_text_projection_can_be_frozen_alone():
    backbone = tiny.backbone()
    before = trained(backbone)
    backbone.freeze_text_projection()
    assert before - trained(backbone) == {"text_projection"}


def test_a_folder_gives_weights_and_preprocessing(tmp_path):
    folder = tiny.clip_folder(tmp_path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    backbone = OpenCLIPBackbone(f"local-dir:{folder}")
    assert backbone.widths == Widths(64, 32, 32) and backbone.image_size == 32
    torch.testing.assert_close(backbone.encode_image(images()), tiny.backbone().encode_image(images()))
    white = backbone.preprocess(Image.new("RGB", (60, 40), "white"))
    torch.testing.assert_close(white, torch.full((3, 32, 32), 2.0))


def test_another_image_size_gives_another_grid(tmp_path):
    backbone = OpenCLIPBackbone(f"local-dir:{tiny.clip_folder(tmp_path)}", image_size=48)
    assert backbone.grid == (6, 6) and backbone.image_size == 48
    assert backbone.encode_image(images(size=48)).tokens.shape == (2, 37, 64)
    assert backbone.preprocess(Image.new("RGB", (60, 40))).shape == (3, 48, 48)


@pytest.mark.parametrize(
    ("model", "widths", "patches"),
    [
        ("ViT-B-32", (768, 512, 512), 49),
        ("ViT-B-16", (768, 512, 512), 196),
        ("ViT-L-14", (1024, 768, 768), 256),
        ("ViT-H-14", (1280, 1024, 1024), 256),
        ("ViT-bigG-14", (1664, 1280, 1280), 256),
    ],
)
def test_published_models_build_with_their_widths_and_tokens(model, widths, patches):
    with torch.device("meta"):
        backbone = OpenCLIPBackbone(model, "random")
        image = backbone.encode_image(torch.empty(2, 3, 224, 224))
        text = backbone.encode_text(backbone.tokenizer(["a dog", "a red dog"]))
    assert backbone.widths == widths and backbone.grid[0] * backbone.grid[1] == patches
    assert image.tokens.shape == (2, 1 + patches, widths[0]) and image.embedding.shape == (2, widths[2])
    assert text.tokens.shape == (2, 5, widths[1]) and text.embedding.shape == (2, widths[2])


@pytest.mark.parametrize(
    ("model", "tag", "needed"),
    [("ViT-L-14", "openai", "ViT-L-14-quickgelu"), ("ViT-B-32", "metaclip_400m", "ViT-B-32-quickgelu")],
)
def test_weights_of_another_activation_are_refused(model, tag, needed):
    with pytest.raises(ValueError, match=rf"{tag}.*QuickGELU.*: use the model {needed} \(model\.backbone\.model\)"):
        OpenCLIPBackbone(model, tag)


def test_weights_of_the_right_activation_pass():
    check_pretrained("ViT-L-14-quickgelu", "openai")
    check_pretrained("ViT-H-14", "laion2b_s32b_b79k")


def test_wrong_names_are_refused_with_close_matches():
    with pytest.raises(ValueError, match="'laion2b_s34b'.*laion2b_s34b_b79k"):
        OpenCLIPBackbone("ViT-B-32", "laion2b_s34b")
    with pytest.raises(ValueError, match="'ViT-B-33'.*ViT-B-32"):
        OpenCLIPBackbone("ViT-B-33")
    with pytest.raises(FileNotFoundError, match="nowhere/open_clip_config.json"):
        OpenCLIPBackbone("local-dir:nowhere")


def test_weights_that_do_not_fit_are_refused_in_one_line(tmp_path):
    folder = tiny.clip_folder(tmp_path)
    with torch.device("meta"), pytest.raises(ValueError) as caught:
        OpenCLIPBackbone("ViT-B-32", str(folder / "open_clip_model.safetensors"))
    assert "open_clip_model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_without_weights_is_refused(tmp_path):
    folder = tiny.clip_folder(tmp_path)
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot load the weights"):
        OpenCLIPBackbone(f"local-dir:{folder}")


@pytest.mark.parametrize("model", ["RN50", "coca_ViT-B-32"])
def test_other_kinds_of_towers_are_refused(model):
    with torch.device("meta"), pytest.raises(ValueError, match=f"model '{model}' can't be used: its image tower"):
        OpenCLIPBackbone(model, "random")


@pytest.mark.parametrize("lengths", [range(1, 30), [3] * 9, [60, *[1] * 20]])
def test_many_texts_are_encoded_as_one_by_one_whatever_their_lengths(lengths):
    backbone = tiny.backbone().double().eval()
    texts = ["dog " * length for length in lengths]
    together = backbone.encode_text(tiny.tokenizer()(texts))
    assert together.tokens.shape == (*together.valid.shape, 32)
    for row, text in enumerate(texts):
        alone = backbone.encode_text(tiny.tokenizer()([text]))
        torch.testing.assert_close(together.tokens[row][together.valid[row]], alone.tokens[0])
        torch.testing.assert_close(together.embedding[row], alone.embedding[0])

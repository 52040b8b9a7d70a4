"""Models of a few thousand random weights in the files of sentence-transformers, made without a network."""

from pathlib import Path

from tests.helpers.tiny_llava import write_llava

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def write_whole(folder: Path) -> None:
    """Write a model that reads image and text at once, as Qwen3-VL-Embedding does: a LLaVA, of whom the last token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    write_llava(folder / "llava")
    modules = [Transformer(str(folder / "llava")), Pooling(16, pooling_mode="lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "whole"))


def write_towers(folder: Path) -> None:
    """Write a model of two towers, as BGE-VL-base is: a CLIP."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_only = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    config = CLIPConfig(
        text_config={
            **SMALL, "vocab_size": len(words), "max_position_embeddings": 64,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)

import math

import pytest
import torch

from contextcir.errors import InputError
from contextcir.fusion import ConceptComposer
from contextcir.fusion.cross_attention import CrossAttentionFusion
from contextcir.losses.contrastive import LearnedTemperatureInfoNCE
from contextcir.training.optim import AdamWWarmupCosine, AdamWWarmupRestarts
from tests.helpers import tiny


def build(backbone=None, total_steps=10, **settings):
    backbone = backbone or tiny.backbone()
    fusion, loss = CrossAttentionFusion(backbone.widths), LearnedTemperatureInfoNCE()
    optimizer, scheduler = AdamWWarmupCosine(**settings)(backbone, [fusion, loss], total_steps)
    names = {id(p): name for part in (backbone, fusion, loss) for name, p in part.named_parameters()}
    groups = {group["name"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
    trained = [name for part in (backbone, fusion, loss) for name, p in part.named_parameters() if p.requires_grad]
    return optimizer, scheduler, groups, trained


def test_every_trainable_parameter_is_in_exactly_one_group():
    backbone = tiny.backbone()
    for parameter in backbone.clip.visual.parameters():
        parameter.requires_grad_(False)
    optimizer, _, groups, trained = build(backbone)
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == len(trained)
    assert sorted(name for names in groups.values() for name in names) == sorted(trained)
    assert not any("visual" in name or "logit_scale" in name for names in groups.values() for name in names)


def test_norms_biases_embeddings_queries_and_temperature_are_not_decayed():
    optimizer, _, groups, _ = build(weight_decay=0.3)
    assert {group["name"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "backbone": 0.3, "backbone_no_decay": 0.0, "head": 0.3, "head_no_decay": 0.0
    }  # fmt: skip
    for name in groups["backbone"] | groups["head"]:
        assert name.endswith(("weight", "proj", "text_projection"))
        assert "norm" not in name and "ln_" not in name and "embedding" not in name
    assert groups["backbone_no_decay"] >= {
        "clip.token_embedding.weight",
        "clip.positional_embedding",
        "clip.visual.positional_embedding",
        "clip.visual.class_embedding",
        "clip.visual.ln_pre.weight",
        "clip.transformer.resblocks.0.attn.in_proj_bias",
    }
    assert groups["head_no_decay"] >= {"pool.query", "log_temperature", "pool.norm.weight", "projection.bias"}
    assert "clip.visual.conv1.weight" in groups["backbone"] and "projection.weight" in groups["head"]


def test_embeddings_of_the_other_text_class_are_not_decayed_either():
    _, _, groups, _ = build(tiny.backbone(custom_text=True))
    assert groups["backbone_no_decay"] >= {"clip.text.token_embedding.weight", "clip.text.positional_embedding"}


def test_rates_rise_linearly_and_fall_along_a_cosine():
    optimizer, scheduler, _, _ = build(total_steps=12, lr=2.0, backbone_lr=0.5, warmup_steps=4, final_lr_scale=0.1)
    rates = {"backbone": [], "head": []}
    for _ in range(13):
        for group in optimizer.param_groups:
            if group["name"] in rates:
                rates[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    expected = [0.25, 0.5, 0.75, 1.0] + [0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]
    assert rates["head"] == pytest.approx([2.0 * x for x in expected])
    assert rates["backbone"] == pytest.approx([0.5 * x for x in expected])


def test_restarts_follow_torchs_own_schedule():
    parameter = torch.nn.Parameter(torch.zeros(()))
    oracle_optimizer = torch.optim.SGD([parameter], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(oracle_optimizer, T_0=4, T_mult=2)
    expected = [1 / 3, 2 / 3, 1.0]
    for _ in range(20):
        expected.append(oracle_optimizer.param_groups[0]["lr"])
        oracle_optimizer.step()
        oracle.step()
    schedule = AdamWWarmupRestarts(warmup_steps=3, cycle_steps=4)
    assert [schedule.scale(step, 1000) for step in range(23)] == pytest.approx(expected)


def test_a_cycle_without_length_is_refused():
    with pytest.raises(ValueError, match=r"\(model\.optimizer\.cycle_steps\)$"):
        AdamWWarmupRestarts(cycle_steps=0)


def test_a_run_shorter_than_the_warm_up_still_rises():
    scale = AdamWWarmupCosine(warmup_steps=100).scale
    assert [scale(step, 3) for step in range(3)] == pytest.approx([0.01, 0.02, 0.03])


def test_no_warm_up_starts_at_full_rate():
    assert AdamWWarmupCosine(warmup_steps=0).scale(0, 5) == 1.0


def test_settings_reach_the_optimizer():
    optimizer, _, _, _ = build(betas=(0.8, 0.9), eps=1e-6)
    assert optimizer.defaults["betas"] == (0.8, 0.9) and optimizer.defaults["eps"] == 1e-6


@pytest.mark.parametrize("steps", [0, -1, math.inf])
def test_an_unknown_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=r"\(trainer\.max_steps\)$"):
        build(total_steps=steps)


def test_training_nothing_is_refused():
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        AdamWWarmupCosine()(frozen, frozen, 5)


def composer(**settings):
    backbone = tiny.backbone()
    fusion = ConceptComposer(backbone.widths)
    optimizer, _ = AdamWWarmupCosine(warmup_steps=0, **settings)(backbone, [fusion], 10)
    names = {id(p): name for part in (backbone, fusion) for name, p in part.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    return groups, {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}


def test_groups_that_modules_name_have_rates_of_their_own():
    groups, names = composer(lr=2.0e-3, backbone_lr=1e-4, rates={"scales": 0.01, "text_tower": 1e-3})
    assert {name: group["initial_lr"] for name, group in groups.items()} == {
        "scales_no_decay": 0.01, "text_tower": 1e-3, "text_tower_no_decay": 1e-3, "backbone": 1e-4,
        "backbone_no_decay": 1e-4, "head": 2.0e-3, "head_no_decay": 2.0e-3,
    }  # fmt: skip
    assert names["scales_no_decay"] == {"log_scale"} and groups["scales_no_decay"]["weight_decay"] == 0
    assert all(".visual." in name for name in names["backbone"] | names["backbone_no_decay"])
    assert not any(".visual." in name for name in names["text_tower"] | names["text_tower_no_decay"])
    every = [name for group in names.values() for name in group]
    assert len(every) == len(set(every))


def test_a_group_that_no_module_names_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match="'scale'; there are image_tower, scales, text_tower"):
        composer(rates={"scale": 0.01})

"""The CLIP score, on a small model of CLIP's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from immiscible.errors import InputError
from immiscible.evaluation.clip import load_clip
from immiscible.io.png import to_uint8
from immiscible.tasks.stable_diffusion.quiet import quiet
from immiscible.tasks.stable_diffusion.tiny_parts import make_tokenizer

PROMPTS = ["a red square", "a blue circle", "nothing"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP for images of 16 x 16 pixels."""
    with quiet():
        from transformers import CLIPConfig, CLIPModel, CLIPProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        torch.manual_seed(0)
        tokenizer = make_tokenizer(PROMPTS)
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 24,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = {**sizes, "image_size": 16, "patch_size": 8}
        out = tmp_path_factory.mktemp("clip")
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(out)
        processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        CLIPProcessor(processor, tokenizer).save_pretrained(out)
    return out


def test_score_is_a_hundred_times_the_cosine(model: Path) -> None:
    clip = load_clip(str(model))
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    inputs: Any = clip.processor(images=list(to_uint8(images)), text=PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        found = clip.model(**inputs)
    cosines = F.cosine_similarity(found.image_embeds, found.text_embeds)
    assert clip(images, PROMPTS) == pytest.approx(max(0.0, 100 * cosines.mean().item()), abs=1e-3)
    assert clip.name == str(model)


def test_model_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--clip must be a folder with a CLIP model"):
        load_clip(str(tmp_path))

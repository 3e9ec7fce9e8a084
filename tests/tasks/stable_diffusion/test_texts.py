"""What becomes a caption, and what is told about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.tasks.stable_diffusion.components import load_components
from immiscible.tasks.stable_diffusion.texts import PooledCaptions, captions_of, tell_cut, tokenize


def labelled(*names: str, **more: object) -> Images:
    return Images("pets", torch.zeros(len(names), 1, 2, 2), torch.arange(len(names)), names, **more)  # pyright: ignore


def test_the_name_of_a_class_is_a_caption() -> None:
    assert captions_of(labelled("cat", "dog"), "a {}") == ("a cat", "a dog")
    assert captions_of(labelled("images", "dog"), "a {}") == ("a images", "a dog")


@pytest.mark.parametrize("name", ["images", "IMG", "data"])
def test_the_name_of_the_only_folder_of_images_is_none(name: str) -> None:
    with pytest.raises(InputError, match=rf"all images in the folder {name}, whose name would be the caption of each"):
        captions_of(labelled(name), "{}")


def test_metadata_under_a_name_that_is_not_read_is_told() -> None:
    data = labelled("cat", skipped={".db files": 1, "metadata.json, which is not read": 1})
    with pytest.raises(InputError, match=r"got pets with metadata\.json, which is not read: add a metadata\.jsonl"):
        captions_of(data, "{}")


def test_captions_that_are_cut_are_counted(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny, subfolder="tokenizer")
    most = tokenizer.model_max_length
    length = len(tokenizer("1 " * 10)["input_ids"])
    each = (length - 2) / 10
    fits, cut = "1 " * int((most - 2) / each), "1 " * (int((most - 2) / each) + 1)
    data = Images("pets", torch.zeros(3, 1, 2, 2), captions=(fits, cut, "short"))
    tell_cut(tokenizer, data, data.captions)
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of 3 captions of pets are longer than the {most} tokens that are read of each" in said
    tell_cut(tokenizer, data, (fits, "short"))
    assert capsys.readouterr().err == ""


def test_captions_are_pooled_over_their_own_tokens_and_encoded_once(tiny: Path, monkeypatch: Any) -> None:
    parts = load_components(tiny)
    captions = ["four", "a longer caption", "", "four", *map(str, range(40))]
    ids = tokenize(parts.tokenizer, captions)
    pooled = PooledCaptions(parts.text_encoder, parts.tokenizer.eos_token_id, most=38)
    found = pooled(ids)
    for row, caption in enumerate(captions[:4]):
        tokens = torch.tensor([parts.tokenizer(caption)["input_ids"]])
        # Without what fills up the others, and without the token that begins all of them.
        expected = parts.text_encoder(tokens)[0][0, 1:].mean(0)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(pooled, "_encoded", None)
    # The last ones are kept, whatever stands beside them.
    torch.testing.assert_close(pooled(ids[-30:]), found[-30:], rtol=0, atol=0)
    monkeypatch.undo()
    torch.testing.assert_close(pooled(ids[:2]), found[:2], rtol=0, atol=0)

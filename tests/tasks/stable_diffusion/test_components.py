"""Pipelines that cannot be trained are refused in one line, before or while they are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from immiscible.cli import main
from immiscible.errors import InputError
from immiscible.tasks.stable_diffusion.components import load_components
from immiscible.tasks.stable_diffusion.folder import fingerprint, locate, native_size


def change(path: Path, part: str, **values: Any) -> None:
    file = path / part
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_component_is_named(broken: Path, part: str) -> None:
    shutil.rmtree(broken / part)
    with pytest.raises(InputError, match=f"without {part}/"):
        load_components(broken)


def test_missing_weights_are_told(broken: Path) -> None:
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match="must have a vae that AutoencoderKL can load"):
        load_components(broken)


def test_damaged_weights_are_told(broken: Path) -> None:
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="must have a unet that UNet2DConditionModel can load"):
        load_components(broken)


def test_pickled_weights_are_not_read(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="must have a unet"):
        load_components(broken)


def test_weights_in_half_precision_only_are_told_with_their_conversion(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(InputError, match=r"a unet in full precision, got .*variant='fp16'\)\.save_pretrained"):
        load_components(broken)


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ("model.diffusion_model.out.weight", r"the weights of a whole model: write the folder with .*from_single_file"),
        ("unet.down.lora_A.weight", "low-rank weights for some model: give the folder of that model"),
        ("conv_in.weight", "one part of a model: give the folder that holds all parts"),
        ("", "which is damaged"),
    ],
)
def test_a_single_file_is_told_with_its_conversion(tmp_path: Path, tensor: str, told: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({tensor: torch.zeros(1)}) if tensor else b"no tensors")
    with pytest.raises(InputError, match=rf"must be a folder with a pipeline of diffusers, got the file .*{told}"):
        locate(str(path))


def test_pickled_files_are_not_read_to_tell_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError, match=r"whose weights may run code when they are read: if you trust it"):
        locate(str(tmp_path / "model.ckpt"))


def test_vae_with_other_channels_is_refused(broken: Path) -> None:
    change(broken, "vae/config.json", latent_channels=16)
    with pytest.raises(InputError, match="in the U-Net's input as in the VAE's latents, got 4 and 16"):
        load_components(broken)


def test_inpainting_model_is_refused_with_its_reason(broken: Path) -> None:
    change(broken, "unet/config.json", in_channels=9)
    with pytest.raises(InputError, match="in-painting models with 9 channels cannot be trained here"):
        load_components(broken)


def test_text_encoder_of_another_width_is_refused(broken: Path) -> None:
    change(broken, "unet/config.json", cross_attention_dim=768)
    with pytest.raises(InputError, match="takes texts of 768 values, the text encoder gives 64"):
        load_components(broken)


def test_tokenizer_of_another_text_encoder_is_refused(broken: Path) -> None:
    change(broken, "tokenizer/tokenizer_config.json", model_max_length=77)
    with pytest.raises(InputError, match="gives up to 77 tokens, the text encoder takes 24"):
        load_components(broken)


def test_unknown_folder_and_unreachable_hub_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        locate("./nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="on a hub that can be reached from here, got nobody/nothing"):
        locate("nobody/nothing")


def test_command_line_tells_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    words = ["train", "stable-diffusion", "--model", str(model), "--data", "digits", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("immiscible: --model must hold a pipeline of diffusers with unet, vae")
    assert told.count("\n") == 1


def test_fingerprint_changes_with_the_weights_that_it_is_of(broken: Path) -> None:
    whole, some = fingerprint(broken), fingerprint(broken, ["vae", "tokenizer"])
    change(broken, "unet/config.json", note="changed")
    assert fingerprint(broken) != whole
    assert fingerprint(broken, ["vae", "tokenizer"]) == some


def test_size_is_the_models_own(tiny: Path) -> None:
    assert native_size(tiny) == 16

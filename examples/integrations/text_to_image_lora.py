"""Where the line goes in a script like diffusers' examples/text_to_image/train_text_to_image_lora.py.

The adapter is written as standard LoRA weights, which `pipeline.load_lora_weights(directory)` reads: the line leaves no
trace in the model. Latents and text embeddings are random here; the other scripts have the encoders.
"""

import argparse
import tempfile

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import immiscible  # immiscible: the import


def add_noise_and_target(
    latents: Tensor, noise_scheduler: DDPMScheduler, coupling: immiscible.Coupling
) -> tuple[Tensor, Tensor, Tensor]:
    """The noisy latents, the target of the loss and the timesteps."""
    noise = torch.randn_like(latents)
    noise = coupling(latents, noise)  # immiscible: the one line. Noise offset or perturbation goes below it
    timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    if noise_scheduler.config.prediction_type == "epsilon":
        target = noise
    elif noise_scheduler.config.prediction_type == "v_prediction":
        target = noise_scheduler.get_velocity(latents, noise, timesteps)
    else:
        raise ValueError(f"Unknown prediction type {noise_scheduler.config.prediction_type}")
    return noisy_latents, target, timesteps


def main(output_dir: str, max_train_steps: int = 4) -> None:
    accelerator = Accelerator()
    torch.manual_seed(0)  # in place of from_pretrained: the same weights and data on each rank
    noise_scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = UNet2DConditionModel(8, **blocks, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32)
    unet.requires_grad_(False)
    attention = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=attention))
    lora_layers = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(lora_layers, lr=1e-2)
    # What a cache holds: latents times the scaling factor of the VAE, and embedded prompts.
    train_dataloader = DataLoader(TensorDataset(torch.randn(64, 4, 8, 8), torch.randn(64, 3, 32)), batch_size=16)
    set_seed(0, device_specific=True)  # immiscible: each rank draws its own noise; plain set_seed(0) gives all the same
    unet, optimizer, train_dataloader = accelerator.prepare(unet, optimizer, train_dataloader)
    coupling = immiscible.LinearAssignment()  # immiscible: permutes the batch, the noise keeps the law the model knows
    for _, (latents, encoder_hidden_states) in zip(range(max_train_steps), train_dataloader, strict=False):
        with accelerator.accumulate(unet):
            noisy_latents, target, timesteps = add_noise_and_target(latents, noise_scheduler, coupling)
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states).sample
            loss = F.mse_loss(model_pred.float(), target.float())
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    if accelerator.is_main_process:
        weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(accelerator.unwrap_model(unet)))
        StableDiffusionPipeline.save_lora_weights(output_dir, unet_lora_layers=weights, safe_serialization=True)
    accelerator.print(f"wrote {output_dir}\nloss {loss.item():.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", help="directory for the weights, a new temporary one by default")
    main(parser.parse_args().out or tempfile.mkdtemp(prefix="lora-"))

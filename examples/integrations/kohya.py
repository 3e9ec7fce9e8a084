"""Where the line goes in trainers in the style of kohya-ss' sd-scripts (train_network.py, sdxl_train.py and others).

One function of library/train_util.py draws the noise and builds the noisy latents. It also returns the noise, which the
trainer makes the target of, so the line is needed there and nowhere else. (Their flow models draw noise in the trainer
instead: see flow_matching.py.) The loop below has the trainers' shape and no more.
"""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

import immiscible  # immiscible: the import

COUPLING = immiscible.KNN(k=64)  # immiscible: the coupling. KNN needs no batch, and buckets often leave small ones


def apply_noise_offset(noise: Tensor, noise_offset: float) -> Tensor:
    return noise + noise_offset * torch.randn((*noise.shape[:2], 1, 1), device=noise.device)


def get_noise_noisy_latents_and_timesteps(
    args: argparse.Namespace, noise_scheduler: DDPMScheduler, latents: Tensor, coupling: immiscible.Coupling = COUPLING
) -> tuple[Tensor, Tensor, Tensor]:
    noise = torch.randn_like(latents, device=latents.device)
    noise = coupling(latents, noise)  # immiscible: the one line
    # Below the line, as multires noise and ip_noise_gamma: couplings take standard normal noise.
    if args.noise_offset:
        noise = apply_noise_offset(noise, args.noise_offset)
    min_timestep = 0 if args.min_timestep is None else args.min_timestep
    max_timestep = noise_scheduler.config.num_train_timesteps if args.max_timestep is None else args.max_timestep
    timesteps = torch.randint(min_timestep, max_timestep, (len(latents),), device=latents.device)
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    return noise, noisy_latents, timesteps


def add_noise_and_target(
    args: argparse.Namespace, latents: Tensor, noise_scheduler: DDPMScheduler, coupling: immiscible.Coupling = COUPLING
) -> tuple[Tensor, Tensor, Tensor]:
    """As the trainers go on from there: the noisy latents, the target of the loss and the timesteps."""
    noise, noisy_latents, timesteps = get_noise_noisy_latents_and_timesteps(args, noise_scheduler, latents, coupling)
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if args.v_parameterization else noise
    return noisy_latents, target, timesteps


def main(max_train_steps: int = 4) -> None:
    args = argparse.Namespace(seed=0, noise_offset=0.05, min_timestep=None, max_timestep=None, v_parameterization=False)
    accelerator = Accelerator()
    # immiscible: each rank draws its own noise; plain set_seed(args.seed), as it stands there, gives all the same
    set_seed(args.seed, device_specific=True)
    noise_scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = UNet2DConditionModel(8, **blocks, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    for _ in range(max_train_steps):
        # In place of the dataset: cached latents, and text embeddings.
        latents = torch.randn(4, 4, 8, 8, device=accelerator.device) / 0.18215
        text_encoder_conds = torch.randn(4, 3, 32, device=accelerator.device)
        latents = latents * 0.18215  # vae_scale_factor; the coupling ranks the latents that the noise is added to
        noisy_latents, target, timesteps = add_noise_and_target(args, latents, noise_scheduler)
        noise_pred = unet(noisy_latents, timesteps, text_encoder_conds).sample
        loss = F.mse_loss(noise_pred.float(), target.float())
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

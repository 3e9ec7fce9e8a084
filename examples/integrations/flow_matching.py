"""Where the line goes in a script like diffusers' train_dreambooth_sd3.py or train_dreambooth_flux.py: flow matching.

The target is a difference, noise - model_input, so paired noise changes what the model learns all along the path.
Everything is tiny and untrained: the place of the line is what this shows.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.training_utils import compute_density_for_timestep_sampling
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import immiscible  # immiscible: the import


def add_noise_and_target(
    model_input: Tensor, noise_scheduler: FlowMatchEulerDiscreteScheduler, coupling: immiscible.Coupling
) -> tuple[Tensor, Tensor, Tensor]:
    """The noisy latents, the target of the loss and the sigmas, with shape (B, 1, 1, 1)."""
    noise = torch.randn_like(model_input)
    noise = coupling(model_input, noise)  # immiscible: the one line
    u = compute_density_for_timestep_sampling("logit_normal", len(model_input), logit_mean=0.0, logit_std=1.0)
    indices = (u * noise_scheduler.config.num_train_timesteps).long()
    sigmas = noise_scheduler.sigmas[indices].to(model_input).view(-1, 1, 1, 1)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    target = noise - model_input
    return noisy_model_input, target, sigmas


def dataset() -> TensorDataset:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    pixel_values = F.interpolate(images, scale_factor=2).repeat(1, 3, 1, 1)  # (1797, 3, 16, 16), in [-1, 1]
    return TensorDataset(pixel_values, torch.tensor(digits.target))


def main(max_train_steps: int = 4) -> None:
    accelerator = Accelerator()
    torch.manual_seed(0)  # in place of from_pretrained: the same weights on each rank
    noise_scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    scales = {"scaling_factor": 1.5305, "shift_factor": 0.0609}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 32), sample_size=16, **scales)
    vae.requires_grad_(False).to(accelerator.device)
    size = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "pos_embed_max_size": 8}
    text = {"joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 16}
    transformer = SD3Transformer2DModel(8, in_channels=4, out_channels=4, **size, **text)
    # In place of the text encoders: a table with what they would say of each digit.
    embeds, pooled = torch.randn(10, 3, 32, device=accelerator.device), torch.randn(10, 16, device=accelerator.device)
    set_seed(0, device_specific=True)  # immiscible: each rank draws its own noise; plain set_seed(0) gives all the same
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-3)
    train_dataloader = DataLoader(dataset(), batch_size=32, shuffle=True)
    transformer, optimizer, train_dataloader = accelerator.prepare(transformer, optimizer, train_dataloader)
    coupling = immiscible.LinearAssignment()  # immiscible: or KNN(k=4), for batches of one or two
    for _, (pixel_values, digit) in zip(range(max_train_steps), train_dataloader, strict=False):
        with accelerator.accumulate(transformer):
            # The coupling ranks the latents that the noise is added to: shifted, scaled, and best in float32.
            model_input = vae.encode(pixel_values).latent_dist.sample()
            model_input = (model_input - vae.config.shift_factor) * vae.config.scaling_factor
            noisy_model_input, target, sigmas = add_noise_and_target(model_input, noise_scheduler, coupling)
            timesteps = sigmas.flatten() * noise_scheduler.config.num_train_timesteps
            model_pred = transformer(noisy_model_input, embeds[digit], pooled[digit], timesteps, return_dict=False)[0]
            loss = F.mse_loss(model_pred.float(), target.float())
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

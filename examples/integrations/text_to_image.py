"""Where the line goes in a script like diffusers' examples/text_to_image/train_text_to_image.py.

Everything is tiny and untrained, made of scikit-learn's digits: the place of the line is what this shows, and nothing
is learnt. To add to your own script: the import, the coupling, the line, and a seed for each rank.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from transformers import CLIPTextConfig, CLIPTextModel

import immiscible  # immiscible: the import

BEGIN, END = 10, 11  # of a prompt; its one word is the digit


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


def dataset() -> TensorDataset:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    pixel_values = F.interpolate(images, scale_factor=2).repeat(1, 3, 1, 1)  # (1797, 3, 16, 16), in [-1, 1]
    return TensorDataset(pixel_values, torch.tensor([[BEGIN, digit, END] for digit in digits.target]))


def main(max_train_steps: int = 4) -> None:
    accelerator = Accelerator()
    torch.manual_seed(0)  # in place of from_pretrained: the same weights on each rank
    noise_scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    ids = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": END}
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text_encoder = CLIPTextModel(CLIPTextConfig(vocab_size=12, max_position_embeddings=3, **size, **ids))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(**blocks, block_out_channels=(32, 32), sample_size=16)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = UNet2DConditionModel(8, **blocks, block_out_channels=(32,), layers_per_block=1, cross_attention_dim=32)
    for frozen in (text_encoder, vae):
        frozen.requires_grad_(False).to(accelerator.device)
    set_seed(0, device_specific=True)  # immiscible: each rank draws its own noise; plain set_seed(0) gives all the same
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    train_dataloader = DataLoader(dataset(), batch_size=8, shuffle=True)
    unet, optimizer, train_dataloader = accelerator.prepare(unet, optimizer, train_dataloader)
    coupling = immiscible.KNN(k=64)  # immiscible: the coupling. KNN needs no large batch
    for _, (pixel_values, input_ids) in zip(range(max_train_steps), train_dataloader, strict=False):
        with accelerator.accumulate(unet):
            # The coupling ranks the latents that the noise is added to: scaled, and best in float32.
            latents = vae.encode(pixel_values).latent_dist.sample() * vae.config.scaling_factor
            noisy_latents, target, timesteps = add_noise_and_target(latents, noise_scheduler, coupling)
            model_pred = unet(noisy_latents, timesteps, text_encoder(input_ids)[0]).sample
            loss = F.mse_loss(model_pred.float(), target.float())
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.print(f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()

"""Named settings of the recipes. Imports no torch.

``cifar10`` presets are the published settings, for GPUs; their scores are the authors', as said beside each.
``fashion-mnist`` presets are those of our own results (docs/results), small enough for two CPU cores; ``digits`` are
the defaults of the command line, except where said.
"""

from __future__ import annotations

from typing import Any

# The U-Net of DDPM (arXiv 2006.11239) and its relatives at 32 x 32: 128 channels, 1-2-2-2, attention at 16.
CIFAR10 = {
    "data": "cifar10",
    "flip": True,
    "network": "unet",
    "width": 128,
    "depth": 4,
    "attention": "16",
}
# Fashion-MNIST at 16 x 16, one residual block per level, 0.28 million parameters.
FASHION_MNIST = {
    "data": "fashion-mnist",
    "image_size": 16,
    "network": "unet",
    "width": 16,
    "depth": 3,
    "layers": 1,
    "batch_size": 128,
    "ema": 0.995,
}

# Class-conditional Stable Diffusion 1.4 on ImageNet at 256 x 256 (arXiv 2406.12303, 2505.18521).
IMAGENET_SD14 = {
    "model": "CompVis/stable-diffusion-v1-4",
    "data": "hf:ILSVRC/imagenet-1k",
    "image_size": 256,
    "flip": True,
    "cache_latents": True,
    "warmup": 500,
    "weight_decay": 1e-2,
    "ema": 0.9999,
    "mixed_precision": "fp16",
    "checkpoint_every": 1000,
}

Presets = dict[str, dict[str, Any]]

FLOW: Presets = {
    "digits": {"data": "digits"},
    "fashion-mnist": {**FASHION_MNIST, "steps": 800},
    # torchcfm's CIFAR-10 setting; improved immiscible diffusion (arXiv 2505.18521): FID 4.92 independent,
    # 3.56 knn:4, 5.02 assignment, at batch 256.
    "cifar10": {
        **CIFAR10,
        "head_channels": 64,
        "dropout": 0.1,
        "learning_rate": 2e-4,
        "warmup": 5000,
        "clip": 1.0,
        "ema": 0.9999,
        "batch_size": 256,
        "steps": 400_000,
        "checkpoint_every": 20_000,
    },
}
DDIM: Presets = {
    "digits": {"data": "digits"},
    "fashion-mnist": {**FASHION_MNIST, "steps": 800},
    # DDIM on CIFAR-10 (arXiv 2010.02502, 2505.18521): FID 6.63 independent, 4.45 knn:8, 5.14 assignment.
    "cifar10": {
        **CIFAR10,
        # One head, as wide as the level.
        "head_channels": 256,
        "dropout": 0.1,
        "learning_rate": 2e-4,
        "warmup": 5000,
        "clip": 1.0,
        "ema": 0.9999,
        "batch_size": 256,
        "steps": 400_000,
        "spacing": "leading",
        "checkpoint_every": 20_000,
    },
}
CONSISTENCY: Presets = {
    # Fewer noise levels than published, since there are fewer steps for them to double in.
    "digits": {"data": "digits", "steps": 4000, "most_levels": 160},
    "fashion-mnist": {**FASHION_MNIST, "steps": 1600, "most_levels": 160},
    # Improved consistency training (arXiv 2310.14189) at the batch of arXiv 2505.18521: FID 10.22 independent,
    # 9.16 knn:4, 8.54 assignment.
    "cifar10": {
        **CIFAR10,
        "dropout": 0.3,
        "learning_rate": 1e-4,
        "warmup": 1000,
        "clip": 0.0,
        "ema": 0.99993,
        "batch_size": 512,
        "steps": 400_000,
        "checkpoint_every": 20_000,
    },
}
POLICY: Presets = {
    # Demonstrations of the planner, `immiscible make-pusht pusht`, and a network that one core trains in minutes.
    "pusht-tiny": {
        "data": "pusht",
        "process": "flow",
        "mirror": True,
        "angles": "4",
        "network": "mlp",
        "width": 256,
        "depth": 4,
        "learning_rate": 1e-3,
        "lr_schedule": "cosine",
        "warmup": 500,
        "ema": 0.999,
        "steps": 20_000,
        "checkpoint_every": 2000,
        "keep_checkpoints": 10,
    },
    # Diffusion Policy's U-Net of 65 million parameters on low-dimensional Push-T, as published: 5,000 epochs, of which
    # the learning rate is a half cosine. Mean score of improved immiscible diffusion (arXiv 2505.18521): 79.56
    # independent, 82.83 knn:2; and 85.71 independent, 86.74 knn:2 (3 seeds).
    # Its sequel (arXiv 2610.09369), from a symmetric start: the share of the dominant mode falls from 97.6 independent
    # to 65.0 assignment, at coverage 95.2 and 95.4 (10 seeds).
    "pusht": {
        "data": "pusht",
        "angles": "4",
        "network": "unet",
        "width": 256,
        "depth": 3,
        "learning_rate": 1e-4,
        "lr_schedule": "cosine",
        "warmup": 500,
        "weight_decay": 1e-6,
        "beta1": 0.95,
        "clip": 0.0,
        "ema": 0.9999,
        "batch_size": 256,
        "steps": 470_000,
        "checkpoint_every": 10_000,
        "keep_checkpoints": 10,
    },
}
STABLE_DIFFUSION: Presets = {
    # Fashion-MNIST by class names on the pipeline of `immiscible make-tiny-sd tiny-sd --data fashion-mnist`.
    "tiny": {
        "model": "tiny-sd",
        "mode": "scratch",
        "data": "fashion-mnist",
        "batch_size": 64,
        "learning_rate": 1e-3,
        "ema": 0.995,
        "steps": 1500,
        "guidance": 2.0,
        "cache_latents": True,
    },
    # FID 17.92 independent, 16.84 knn:64, 16.43 assignment, as published.
    "sd14-imagenet-scratch": {
        **IMAGENET_SD14,
        "mode": "scratch",
        "batch_size": 2048,
        "learning_rate": 1e-4,
        "steps": 20_000,
    },
    # FID 11.45 independent, 10.38 knn:64, 10.28 assignment, as published.
    "sd14-imagenet-finetune": {
        **IMAGENET_SD14,
        "mode": "finetune",
        "batch_size": 512,
        "learning_rate": 1e-5,
        "steps": 5000,
    },
}

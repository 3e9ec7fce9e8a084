"""A plug-in of LeRobot: `lerobot-train --policy.type=immiscible` trains its diffusion policy with coupled noise."""

from .configuration_immiscible import ImmiscibleConfig
from .modeling_immiscible import ImmisciblePolicy
from .processor_immiscible import make_immiscible_pre_post_processors

__all__ = ["ImmiscibleConfig", "ImmisciblePolicy", "make_immiscible_pre_post_processors"]

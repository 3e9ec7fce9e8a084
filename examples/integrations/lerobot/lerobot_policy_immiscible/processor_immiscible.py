"""What LeRobot does to observations and actions before and after a policy: the same as for its diffusion policy."""

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

make_immiscible_pre_post_processors = make_diffusion_pre_post_processors

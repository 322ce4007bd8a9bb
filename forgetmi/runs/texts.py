"""What is looked at before a language model is trained: every text as tokens, and whether the model has room."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import nn

from forgetmi.batch import Loader
from forgetmi.errors import DataError, ModelError
from forgetmi.modalities.base import Modality
from forgetmi.modalities.dialogue import DialogueModality
from forgetmi.models.causal_lm import CausalLM
from forgetmi.partition import PARTS, Partition
from forgetmi.tasks.causal_lm import CausalLMTask

logger = logging.getLogger("forgetmi")
_NAMED = 20


def check_texts(loader: Loader, task: CausalLMTask, partition: Partition) -> int:
    """Make tokens of every record, so that what is missing, empty or too long is known now; the longest one's tokens.

    Raises:
        DataError: with the number of records that cannot be used, and the first of them.
    """
    longest, wrong, first = 0, [], None
    indices = [index for part in PARTS for index in partition.indices(part)]
    for index in indices:
        try:
            batch = loader.batch([index])
            task.check_labels(batch)
            longest = max(longest, task.answer_mask(batch).shape[1])
        except DataError as error:
            wrong.append(f"sample {loader.dataset[index].sample_id}")
            first = first or error
    if first is not None:
        raise DataError(
            f"{len(wrong)} of {len(indices)} records cannot be used by a language model; of the first: {first.what}",
            expected=first.expected,
            fix=first.fix,
            private=(*wrong[:_NAMED], *first.private),
        )
    for name, modality in loader.modalities.items():
        if isinstance(modality, DialogueModality) and modality.n_cut:
            limit, n = modality.max_length, modality.n_cut
            logger.warning("%s: %d texts are longer than max_length = %s and lost their end", name, n, limit)
    return longest


def check_tokens(model: nn.Module, modalities: Mapping[str, Modality], longest: int) -> None:
    """Refuse a language model that has no embedding for some of the tokenizer's tokens, or too few positions.

    Raises:
        ModelError: the two do not belong together.
    """
    if not isinstance(model, CausalLM):
        return
    for modality in modalities.values():
        if isinstance(modality, DialogueModality) and modality.tokenizer.size > model.n_tokens:
            raise ModelError(
                f"the tokenizer has {modality.tokenizer.size} tokens, and the model's embedding has {model.n_tokens}",
                fix="use the tokenizer that the model was trained with (model.modalities.NAME.tokenizer)",
            )
    positions = getattr(model.lm.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and longest > positions:
        raise ModelError(
            f"the longest record has {longest} tokens, and the model was made for {positions} positions",
            fix="set max_length and on_long: cut, cut the texts into pieces, or take a model for longer texts",
        )

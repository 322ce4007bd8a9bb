"""Who's Harry Potter: what a model would say that had never read the text."""

from __future__ import annotations

from torch import Tensor

from forgetmi.tasks.divergence import wide


def generic_logits(baseline: Tensor, reinforced: Tensor, alpha: float) -> Tensor:
    """Eldan & Russinovich 2023 (arXiv 2310.02238): v = v_baseline - alpha ReLU( v_reinforced - v_baseline ).

    Logits that training longer on the text raises are lowered. The method fine-tunes on the likeliest tokens of the
    result (:func:`generic_labels`) and MUSE answers with it directly. alpha = 0 gives the baseline.

    Args:
        baseline: logits of the original [..., V].
        reinforced: those of the original, trained further on the forget set [..., V].
        alpha: >= 0.
    """
    baseline = wide(baseline)
    return baseline - alpha * (wide(reinforced) - baseline).relu()


def generic_labels(generic: Tensor, labels: Tensor) -> Tensor:
    """The likeliest token at each place that has a label [...]; -100 stays where there is none.

    Args:
        generic: logits [..., V], of the same places as the labels.
        labels: [...]; negative where there is none.
    """
    return generic.argmax(dim=-1).where(labels >= 0, labels)

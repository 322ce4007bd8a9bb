"""Words of the report that depend on what was declared or found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REGIMES: dict[str, tuple[str, str]] = {
    "gdpr_17": (
        "GDPR, article 17 (right to erasure)",
        "Answers are due without undue delay, within one month (article 12(3)); article 17(3) has exceptions, among "
        "them public health and research.",
    ),
    "uk_gdpr_17": ("UK GDPR, article 17 (right to erasure)", "Supervised by the ICO; time limits as in the GDPR."),
    "hipaa": (
        "HIPAA (United States)",
        "HIPAA itself gives no right to erasure; state law, a consent form or a protocol may ask for removal.",
    ),
    "consent_withdrawal": ("withdrawn consent", ""),
    "research_protocol": ("research protocol", ""),
    "other": ("other", ""),
}
SOURCES = {
    "csv": "a CSV file",
    "json": "a JSON file",
    "list": "a list",
    "fhir": "an EHR's manifest",
    "query": "a query",
    "config": "ids in the configuration",
    "drawn": "a random draw: a trial, nobody asked for it",
}
RELEASES = {
    "labels": "predicted labels only",
    "probabilities": "probabilities",
    "weights": "the model's weights",
}
READINGS = {
    "remembered": "▲ still remembered",
    "over_forgotten": "▼ over-forgotten",
    "no_difference_shown": "● no difference shown",
}
DOUBTS = {
    "blind": "Nothing could have been detected: already before forgetting, the model gave these patients away no more "
    "than models that never saw them.",
    "imprecise": "Too imprecise to tell: with so few people the answer fits a model that has forgotten them, and the "
    "one from before as well.",
    "not_judged": "Some figures cannot be judged with so few people.",
}
CONTROL_WORDS = {"destroyed": "random weights", "random_share": "a random share unlearned"}
GROUP_WORDS = {
    "memorisation": "The true text is shown to the model token by token, and it is noted which tokens it would have "
    "written itself.",
    "extraction": "The model is asked for the record, and writes. Words that any note of this kind has are written "
    "without memory too: compare with the retrained models.",
    "quantisation": "The weights of every model are rounded in the same way, and the attack on the loss is made again.",
    "relearning": "Every model is trained for a few steps on a few forgotten records; then the others are attacked.",
    "hierarchical": "The model is told more and more of what surrounds a record before it is asked for it.",
}
USEFUL_ROWS = (
    "test_accuracy",
    "test_auc",
    "test_cross_entropy",
    "test_perplexity",
    "retain_accuracy",
    "retain_auc",
    "retain_perplexity",
)
_LETTERS = {
    "pass": "Afterwards we tested whether it can be told from the model's answers that you and others who asked for "
    "removal were part of its training. We found no sign of it. Such a test has limits: it lowers a suspicion and is "
    "no proof.",
    "fail": "Afterwards we tested whether it can be told from the model's answers that you and others who asked for "
    "removal were part of its training. The test was not passed. We therefore do not treat this model as one that has "
    "forgotten you, and will tell you what happens next.",
    "inconclusive": "Afterwards we tested whether it can be told from the model's answers that you and others who "
    "asked for removal were part of its training. The number of people was too small, or the test too weak, to tell. "
    "We therefore do not count it as a success, and will tell you what happens next.",
}


def letter(decision: str) -> str:
    """A paragraph for the reply to a patient. It promises nothing that the audit does not hold."""
    return (
        "You asked that your data be removed. A computer model had been trained with records that included yours. We "
        f"changed the model so that it should no longer hold what it learned from them. {_LETTERS[decision]}"
    )


def plain_reasons(evidence: Mapping[str, Any]) -> list[str]:
    """Criteria whose sentences say on the first page why: those outside, or else what a pass rests on."""
    criteria = evidence["criteria"]
    keys = [key for key, c in criteria.items() if c["meaning"] not in (None, "not_judged")]
    if not keys:
        keys = [
            key
            for key, c in criteria.items()
            if c["headline"] or c["kind"] in ("forget_accuracy", "test_auc", "test_cross_entropy")
        ]
    first = {criteria[key]["sentence"]: key for key in reversed(keys)}
    return [key for key in keys if key in first.values()]


def doubts(evidence: Mapping[str, Any]) -> list[str]:
    """Why an audit is inconclusive, as keys of :data:`DOUBTS` and ``small``."""
    verdict, options = evidence["verdict"], evidence["options"]
    headline = next(c for c in evidence["criteria"].values() if c["headline"])
    before, high = headline["original"]["value"], headline["unlearned"]["high"]
    found = {
        "small": min(evidence["parts"][part]["patients"] for part in ("forget", "test")) < options["min_patients"],
        "blind": not verdict["informative"],
        "imprecise": verdict["informative"] and before is not None and high is not None and high >= before,
        "not_judged": any(c["meaning"] == "not_judged" for c in evidence["criteria"].values()),
    }
    return [name for name, there in found.items() if there]


def model_rows(evidence: Mapping[str, Any], pointer: str) -> list[tuple[str, str]]:
    """(name, key) of every model under a part of the evidence that holds all three."""
    names = [(role, f"evidence:/{pointer}/{role}") for role in ("original", "unlearned")]
    n_retrained = len(evidence["models"]["retrained"])
    return names + [(f"retrained {i + 1}", f"evidence:/{pointer}/retrained/{i}") for i in range(n_retrained)]

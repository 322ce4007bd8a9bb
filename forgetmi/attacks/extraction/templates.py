"""Prompts in other words: paraphrases, role play and instructions that try to get round what a model was taught.

The templates that come with the package are our own writing. A template wraps a record's prompt and may put the first
words of an answer into the model's mouth; what counts as success is the same as for the plain prompt. Every model that
is compared is asked in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from forgetmi.errors import ConfigError, DataError, did_you_mean
from forgetmi.options import build_options

PLAIN = "plain"
"""The name under which the prompt itself is asked."""


@dataclass(frozen=True)
class Template:
    """A way to ask.

    Attributes:
        name: its key: small letters, digits and ``_``.
        prompt: a text with ``{prompt}`` in it, once.
        answer: what the answer is made to begin with.
        style: ``paraphrase``, ``form``, ``list``, ``role_play``, ``override``, ``prefix_injection`` or a word of one's
            own.

    Raises:
        ConfigError: all that is wrong.
    """

    name: str
    prompt: str
    answer: str = ""
    style: str = "own"

    def __post_init__(self) -> None:
        problems = []
        if not self.name.replace("_", "").isalnum() or self.name != self.name.lower():
            problems.append(f"name: small letters, digits and _, not {self.name!r}")
        if self.prompt.count("{prompt}") != 1:
            problems.append("prompt must hold {prompt} once")
        if problems:
            raise ConfigError(problems)

    def ask(self, prompt: str) -> str:
        """The prompt in this template's words."""
        # Not str.format: a prompt may hold braces.
        return self.prompt.replace("{prompt}", prompt)


def shipped_templates() -> tuple[Template, ...]:
    """The package's own."""
    text = files("forgetmi.attacks.extraction").joinpath("templates.json").read_text(encoding="utf-8")
    return tuple(Template(**entry) for entry in json.loads(text))


def read_templates(path: Path) -> tuple[Template, ...]:
    """Templates of a JSON file: a list of objects with ``name`` and ``prompt``, and ``answer`` and ``style`` if wanted.

    Raises:
        DataError: it cannot be read or is no such list.
        ConfigError: all that is wrong with its entries.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}", where=str(path.parent), expected="JSON") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path.name} holds no list of templates", expected='[{"name": ..., "prompt": ...}, ...]')
    made: list[Template] = []
    problems: list[str] = []
    for number, entry in enumerate(entries, start=1):
        try:
            made.append(build_options(Template, entry, where=f"{path.name}: template {number}"))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tuple(made)


def chosen_templates(names: Sequence[str] | None, path: Path | None) -> tuple[Template, ...]:
    """The plain prompt, then the templates that are asked for.

    Args:
        names: of the package's; ``None`` for all, empty for none.
        path: a file with one's own.

    Raises:
        DataError, ConfigError: as :func:`read_templates`; an unknown name; two of one name.
    """
    shipped = {template.name: template for template in shipped_templates()}
    wanted = list(shipped) if names is None else list(names)
    problems = [
        f"there is no template {name!r}. {did_you_mean(name, shipped)}" for name in wanted if name not in shipped
    ]
    own: Sequence[Any] = () if path is None else read_templates(path)
    chosen = [Template(PLAIN, "{prompt}", style=PLAIN), *(shipped[n] for n in wanted if n in shipped), *own]
    taken = [template.name for template in chosen]
    problems += [f"two templates are called {name!r}" for name in dict.fromkeys(taken) if taken.count(name) > 1]
    if problems:
        raise ConfigError(problems)
    return tuple(chosen)

"""Answers that say nothing: what a model is taught to say instead of what it is to forget.

Two lists are shipped, of our own writing; a file may hold others, one answer a line or a JSON list of strings.
"""

from __future__ import annotations

import json
from pathlib import Path

from forgetmi.errors import ConfigError, did_you_mean

GENERAL = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure about that.",
    "I have no information about this.",
    "I can't answer this question.",
    "That is not something I know.",
    "I am unable to say.",
    "I'm afraid I don't have an answer.",
    "This is unknown to me.",
    "I have never come across this.",
    "I can't help with this question.",
    "I'm sorry, I know nothing about that.",
    "I have no knowledge of this subject.",
    "My knowledge does not cover this.",
    "I couldn't tell you.",
    "Nothing comes to mind about that.",
    "I would only be guessing, so I prefer not to answer.",
    "I have nothing to say on this.",
    "That is beyond what I know.",
    "I don't recall anything of the kind.",
    "No answer to that is known to me.",
    "You would have to ask someone else about this.",
    "I'm sorry, but I cannot answer that.",
    "I lack the facts to answer this.",
)

CLINICAL = (
    "I have no record of this patient.",
    "I cannot say anything about this patient.",
    "No findings are available to me for this examination.",
    "I don't have access to this report.",
    "This information is not part of what I know.",
    "I know of no examination that matches this.",
    "I cannot comment on the history of this patient.",
    "I have no details of this study.",
    "The results that you ask for are not known to me.",
    "I am not able to describe this image.",
    "I know of no diagnosis for this person.",
    "Please consult the patient's chart; I have no information about it.",
    "I hold no clinical notes about this person.",
    "Nothing about this admission is known to me.",
    "I cannot provide details of an individual's care.",
    "The treating physician can answer that; I can't.",
    "I have no laboratory values for this person.",
    "No medication list is known to me for this patient.",
    "I can't tell what this examination showed.",
    "I have no report to refer to here.",
    "I do not know what was found.",
    "There is nothing I can say about this case.",
    "I have not seen any record that answers this question.",
    "This person's health information is not known to me.",
)

LISTS = {"general": GENERAL, "clinical": CLINICAL, "all": GENERAL + CLINICAL}


def refusals(source: str) -> tuple[str, ...]:
    """A shipped list by name, or the answers of a file.

    Args:
        source: ``general``, ``clinical``, ``all``; or a path. A ``.json`` file holds a list of strings. Any other file
            is text in UTF-8 with one answer a line; empty lines count for nothing.

    Raises:
        ConfigError: no such list or file, or a file in another form; all that is wrong in it, by line.
    """
    if source in LISTS:
        return LISTS[source]
    path = Path(source)
    if not path.is_file():
        raise ConfigError([f"refusals: {source!r} is no file, and no list of ours. {did_you_mean(source, LISTS)}"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"refusals: {path} is no text in UTF-8 (byte {error.start})"]) from error
    found, problems = _of_json(path, text) if path.suffix.lower() == ".json" else _of_lines(path, text)
    if not found and not problems:
        problems = [f"refusals: {path} holds no answer"]
    if problems:
        raise ConfigError(problems, fix="one answer a line, or a .json file with a list of strings")
    return tuple(found)


def _of_json(path: Path, text: str) -> tuple[list[str], list[str]]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        return [], [f"refusals: {path}:{error.lineno}: no JSON ({error.msg})"]
    if not isinstance(given, list):
        return [], [f"refusals: {path} holds {type(given).__name__}, where a list of strings was expected"]
    problems = [
        f"refusals: {path}: entry {number} is {'empty' if isinstance(entry, str) else type(entry).__name__}"
        for number, entry in enumerate(given, start=1)
        if not isinstance(entry, str) or not entry.strip()
    ]
    return given, problems


def _of_lines(path: Path, text: str) -> tuple[list[str], list[str]]:
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), start=1) if line.strip()}
    # A line of JSON would be taught as an answer, braces and all.
    problems = [
        f"refusals: {path}:{number}: JSON, where an answer was expected as it is to be said"
        for number, line in lines.items()
        if _is_json(line)
    ]
    return list(lines.values()), problems


def _is_json(line: str) -> bool:
    try:
        return line[0] in '{["' and json.loads(line) is not None
    except json.JSONDecodeError:
        return False

"""The words of `job_tags`, by which jobs with tags and metadata are found. `matching_jobs` checks each match."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

LONGEST = 200  # characters; a longer one is found by its digest


def words(tags: Iterable[str], metadata: Mapping[str, str]) -> list[str]:
    """One for each tag and each entry, without repetitions."""
    found = [f"tag {tag}" for tag in tags] + [f"meta {key}={value}" for key, value in metadata.items()]
    return list(dict.fromkeys(word if len(word) <= LONGEST else _digest(word) for word in found))


def _digest(word: str) -> str:
    return f"sha256 {hashlib.sha256(word.encode()).hexdigest()}"

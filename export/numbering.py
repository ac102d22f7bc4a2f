"""Variants as versions of one model: the better one has the higher number.

Triton sends a request without a version to the highest that is served. With several loaded, a rush
then *removes* the best, which takes no time, and the cheaper one that is loaded answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from export import ranking
from serving import engines, model_config
from serving.model_config import ModelConfig
from serving.repository import LINEAGE, Repository, VersionFiles

if TYPE_CHECKING:
    from export.publish import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUp:
    """What the versions of one model are to be.

    Attributes:
        versions: the variant of each → its files, the worst first.
        remarks: what was not measured, and what comes of it.
    """

    versions: dict[str, VersionFiles]
    remarks: tuple[str, ...] = ()


def line_up(repository: Repository, publication: Publication) -> LineUp:
    """The publication's versions and the newest of each other variant that is there, ranked.

    Where nothing was measured of all of the publication's variants, the recipe's order counts: its
    first is the best. A version that is there and lacks what the others are ranked by keeps its
    number.
    """
    name = publication.name
    own = dict(zip(publication.variants, publication.versions, strict=True))
    by = ranking.criteria([ranking.figures(one.lineage) for one in own.values()])
    members, remarks = dict(own), []
    for variant, number in newest(repository, name).items():
        if variant in own or variant not in publication.family:
            continue
        held = _held(repository, name, number)
        if set(by) <= ranking.figures(held.lineage).keys():
            members[variant] = held
        else:
            remarks.append(
                f"{name}: version {number} ({variant}) keeps its number, as it was not measured by "
                f"{' and '.join(by)}; run the export of all variants"
            )
    if len(members) > 1 and not by:
        remarks.append(
            f"{name}: no quality was measured of all its variants; the recipe's first counts as "
            "the best. Set gates.fidelity or gates.task for all of them"
        )
    names = [variant for variant in publication.family if variant in members]
    order = ranking.ascending([ranking.figures(members[one].lineage) for one in names], by)
    return LineUp(
        versions={names[index]: members[names[index]] for index in order}, remarks=tuple(remarks)
    )


def put(repository: Repository, publication: Publication) -> list[int]:
    """Publish the versions; gives their numbers, in the publication's order. The lock is held.

    Raises:
        RepositoryError: when the disk refuses; what was served before still is.
    """
    versions = line_up(repository, publication).versions
    config, served = _served(repository, publication, list(versions))
    numbers = repository.publish_versions(
        publication.name,
        config,
        list(versions.values()),
        served=served,
        model_files=publication.model_files,
    )
    of = dict(zip(versions, numbers, strict=True))
    return [of[variant] for variant in publication.variants]


def remarks(repository: Repository, publication: Publication) -> list[str]:
    """What to tell after ``put``: the order, as a policy writes it, and what was not measured."""
    found, there = line_up(repository, publication), newest(repository, publication.name)
    best_first = [(there[variant], variant) for variant in reversed(found.versions)]
    lines = list(found.remarks)
    if len(best_first) > 1:
        told = ", ".join(f"{number} ({variant})" for number, variant in best_first)
        lines.append(
            f"{publication.name}: versions, best first: {told}; a policy that may switch between "
            f"them says versions: {[number for number, _ in best_first]}"
        )
    return lines


def variants(repository: Repository, name: str) -> dict[int, str]:
    """Version → its variant, ascending, where its lineage tells it."""
    told = {n: repository.lineage(name, n).get("variant") for n in repository.versions(name)}
    return {n: variant for n, variant in told.items() if isinstance(variant, str)}


def newest(repository: Repository, name: str) -> dict[str, int]:
    """Variant → the newest version of it that the repository holds."""
    return {variant: n for n, variant in variants(repository, name).items()}


def served_now(repository: Repository, name: str) -> list[int]:
    """The versions of a model that its config in the repository serves; none when it is new."""
    if name not in repository.models():
        return []
    return engines.served_versions(repository.read_config(name), repository.versions(name))


def _served(
    repository: Repository, publication: Publication, names: list[str]
) -> tuple[ModelConfig, list[int]]:
    """The config to publish, and which of ``names`` to serve; none to keep it as it is.

    The one that answers is the highest. Worse ones that are served beside it stay.
    """
    now, known = served_now(repository, publication.name), variants(repository, publication.name)
    beside = [known.get(number) for number in now]
    wanted = publication.served or (beside[-1] if now else None)
    if wanted in names:
        answers = names.index(wanted)
        return publication.config, [
            index for index in range(answers + 1) if index == answers or names[index] in beside
        ]
    if now:
        return model_config.with_versions(publication.config, now), []
    return publication.config, [names.index(publication.variants[0])]


def _held(repository: Repository, name: str, number: int) -> VersionFiles:
    """A version as the repository holds it."""
    folder = repository.root / name / str(number)
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files.pop(LINEAGE, None)
    return VersionFiles(files=files, lineage=repository.lineage(name, number))

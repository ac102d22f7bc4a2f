"""Accepted variants into the model repository: an explicit config, their files, their lineage."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export import keys
from export.config_pbtxt import LABELS_FILE, triton_config
from export.ensemble_spec import Ensemble
from export.recipe import Recipe, Tensor, Variant
from export.report import VariantReport
from export.source_files import located
from export.steps import Artifact, Form
from export.steps.to_onnx import MODEL_FILE
from serving.model_config import ModelConfig
from serving.repository import Repository, VersionFiles

__all__ = ["Accepted", "Publication", "check_labels", "lineage", "put", "triton_config", "variants"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A variant that is to be published.

    Attributes:
        variant: as in the recipe.
        artifact: its files.
        lineage: where they come from, as JSON values (``lineage``).
    """

    variant: Variant
    artifact: Artifact
    lineage: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One model of the repository as it is to be.

    Attributes:
        name: its name.
        config: complete; with several versions, ``version_policy`` is filled in by ``put``.
        versions: what each new version directory holds.
        variants: the recipe's variant of each version; empty for the parts of an ensemble.
        served: indices of the versions that are served; empty for the newest alone.
        model_files: files beside the config.
        ensemble: what it is a pipeline of, when it is an ensemble itself; its parts have none.
        needs: models that must be loaded before it: for an ensemble its parts and its variant.
        loadable: whether this host can load it; a TensorRT engine is built where it is served.
    """

    name: str
    config: ModelConfig
    versions: tuple[VersionFiles, ...]
    variants: tuple[str, ...] = ()
    served: tuple[int, ...] = ()
    model_files: Mapping[str, Path] = field(default_factory=dict)
    ensemble: Ensemble | None = None
    needs: tuple[str, ...] = ()
    loadable: bool = True


def variants(recipe: Recipe, folder: Path, accepted: Sequence[Accepted]) -> list[Publication]:
    """What to publish of these variants: a model each, or all ONNX ones as versions of one model.

    Args:
        recipe: the recipe.
        folder: the recipe's, for the labels file.
        accepted: in the recipe's order.

    Raises:
        ConfigError: when the labels file is missing, or has not one name for each class.
    """
    labels = _labels(recipe, folder)
    together: dict[str, list[Accepted]] = {}
    for one in accepted:
        together.setdefault(recipe.published_name(one.variant), []).append(one)
    found = []
    for name, members in together.items():
        as_versions = name == recipe.model.name and recipe.serving.layout == "versions"
        form = members[0].artifact.form
        names = tuple(one.variant.name for one in members)
        first = names.index(recipe.serving.served) if recipe.serving.served in names else 0
        found.append(
            Publication(
                name=name,
                config=triton_config(recipe, name, target=form),
                versions=tuple(
                    VersionFiles(files=version_files(one.artifact), lineage=one.lineage)
                    for one in members
                ),
                variants=names,
                served=(first,) if as_versions else (),
                model_files=labels,
                loadable=form is Form.ONNX,
            )
        )
    return found


def put(repository: Repository, publication: Publication) -> list[int]:
    """Publish one model; gives the number of each of its versions. Ensembles come last.

    Raises:
        RepositoryError: when the disk refuses; what was served before still is.
    """
    if publication.served:
        return repository.publish_versions(
            publication.name,
            publication.config,
            publication.versions,
            served=publication.served,
            model_files=publication.model_files,
        )
    (only,) = publication.versions
    return [
        repository.publish(
            publication.name,
            publication.config,
            only.files,
            only.lineage,
            model_files=publication.model_files,
        )
    ]


def version_files(artifact: Artifact) -> dict[str, Path]:
    """File name in the version directory → file, with everything that belongs to the artifact."""
    return {MODEL_FILE: artifact.file, **{path.name: path for path in artifact.extra}}


def lineage(
    recipe: Recipe,
    *,
    recipe_sha256: str,
    report: VariantReport,
    artifact: Artifact,
    now: datetime.datetime | None = None,
) -> dict[str, Any]:
    """Where a version comes from and why it was let in, as JSON values.

    Args:
        recipe: the recipe.
        recipe_sha256: hash of the recipe and the code it names.
        report: the variant's figures and verdicts.
        artifact: the file and what its steps noted.
        now: time of publishing, for tests; the present by default.
    """
    at = now or datetime.datetime.now(datetime.UTC)
    return {
        "published_at": at.isoformat(timespec="seconds"),
        "recipe_sha256": recipe_sha256,
        "seed": recipe.seed,
        "variant": report.name,
        "steps": list(report.steps),
        "files": {name: keys.file_sha256(path) for name, path in version_files(artifact).items()},
        "facts": dict(artifact.facts),
        "gates": [
            {"gate": g.gate, "value": g.value, "sense": g.sense, "limit": g.limit, "unit": g.unit}
            for g in report.gates
        ],
        "size_bytes": report.size_bytes,
        "latency_ms": {str(batch): ms for batch, ms in report.latency_ms.items()},
        "versions": keys.versions(),
    }


def _labels(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """The labels file to put beside the config, if the recipe has one."""
    serving = recipe.serving
    if serving.labels is None:
        return {}
    path = located(serving.labels, folder, key="serving.labels")
    output = next(t for t in recipe.model.outputs if serving.labels_output in (None, t.name))
    check_labels(path, output, key="serving.labels")
    return {LABELS_FILE: path}


def check_labels(path: Path, output: Tensor, *, key: str) -> None:
    """Refuse a labels file that does not name each class once.

    Raises:
        ConfigError: with the number of lines and of classes.
    """
    try:
        count = len(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error}).") from error
    classes = output.dims[-1] if output.dims else 1
    if count != classes:
        raise ConfigError(
            f"{key}: {path} has {count} lines, the output {output.name} has {classes} classes.",
            hint="Write one name a line, in the order of the model's outputs.",
        )

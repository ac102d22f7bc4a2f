"""Accepted variants into the model repository: an explicit config, their files, their lineage."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conch.errors import ConfigError, RepositoryError
from export import hashing, keys, numbering
from export.config_pbtxt import LABELS_FILE, triton_config
from export.ensemble_spec import Ensemble
from export.gates import Gates
from export.recipe import Recipe, Tensor, Variant
from export.report import VariantReport, finite
from export.source_files import located
from export.steps import Artifact, Form
from export.steps.to_onnx import MODEL_FILE
from serving import engines, model_config
from serving.model_config import ModelConfig
from serving.repository import Repository, VersionFiles

__all__ = [
    "Accepted",
    "Publication",
    "check_labels",
    "configs",
    "lineage",
    "put",
    "triton_config",
    "variants",
]


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
        together: whether its versions are variants of which one is served (``layout: versions``).
        family: the variants that the recipe publishes as such versions, in its order.
        served: the variant that the recipe says is served; empty where it does not say.
        model_files: files beside the config.
        ensemble: what it is a pipeline of, when it is an ensemble itself; its parts have none.
        needs: models that must be loaded before it: for an ensemble its parts and its variant.
        loadable: whether this host can load it; a TensorRT engine is built where it is served.
    """

    name: str
    config: ModelConfig
    versions: tuple[VersionFiles, ...]
    variants: tuple[str, ...] = ()
    together: bool = False
    family: tuple[str, ...] = ()
    served: str = ""
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
        found.append(
            Publication(
                name=name,
                config=triton_config(recipe, name, target=form),
                versions=tuple(
                    VersionFiles(files=version_files(one.artifact), lineage=one.lineage)
                    for one in members
                ),
                variants=names,
                together=as_versions,
                family=recipe.version_variants if as_versions else (),
                served=(recipe.serving.served or "") if as_versions else "",
                model_files=labels,
                loadable=form is Form.ONNX,
            )
        )
    return found


def put(repository: Repository, publication: Publication) -> list[int]:
    """Publish one model; gives the number of each of its versions. Ensembles come last.

    Variants that are versions of one model are numbered by their quality, the best highest
    (``numbering``). The recipe's ``served`` is served; where it does not say, the variant that is
    served now, and at first the first. When that one is not there, what is served stays as it is.
    A TensorRT version without its engine does not replace one that has it: ``build-engines``
    switches when the engine is there.

    Raises:
        RepositoryError: when the disk refuses, or an ensemble would ask another variant than it
            names; what was served before still is.
    """
    name = publication.name
    with repository.lock(name):
        if publication.ensemble is not None:
            _check_variant(repository, publication.ensemble, publication.needs[-1])
        if publication.together:
            return numbering.put(repository, publication)
        (only,) = publication.versions
        return [
            repository.publish(
                name,
                _with_engine(repository, publication.config, only.files),
                only.files,
                only.lineage,
                model_files=publication.model_files,
            )
        ]


def _check_variant(repository: Repository, ensemble: Ensemble, model: str) -> None:
    """An ensemble asks the version that is served, which may be another variant.

    Raises:
        RepositoryError: when it is.
    """
    now = numbering.served_now(repository, model)
    found = repository.lineage(model, now[-1]).get("variant") if now else None
    if found is not None and found not in ensemble.model:
        raise RepositoryError(
            f"ensemble {ensemble.name}: is for the variant {ensemble.model[0]}, but {model} serves "
            f"{found} (version {now[-1]}).",
            hint=f"Set serving.served: {ensemble.model[0]}, or name {found} in the ensemble.",
        )


def _with_engine(
    repository: Repository, config: ModelConfig, files: Mapping[str, Path]
) -> ModelConfig:
    """The config; it stays with the newest version that has an engine when the next has none."""
    if not engines.is_tensorrt(config):
        return config
    built = engines.built(repository, config.name)
    if not built or repository.newest_with(config.name, files) in built:
        return config
    return model_config.with_versions(config, built[-1:])


def version_files(artifact: Artifact) -> dict[str, Path]:
    """File name in the version directory → file, with everything that belongs to the artifact.

    A file below the model's folder keeps its place: external data is found by its relative path.

    Raises:
        ConfigError: when two files would have the same name.
    """
    root = artifact.file.parent
    found = {MODEL_FILE: artifact.file}
    for path in artifact.extra:
        inside = path.is_relative_to(root)
        name = path.relative_to(root).as_posix() if inside else path.name
        if found.setdefault(name, path) != path:
            raise ConfigError(
                f"{path}: would be published as {name}, which {found[name]} is already.",
                hint="Give the files different names, below the model's folder.",
            )
    return found


def configs(publications: Sequence[Publication]) -> dict[str, str]:
    """Name → the ``config.pbtxt`` that publishing writes, also of ensembles and their parts.

    In ``layout: versions`` the ``version_policy`` gets its number when it is published.
    """
    return {one.name: model_config.to_text(one.config) for one in publications}


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
    variant = next(one for one in recipe.variants if one.name == report.name)
    at = now or datetime.datetime.now(datetime.UTC)
    return {
        "published_at": at.isoformat(timespec="seconds"),
        "recipe_sha256": recipe_sha256,
        "seed": recipe.seed,
        "variant": report.name,
        "steps": list(report.steps),
        "files": {
            name: hashing.file_sha256(path) for name, path in version_files(artifact).items()
        },
        "facts": dict(artifact.facts),
        "gates": [
            {"gate": g.gate, "value": g.value, "sense": g.sense, "limit": g.limit, "unit": g.unit}
            for g in report.gates
        ],
        "quality": _quality(recipe.gates_of(variant), report),
        "size_bytes": report.size_bytes,
        "latency_ms": {str(batch): ms for batch, ms in report.latency_ms.items()},
        "versions": keys.versions(),
    }


def _quality(gates: Gates, report: VariantReport) -> dict[str, Any]:
    """What was measured of a variant, by the metrics of its gates; None for what was not.

    ``ranking`` reads it.
    """
    task = fidelity = None
    if gates.task is not None and report.task_metric is not None:
        task = {
            "metric": gates.task.metric,
            "value": report.task_metric,
            "original": report.task_baseline,
            "interval": report.task_interval,
        }
    if report.fidelity is not None:
        gate = gates.fidelity
        fidelity = {
            "metric": gate.metric if gate else "cosine",
            "output": gate.output if gate else None,
            "value": report.fidelity,
        }
    found: dict[str, Any] = finite({"task": task, "fidelity": fidelity})
    return found


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

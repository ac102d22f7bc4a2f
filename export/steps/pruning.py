"""torch-pruning behind one small class: which layers may be pruned, and the pruned copies.

torch-pruning skips what it cannot prune without a word, so names are checked here first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from conch.errors import ConfigError
from export import training

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to prune and how; see the options of ``prune``."""

    layers: Mapping[str, float]
    ignore: Sequence[str]
    importance: str
    global_ranking: bool
    round_to: int
    seed: int


class Plan:
    """A module's groups of layers, checked against a request; gives pruned copies.

    Args:
        original: in evaluation mode, with gradients on its weights for ``taylor``; never changed.
        example: its inputs, each ``[batch, ...]``.
        request: what to prune and how.

    Raises:
        ConfigError: when a name matches no layer, or names one that cannot be pruned.
    """

    def __init__(
        self, original: torch.nn.Module, example: Sequence[torch.Tensor], request: Request
    ) -> None:
        self.original = original
        self.example = list(example)
        self.request = request
        self.used_ratio = 0.0
        self._shapes = _shapes(original, self.example)
        layers = _layers(original)
        self._ignored = _matches(layers, request.ignore, "prune.ignore")
        wanted = {name: ratio for pattern, ratio in request.layers.items()
                  for name in _matches(layers, [pattern], "prune.layers")}  # fmt: skip
        groups = list(_groups(original, self.example))
        self.kept_whole = self._whole(groups, wanted, list(layers))
        self._ratios = self._by_group(groups, wanted)

    def pruned(self, ratio: float) -> torch.nn.Module:
        """A pruned copy.

        Args:
            ratio: fraction of channels to take out of each group without a ratio of its own.

        Raises:
            ConfigError: when the pruned network does not run, or its outputs change their shape.
        """
        import torch

        torch.manual_seed(self.request.seed)
        module = _copy(self.original)
        names = {part: name for name, part in _layers(module).items()}
        with _quiet():
            graph = _graph(module, self.example)
            found = []
            for group in graph.get_all_groups(root_module_types=_kinds()):
                name = names[group[0].dep.target.module]
                if name not in self.kept_whole and (worth := self._worth(group)) is not None:
                    found.append((group, self._own_ratio(graph, group, names), worth))
            limit = self._limit([worth for _, own, worth in found if own is None], ratio)
            for group, own, worth in found:
                taken = self._taken(
                    worth, ratio if own is None else own, limit if own is None else None
                )
                if taken:
                    root = group[0].dep
                    graph.get_pruning_group(root.target.module, root.handler, taken).prune()
        module.zero_grad(set_to_none=True)
        self._check(module)
        self.used_ratio = ratio
        return module.eval()

    def _worth(self, group: Any) -> torch.Tensor | None:
        """What each channel is worth, ``[parts, channels of a part]``; None without weights.

        Layers that work on parts of their channels (grouped convolutions, group normalisation)
        must lose equally many of each part, so a channel is worth the mean over the parts.
        """

        worth = _importance(self.request.importance)(group)
        if worth is None:
            return None
        parts = max(_parts(group[i].dep.target.module) for i in range(len(group)))
        means: torch.Tensor = worth.view(parts, -1).mean(dim=0, keepdim=True).expand(parts, -1)
        return means

    def _own_ratio(self, graph: Any, group: Any, names: Mapping[Any, str]) -> float | None:
        """The ratio that the request has for a layer of the group."""
        for dependency, _ in group:
            name = names.get(dependency.target.module)
            if name in self._ratios and graph.is_out_channel_pruning_fn(dependency.handler):
                return self._ratios[name]
        return None

    def _limit(self, worths: Sequence[torch.Tensor], ratio: float) -> float | None:
        """The worth up to which channels go, when all groups are ranked together."""
        import torch

        if not self.request.global_ranking or not worths:
            return None
        ranked = torch.cat([worth[0] for worth in worths]).sort().values
        count = int(ratio * len(ranked))
        return float(ranked[count - 1]) if count else float("-inf")

    def _taken(self, worth: torch.Tensor, ratio: float, limit: float | None) -> list[int]:
        """The channels to take out of one group: the least worth, whole units of rounding."""
        parts, size = worth.shape
        width, unit = parts * size, self.request.round_to
        # The small number keeps 0.3 of 10 channels at 3: 10 * (1 - 0.3) is a hair below 7.
        kept = width * (1 - ratio) + 1e-6 if limit is None else parts * (worth[0] > limit).sum()
        if int(kept) >= width:
            return []
        rounded = max(int(kept) // unit * unit, min(unit, width))
        order = worth[0].argsort(stable=True)[: size - max(1, rounded // parts)]
        return sorted(part * size + int(place) for part in range(parts) for place in order)

    def _whole(
        self, groups: Sequence[_Group], wanted: Mapping[str, float], layers: Sequence[str]
    ) -> list[str]:
        """Names of the layers to leave alone; refuses a wanted one among them."""
        whole: set[str] = set(layers)
        for group in groups:
            ignored = next((name for name in group.layers if name in self._ignored), "")
            if not group.is_output and not ignored:
                whole -= set(group.layers)
                continue
            why = f"{ignored} is in prune.ignore" if ignored else "decide the shape of an output"
            for name in group.layers:
                if wanted.get(name, 0) > 0:
                    others = [other for other in group.layers if other != name]
                    tied = f"are tied to those of {_listed(others)} by a skip connection, and "
                    raise ConfigError(
                        f"prune.layers: {name} cannot be pruned: its channels "
                        f"{tied if others else ''}{why}.",
                        hint="Leave it out of prune.layers, or name the first convolution inside "
                        "the block instead.",
                    )
        if not self.request.layers or len(whole) < len(layers):
            return sorted(whole, key=list(layers).index)
        raise ConfigError(
            f"prune.layers: {', '.join(self.request.layers)} cannot be pruned.",
            hint="Name layers between others.",
        )

    def _by_group(self, groups: Sequence[_Group], wanted: Mapping[str, float]) -> dict[str, float]:
        """The ratio of each layer that has one; layers of a group must agree."""
        for group in groups:
            asked = {name: wanted[name] for name in group.layers if name in wanted}
            if len(set(asked.values())) > 1:
                seen = ", ".join(f"{name} = {ratio:g}" for name, ratio in asked.items())
                raise ConfigError(
                    f"prune.layers: {seen}: a skip connection ties their channels, so they must "
                    "have one ratio.",
                    hint="Give the same ratio to all of them, or name only one.",
                )
        return {name: ratio for name, ratio in wanted.items() if name not in self.kept_whole}

    def _check(self, module: torch.nn.Module) -> None:
        """Run the pruned network once."""
        try:
            shapes = _shapes(module, self.example)
        except Exception as error:  # user code raises whatever it meets
            text = (str(error).strip().splitlines() or ["no message"])[0]
            raise ConfigError(
                f"prune: the pruned network does not run ({type(error).__name__}: {text}).",
                hint="Its forward relies on fixed sizes (attention heads, a reshape, a sum with "
                f"the input): put those layers into prune.ignore; layers are "
                f"{_listed(list(_layers(self.original)))}.",
            ) from error
        if shapes != self._shapes:
            raise ConfigError(
                f"prune: the outputs became {shapes}, must stay {self._shapes}.",
                hint="Put the layers that make the outputs into prune.ignore.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Layers that lose the same channels, and whether an output has these channels too."""

    layers: tuple[str, ...]
    is_output: bool


def channels(before: torch.nn.Module, after: torch.nn.Module) -> list[dict[str, Any]]:
    """Output channels of each layer before and after: what a report's table shows."""
    small = _layers(after)
    return [
        {"layer": name, "before": _width(layer), "after": _width(small[name])}
        for name, layer in _layers(before).items()
    ]


def _groups(original: torch.nn.Module, example: Sequence[torch.Tensor]) -> Iterator[_Group]:
    """The groups of the dependency graph."""
    from torch_pruning.ops import OPTYPE

    module = _copy(original)
    names = {part: name for name, part in _layers(module).items()}
    with _quiet():
        graph = _graph(module, example)
        for group in graph.get_all_groups(root_module_types=_kinds()):
            found = []
            is_output = False
            for dependency, _ in group:
                target = dependency.target
                is_output |= target.type == OPTYPE.OUTPUT
                if target.module in names and graph.is_out_channel_pruning_fn(dependency.handler):
                    found.append(names[target.module])
            tied = tuple(name for name in names.values() if name in found)
            yield _Group(layers=tied, is_output=is_output)


def _graph(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> Any:
    """torch-pruning's graph of which channels depend on which."""
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(
        module, list(example), output_transform=_marked, verbose=False
    )


def _parts(layer: Any) -> int:
    """Into how many parts a layer divides its channels; depthwise convolutions take them singly."""
    groups = int(getattr(layer, "groups", 1))
    if groups > 1 and groups == getattr(layer, "out_channels", None) == layer.in_channels:
        return 1
    return int(getattr(layer, "num_groups", groups))


def _marked(result: Any) -> list[Any]:
    """The outputs behind one more operation, so that the graph shows which values they are."""
    import torch

    if isinstance(result, torch.Tensor):
        result = [result]
    values = result.values() if isinstance(result, Mapping) else result
    return [value * 1 for value in values if value.requires_grad]


def _importance(name: str) -> Any:
    """torch-pruning's estimator of that name."""
    from torch_pruning.pruner import importance

    kinds = {
        "taylor": importance.GroupTaylorImportance,
        "magnitude": importance.GroupMagnitudeImportance,
        "fpgm": importance.FPGMImportance,
        "lamp": importance.LAMPImportance,
        "random": importance.RandomImportance,
    }
    return kinds[name]()


def _copy(original: torch.nn.Module) -> torch.nn.Module:
    """A copy with the gradients, which ``deepcopy`` leaves out, and with all weights trainable."""
    module = training.duplicate(original).eval().requires_grad_(True)
    for own, theirs in zip(module.parameters(), original.parameters(), strict=True):
        own.grad = None if theirs.grad is None else theirs.grad.clone()
    return module


def _shapes(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> list[list[int]]:
    """Shapes of all outputs at the example."""
    import torch

    with torch.no_grad():
        result = module(*example)
    if isinstance(result, torch.Tensor):
        result = [result]
    return [list(v.shape) for v in (result.values() if isinstance(result, Mapping) else result)]


def _matches(layers: Mapping[str, Any], patterns: Sequence[str], key: str) -> list[str]:
    """Names of the layers that match; refuses a pattern without a match."""
    found = []
    for pattern in patterns:
        matching = [name for name in layers if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(
                f"{key}: {pattern} matches no layer; there are {_listed(list(layers))}.",
                hint="Correct the name; * stands for any characters.",
            )
        found += matching
    return found


def _listed(names: Sequence[str]) -> str:
    """The names for a message; of many, the first ones."""
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _kinds() -> tuple[Any, ...]:
    """Kinds of layers whose output channels can be pruned."""
    import torch

    return (torch.nn.modules.conv._ConvNd, torch.nn.Linear)


def _layers(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Convolutions and linear layers by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, _kinds())}


def _width(layer: Any) -> int:
    """Output channels of a layer."""
    return int(getattr(layer, "out_channels", None) or layer.out_features)


class _quiet(warnings.catch_warnings):  # noqa: N801
    """torch-pruning warns of parameters outside layers; the check afterwards decides."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore")
        return entered

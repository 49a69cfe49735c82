"""`Space`: a validated space file, and what a search asks of it."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from .blocks import (
    DataBlock,
    LoraBlock,
    ModelBlock,
    ResourcesBlock,
    SearchBlock,
    TrackingBlock,
    TrainBlock,
)
from .domains import Label, Value
from .plain import plain_block
from .sampling import Parameter, Sample, Suggest, draw, locate, parameters


class Space(BaseModel):
    """What a user wants searched. Frozen; made by `load_space`, which checks it whole."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    model: ModelBlock
    data: DataBlock
    lora: InstanceOf[LoraBlock]
    train: InstanceOf[TrainBlock]
    search: SearchBlock = Field(default_factory=SearchBlock)
    resources: ResourcesBlock = Field(default_factory=ResourcesBlock)
    tracking: TrackingBlock = Field(default_factory=TrackingBlock)

    def values(self) -> dict[str, Value]:
        """Constants and domains of `lora` and `train`, by dotted key."""
        return {
            f"{block}.{name}": value
            for block, values in (("lora", self.lora), ("train", self.train))
            for name, value in values.values.items()
        }

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter that a sampler may be asked for, conditional ones included."""
        return parameters(self.values())

    def sample(self, suggest: Suggest) -> Sample:
        """Draw one configuration, define-by-run.

        Choices that bring values for other keys are asked for first, then all other domains,
        then ratios. A ratio's product is rounded where the field takes whole numbers.

        Args:
            suggest: Given a parameter's name and domain, returns one of `domain.labels` for a
                Choice, and a number of the domain for a range.

        Returns:
            `{"lora": {...}, "train": {...}}`, constants only, copied, so that the caller may
            change them. `train` may hold the early_stopping keys besides TrainingArguments'.

        Raises:
            ValueError: `suggest` returned something that is no label of its choice.
        """
        return draw(self.values(), suggest)

    def locate(self, values: Mapping[str, Mapping[str, object]]) -> dict[str, Label] | None:
        """The parameters for which `sample` gives exactly these values.

        Args:
            values: `{"lora": {...}, "train": {...}}`, whole, as `sample` returns it.

        Returns:
            Label or number (of a ratio: the factor) by parameter name, floats within a relative
            1e-9; None if no parameters of this space give these values.
        """
        return locate(self.values(), values)

    def rungs(self) -> tuple[int, ...]:
        """Optimizer steps after which a trial is judged, ascending; the last is the horizon.

        Without a scheduler there is only the horizon.
        """
        horizon, scheduler = self.train.max_steps, self.search.scheduler
        return (horizon,) if scheduler is None else scheduler.rungs(horizon)

    def resolved(self) -> dict[str, object]:
        """The space file with every default filled in, as plain data: loads as an equal Space."""
        search, scheduler = self.search.model_dump(), self.search.scheduler
        judged = "none" if scheduler is None else {scheduler.word: scheduler.model_dump()}
        return {
            "model": self.model.model_dump(),
            "data": self.data.model_dump(),
            "lora": plain_block(self.lora.values),
            "train": plain_block(self.train.values),
            "search": {**search, "scheduler": judged},
            "resources": self.resources.model_dump(),
            "tracking": self.tracking.chosen() or None,
        }

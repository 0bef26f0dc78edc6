"""What a student begins with: embeddings, head and some of the layers of its teacher."""

from transformers import PreTrainedConfig, PreTrainedModel

from nlp_ssl.config.distillation import DistillationSection
from nlp_ssl.core.errors import UserError
from nlp_ssl.models.layers import layers_of


def spread_layers(student: PreTrainedConfig, teacher: PreTrainedConfig) -> list[int]:
    """The teacher's layers that the student's begin with: evenly spread, the first and the last among them.

    Twelve into six are 0, 2, 4, 7, 9, 11, as in DistilBERT. Where layers are of several kinds, as ModernBERT's with
    and without a window, each is the nearest of its own kind.
    """
    count, there = student.num_hidden_layers, teacher.num_hidden_layers
    if not (own := getattr(student, "layer_types", None)) or not (theirs := getattr(teacher, "layer_types", None)):
        own, theirs = [None] * count, [None] * there
    found = []
    for number, kind in enumerate(own):
        place = (number * (there - 1) + (count - 1) // 2) // max(1, count - 1)
        alike = [layer for layer in range(there) if theirs[layer] == kind] or range(there)
        found.append(min(alike, key=lambda layer: abs(layer - place)))
    return found


def begin_with_layers(
    student: PreTrainedModel, teacher: PreTrainedModel, options: DistillationSection, is_new: bool
) -> list[int]:
    """Copy the teacher's embeddings, head and chosen layers to a new student; returns the layers, none if it cannot.

    Raises:
        UserError: layers were named, and cannot be those of this student.
    """
    if options.layers == [] or (not is_new and options.layers is None):
        return []
    if not is_new:
        raise UserError("--distillation.layers is for a new student, and --model.name gives one that is trained")
    count, there = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    layers = spread_layers(student.config, teacher.config) if options.layers is None else options.layers
    if len(layers) != count or not all(0 <= layer < there for layer in layers):
        raise UserError(
            f"--distillation.layers {layers} must name one of the teacher's {there} layers, from 0, for each of the "
            f"student's {count}"
        )
    weights, own = teacher.state_dict(), student.state_dict()
    taken = {name: weights.get(_place(name, student, layers)) for name in own}
    if type(student) is type(teacher) and all(
        value is not None and value.shape == own[name].shape for name, value in taken.items()
    ):
        student.load_state_dict(taken)
        return layers
    if options.layers is None:
        return []
    raise UserError(
        "--distillation.layers needs a student of the teacher's shape but for the number of layers; leave out what "
        "--model gives"
    )


def _place(name: str, student: PreTrainedModel, layers: list[int]) -> str:
    """The name of the teacher's weight that a student's weight begins with."""
    stack = layers_of(student.base_model)
    prefix = next((at for at, module in student.named_modules() if module is stack), None)
    if prefix is None or not name.startswith(f"{prefix}."):
        return name
    number, _, rest = name.removeprefix(f"{prefix}.").partition(".")
    return f"{prefix}.{layers[int(number)]}.{rest}"

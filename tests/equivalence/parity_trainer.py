"""The stock `transformers.Trainer` on the same models and texts, laid out as it is used: one text a row, padded."""

import tempfile

import torch
from parity_cases import BATCH, IGNORED, NUM_ROWS, PAD, Case, alone, build_model, documents, labelled, loss_alone
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments


def examples(case: Case) -> list[tuple[list[int], list[int] | int | float]]:
    """`BATCH` texts, each with its targets."""
    if case.is_packed:
        found = [next(alone(case, row, number, 0)) for number, row in enumerate(documents(isolated=False))]
    elif case.task == "tagging":
        found = [(row["input_ids"][0], row["labels"][0]) for row in labelled(case.task)]
    else:  # the Trainer cannot do without a label
        found = [(row["input_ids"], row["labels"]) for row in labelled(case.task) if row["labels"] is not None]
    assert BATCH <= len(found) <= NUM_ROWS
    return found[:BATCH]


def expected_step(case: Case) -> tuple[float, float]:
    """Loss and gradient norm of these texts, as the witness has them."""
    model = build_model(case, isolated=False).double()
    sums, counts = zip(*[loss_alone(case, model, *example) for example in examples(case)], strict=True)
    loss = sum(sums) / sum(counts)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.item(), gradient.norm().item()


def trainer_step(case: Case, micro_batch: int, accumulation: int) -> tuple[float, float]:
    """Loss and gradient norm that the Trainer logs for these texts in one optimizer step."""

    def collate(rows: list[tuple]) -> dict[str, Tensor]:
        longest = max(len(ids) for ids, _ in rows)

        def padded(values: list[int], fill: int) -> list[int]:
            return values + [fill] * (longest - len(values))

        targets = [target for _, target in rows]
        if case.task == "causal":  # the model shifts by itself
            targets = [[IGNORED, *target[:-1]] for target in targets]
        if isinstance(targets[0], list):
            targets = [padded(target, IGNORED) for target in targets]
        return {
            "input_ids": torch.tensor([padded(ids, PAD) for ids, _ in rows]),
            "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in rows]),
            "labels": torch.tensor(targets),
        }

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=1e9,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
            log_level="error",
            use_cpu=True,
        )
        trainer = Trainer(build_model(case, isolated=False), arguments, collate, examples(case))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    step = trainer.state.log_history[0]
    return step["loss"], step["grad_norm"]

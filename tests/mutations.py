"""Put faults into the program, one after the other, and see that the tests find each of them.

    python tests/mutations.py [--check] [name ...]

takes the faults whose names contain one of the given words, or all of them. Each is put into a copy of the repository,
and the tests that should find it run there. It is caught when one of them fails because the program behaves otherwise;
a fault that cannot be imported proves nothing, and counts as broken. `--check` first runs the same tests in a copy
without a fault. The exit code is 1 if a fault was not caught.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = (".*", "__pycache__", "*.egg-info")
OUTPUTS = ("build", "dist", "runs", "tokenizers", "tokens", "wandb", "shared")  # of the top folder
NO_BEHAVIOUR = re.compile(r"^E\b.*\b(SyntaxError|ImportError|ModuleNotFoundError|NameError|UnboundLocalError)\b", re.M)
LONGEST = 900  # seconds for the tests of one fault


@dataclass(frozen=True)
class Fault:
    """What is wrong, where, and which tests should find it.

    Attributes:
        name: what is wrong.
        file: in `nlp_ssl/`.
        right: a text that the file has once.
        wrong: what it is replaced by.
        tests: files in `tests/`, or tests in them where a file takes minutes, separated by blanks.
    """

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = [
    # ----------------------------------------------------------------------------------------------- a step of training
    Fault(
        "loss divided by the targets of a micro-batch",
        "training/gradients.py",
        "{k: f * accelerator.num_processes for k, f in here.items()}",
        "{k: objective.terms[k] * accelerator.num_processes / max(1, batch.counts[k]) for k in here}",
        "equivalence/test_parity.py",
    ),
    Fault(
        "gradient divided by the number of processes once more",
        "training/gradients.py",
        "{k: f * accelerator.num_processes for k, f in here.items()}",
        "here",
        "recipes/test_equivalence.py",
    ),
    Fault(
        "targets of one process in place of all",
        "training/loop.py",
        "dist.all_reduce(self.counts, group=self.group, async_op=True) if self.group else None",
        "None",
        "recipes/test_equivalence.py",
    ),
    Fault(
        "logged loss averaged over processes in place of summed",
        "training/loop.py",
        'accelerator.reduce(torch.stack([sums[name] for name in targets]), "sum")',
        'accelerator.reduce(torch.stack([sums[name] for name in targets]), "mean")',
        "recipes/test_equivalence.py",
    ),
    Fault(
        "gradients never exchanged between processes",
        "training/gradients.py",
        "contextlib.nullcontext() if last else accelerator.no_sync(module)",
        "accelerator.no_sync(module)",
        "recipes/test_equivalence.py",
    ),
    Fault(
        "gradient not clipped",
        "training/loop.py",
        "max_grad_norm or math.inf",
        "math.inf",
        "training/test_loop.py",
    ),
    Fault(
        "gradient of the step before kept",
        "training/loop.py",
        "        optimizer.zero_grad(set_to_none=True)\n",
        "",
        "equivalence/test_parity.py",
    ),
    Fault(
        "a step whose loss is not finite applied",
        "training/loop.py",
        'if incident in (None, "overflow"):',
        "if True:",
        "recipes/test_incidents.py",
    ),
    Fault(
        "learning rate of the step after",
        "training/loop.py",
        "horizon.factor(schedule, number)",
        "horizon.factor(schedule, number + 1)",
        "training/test_loop.py",
    ),
    Fault(
        "warm-up that begins with a rate of zero",
        "training/schedules.py",
        "return (step + 1) / warmup",
        "return step / warmup",
        "training/test_schedules.py",
    ),
    Fault(
        "decay that ends a step early",
        "training/schedules.py",
        "(step - (total - decay)) / max(decay, 1e-9)",
        "(step + 1 - (total - decay)) / max(decay, 1e-9)",
        "training/test_schedules.py",
    ),
    Fault(
        "weight decay on norms, biases and embeddings",
        "training/optimizers.py",
        '"weight_decay": 0.0}',
        '"weight_decay": weight_decay}',
        "training/test_optimizers.py",
    ),
    Fault(
        "embeddings taken for matrices, by Muon and by weight decay",
        "training/optimizers.py",
        "embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}",
        "embeddings = set()",
        "training/test_optimizers.py",
    ),
    Fault(
        "Muon takes queries, keys and values for one matrix",
        "training/muon.py",
        'FUSED.get(name.rpartition(".")[2], 1)',
        "1",
        "training/test_muon.py",
    ),
    Fault(
        "Muon's step not scaled by the shape of the matrix",
        "training/muon.py",
        'step = -group["lr"] * math.sqrt(max(1, rows / columns))',
        'step = -group["lr"]',
        "training/test_muon.py",
    ),
    Fault(
        "rates of layers that fall towards the head",
        "training/layerwise.py",
        "transfer.layer_decay ** (depth - 1)",
        "transfer.layer_decay ** (deepest - depth)",
        "training/test_layerwise.py",
    ),
    Fault(
        "layers that should wait learn from the beginning",
        "training/loop.py",
        'begun = number >= group.get("begins", 0.0) * (horizon.steps or 0)',
        "begun = True",
        "recipes/test_finetuning.py::test_layers_that_wait_begin_from_the_top",
    ),
    Fault(
        "LoRA's products left out of the saved model",
        "training/adapters.py",
        'product = module.scaling["default"] * (up @ down)',
        "product = 0 * (up @ down)",
        "training/test_adapters.py",
    ),
    Fault(
        "LoRA's factor left out of the saved model",
        "training/adapters.py",
        'product = module.scaling["default"] * (up @ down)',
        "product = up @ down",
        "training/test_adapters.py",
    ),
    Fault(
        "a loss term without its weight",
        "training/loop.py",
        "factors = {name: weights[name] / max(1, count) for name, count in targets.items()}",
        "factors = {name: 1 / max(1, count) for name, count in targets.items()}",
        "objectives/test_contract.py",
    ),
    Fault(
        "a loss term divided by the targets of another",
        "training/loop.py",
        "factors = {name: weights[name] / max(1, count) for name, count in targets.items()}",
        "factors = {name: weights[name] / max(1, *targets.values()) for name in targets}",
        "objectives/test_contract.py",
    ),
    Fault(
        "an objective never told that a step was taken",
        "training/loop.py",
        "                objective.after_step(number + 1)\n",
        "                pass\n",
        "objectives/test_contract.py",
    ),
    Fault(
        "gradients of other rows in the second of two passes",
        "training/gradients.py",
        "begin = sum(sizes[: accelerator.process_index])",
        "begin = 0",
        "objectives/test_contract.py",
    ),
    Fault(
        "padding of a shorter share taken for vectors of the step",
        "objectives/gathering.py",
        "torch.cat([each[:size] for each, size in zip(everyones, sizes, strict=True)])",
        "torch.cat(list(everyones))",
        "objectives/test_contract.py",
    ),
    Fault(
        "other dropout in the second of two passes",
        "training/gradients.py",
        "        _restore(states[i], accelerator.device)  # the same dropout\n",
        "",
        "objectives/test_contract.py",
    ),
    # ---------------------------------------------------------------------------------------------------------- masking
    Fault(
        "none of the chosen tokens kept as it is",
        "objectives/masking.py",
        "random = (how < _share(mask_share + random_share)) & ~hidden",
        "random = ~hidden",
        "objectives/test_masking.py",
    ),
    Fault(
        "special tokens masked",
        "objectives/masking.py",
        "candidates = self.is_ordinary[input_ids]\n",
        "candidates = np.ones(input_ids.shape, dtype=bool)\n",
        "objectives/test_masking.py",
    ),
    Fault(
        "special tokens drawn as replacements",
        "objectives/masking.py",
        "return np.flatnonzero(there)",
        "return np.flatnonzero(there | True)",
        "objectives/test_masking.py",
    ),
    Fault(
        "the same masks in every epoch",
        "objectives/masking.py",
        "hash64(self.seed, self.source, epochs, rows)",
        "hash64(self.seed, self.source, 0 * epochs, rows)",
        "objectives/test_masking.py",
    ),
    Fault(
        "the same masks in every row",
        "objectives/masking.py",
        "hash64(self.seed, self.source, epochs, rows)",
        "hash64(self.seed, self.source, epochs, 0 * rows)",
        "objectives/test_masking.py",
    ),
    Fault(
        "labels read off the row that is already masked",
        "objectives/mlm.py",
        'targets = batch["input_ids"].ravel()[positions]',
        "targets = input_ids.ravel()[positions]",
        "objectives/test_mlm.py",
    ),
    Fault(
        "logits gathered one token beside their labels",
        "models/label_gather.py",
        "index_select(0, self.positions)",
        "index_select(0, (self.positions - 1).clamp(min=0))",
        "models/test_label_gather.py",
    ),
    # ------------------------------------------------------------------------------------------------ packing and order
    Fault(
        "the rest of a long document begins a token early",
        "data/sequences/packing_index.py",
        'pieces["start"] = lengths // self.capacity * self.capacity',
        'pieces["start"] = lengths // self.capacity * self.capacity - (lengths > self.capacity)',
        "data/sequences/test_packing.py",
    ),
    Fault(
        "a document exactly as long as a row dropped",
        "data/sequences/packing_index.py",
        "            counts = lengths // self.capacity\n",
        "            counts = np.maximum(lengths - 1, 0) // self.capacity\n",
        "data/sequences/test_packing.py",
    ),
    Fault(
        "documents cut though it saves no row",
        "data/sequences/packing_index.py",
        "if rows < fewest_rows:",
        "if rows <= fewest_rows:",
        "data/sequences/test_packing.py",
    ),
    Fault(
        "an end taught where a document is cut",
        "data/sequences/packing.py",
        "+ i] = is_cut",
        "+ i] = False",
        "data/sequences/test_packing.py",
    ),
    Fault(
        "positions counted over the row in place of the document",
        "data/sequences/packing.py",
        "position_ids = np.arange(len(rows) * width) - np.repeat(begin_of, length_of)",
        "position_ids = np.arange(len(rows) * width) % width",
        "data/sequences/test_packing.py",
    ),
    Fault(
        "an order that is no permutation",
        "data/sequences/order.py",
        "out = np.where(outside, network(out), out)",
        "out = out % np.uint64(size)",
        "data/sequences/test_order.py",
    ),
    Fault(
        "the same order in every epoch",
        "data/sequences/order.py",
        "num_rows, seed, epoch)\n",
        "num_rows, seed)\n",
        "data/sequences/test_order.py",
    ),
    Fault(
        "all processes learn from the rows of the first",
        "data/sequences/batches.py",
        "for r in (self.rank, self.rank + 1))",
        "for r in (0, 1))",
        "data/sequences/test_batches.py",
    ),
    Fault(
        "rows of a batch ramp begin anew in every phase",
        "data/sequences/phases.py",
        "begins.append(visited.get(rows, 0) + a_step.get(rows, 0))",
        "begins.append(a_step.get(rows, 0))",
        "data/sequences/test_phases.py",
    ),
    Fault(
        "held-out documents trained on",
        "data/text/corpus.py",
        "if held_out in sides:",
        "for held_out in {False, held_out} & sides:",
        "data/text/test_corpus.py",
    ),
    # ------------------------------------------------------------------------------------------- isolation of documents
    Fault(
        "documents of a row see each other",
        "models/attention.py",
        "mask = document_ids[:, :, None] == document_ids[:, None, :]",
        "mask = (document_ids[:, :, None] > 0) == (document_ids[:, None, :] > 0)",
        "models/test_attention.py",
    ),
    Fault(
        "windows of attention one token too wide",
        "models/attention.py",
        "distance.abs() < sliding_window",
        "distance.abs() <= sliding_window",
        "models/test_attention.py",
    ),
    Fault(
        "windows of attention in tiles one token too wide",
        "models/tiled_attention.py",
        "np.abs(query - key) < sliding_window",
        "np.abs(query - key) <= sliding_window",
        "models/test_tiled_attention.py",
    ),
    Fault(
        "a causal token sees the next one",
        "models/attention.py",
        "mask = mask & (distance >= 0)",
        "mask = mask & (distance >= -1)",
        "models/test_attention.py",
    ),
    Fault(
        "a causal phase of an encoder sees the future",
        "models/packed.py",
        "Documents(document_ids, causal, ",
        "Documents(document_ids, False, ",
        "models/test_attention.py",
    ),
    Fault(
        "positions of RoBERTa from zero",
        "models/packed.py",
        "position_ids + self.position_offset",
        "position_ids",
        "models/test_attention.py",
    ),
    # ------------------------------------------------------------------------------------------------------- objectives
    Fault(
        "causal labels across the boundary of documents",
        "objectives/clm.py",
        "(documents[:, 1:] == documents[:, :-1]) & (documents[:, 1:] > 0)",
        "(documents[:, 1:] > 0)",
        "objectives/test_clm.py",
    ),
    Fault(
        "causal labels not shifted",
        "objectives/clm.py",
        "np.where(follows, ids[:, 1:], IGNORE)",
        "np.where(follows, ids[:, :-1], IGNORE)",
        "objectives/test_clm.py",
    ),
    Fault(
        "classes of a trained head taken in the order of the data",
        "objectives/label_matching.py",
        "names = dict(zip(rows, labels, strict=True))",
        "names = dict(zip([row for row in range(len(head)) if row in rows], labels, strict=False))",
        "objectives/test_label_matching.py",
    ),
    Fault(
        "rows of a trained head not brought into the order of its classes",
        "objectives/label_matching.py",
        "return arrange(data, match.rows), True",
        "return data, True",
        "recipes/test_trained_heads.py",
    ),
    # ---------------------------------------------------------------------------------------- files as people have them
    Fault(
        "a running number taken for the word",
        "data/labelled/conll.py",
        "        if not all(_is_number(cell) for cells in sentences for cell in cells):\n",
        "        if True:\n",
        "data/labelled/test_forms.py",
    ),
    Fault(
        "whole numbers with a fraction taken for scores",
        "data/labelled/label_values.py",
        'return "whole" if len(distinct) <= MAX_WHOLE_CLASSES and all(map(float.is_integer, distinct)) else "scores"',
        'return "scores"',
        "data/labelled/test_forms.py",
    ),
    Fault(
        "a label that is no number taken for a class",
        "data/labelled/label_values.py",
        "return value is None or (isinstance(value, float) and math.isnan(value))",
        "return value is None",
        "data/labelled/test_forms.py",
    ),
    Fault(
        "0 and 1 for each class taken for two classes",
        "data/labelled/label_form.py",
        "ones=0 if names else _number_of_ones(lists)",
        "ones=0",
        "data/labelled/test_forms.py",
    ),
    Fault(
        "the first row of a table without a header lost",
        "data/labelled/files.py",
        "    header = list(form.column_names or (rows.pop(0).fields if rows else ()))\n",
        "    first = rows.pop(0).fields if rows else ()\n    header = list(form.column_names or first)\n",
        "data/labelled/test_labelled_files.py",
    ),
    Fault(
        "fields of every table separated by commas",
        "data/files/forms.py",
        "    for delimiter in DELIMITERS:\n",
        '    for delimiter in ",":\n',
        "data/labelled/test_labelled_files.py",
    ),
    Fault(
        "a labelled file read in an encoding that nobody gave",
        "data/labelled/files.py",
        "return data.decode(form.encoding)",
        'return data.decode("latin-1")',
        "data/labelled/test_labelled_files.py",
    ),
    Fault(
        "rows behind an open quote lost",
        "data/files/tables.py",
        "            waiting.extendleft(reversed(taken[1:]))\n",
        "            pass\n",
        "data/text/test_corpus.py",
    ),
    Fault(
        "an entity that continues one of another type",
        "data/labelled/tag_schemes.py",
        'if open_ and prefix in "IE" and this_kind == kind:',
        'if open_ and prefix in "IE":',
        "data/labelled/test_tag_schemes.py",
    ),
    Fault(
        "special tokens that a text spells read as special tokens",
        "data/tokens/text_only.py",
        "names = {token: _NAME.format(token) for token in special}",
        "names = {}",
        "data/tokens/test_text_only.py",
    ),
    Fault(
        "a damaged file of the cache taken for whole",
        "core/cache.py",
        "return (size > LARGE and _times(file) == times) or sha256(file) == digest",
        "return True",
        "test_cache.py",
    ),
    Fault(
        "the pipeline's F1 taken from the run",
        "evaluation/tagger_readings.py",
        "score([find(p.predicted) for p in predictions], truth), read(as_written)",
        "(same := score([find(p.predicted) for p in predictions], truth)), same",
        "objectives/test_word_tokens.py",
    ),
    Fault(
        "a row that is lost under a name of its own not warned of",
        "data/labelled/label_values.py",
        "if wanted and rows.has_header and wanted in rows.column(wanted):",
        "if False:",
        "recipes/test_inputs_of_users.py::test_a_table_without_a_header_loses_no_row",
    ),
    Fault(
        "class weights ignored",
        "objectives/classification.py",
        "weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)",
        "weights = None",
        "objectives/test_classification.py",
    ),
    Fault(
        "class weights that favour frequent classes",
        "objectives/classification.py",
        "[len(data.train) / (len(counts) * max(1, counts[i])) for",
        "[len(counts) * counts[i] / len(data.train) for",
        "recipes/test_finetuning.py::test_a_plain_loop_learns_the_same_classifier",
    ),
    Fault(
        "a word's tag on the word behind it",
        "objectives/tagging.py",
        "labels[at] = tags[word]\n",
        "labels[at] = tags[word - 1]\n",
        "objectives/test_tagging.py",
    ),
    Fault(
        "a word's tag on its last token",
        "objectives/word_tokens.py",
        "                if is_free:\n                    first[i], is_free = at, False",
        "            if is_free:\n                first[i], is_free = at, False",
        "objectives/test_tagging.py objectives/test_word_tokens.py",
    ),
    Fault(
        "words that a window shows again learnt twice",
        "objectives/tagging.py",
        "(len(self.prefix) + new - start), [IGNORED] * len(self.suffix)\n"
        "                window.append([*before, *row[new:end], *behind])",
        "len(self.prefix), [IGNORED] * len(self.suffix)\n"
        "                window.append([*before, *row[start:end], *behind])",
        "objectives/test_tagging.py",
    ),
    # ------------------------------------------------------------------------------------------------------- evaluation
    Fault(
        "entity F1 that ignores the type",
        "evaluation/metrics.py",
        "hits.update(entity.type for entity in found & true)",
        "hits.update(entity.type for entity in true if entity[1:] in {other[1:] for other in found})",
        "evaluation/test_metrics.py",
    ),
    Fault(
        "bits per byte of tokens in place of bytes",
        "data/sequences/packing.py",
        'return float((self.tokens.document_bytes[documents] * (pieces["length"] / lengths)).sum())',
        'return float(pieces["length"].sum())',
        "objectives/test_clm.py data/sequences/test_packing.py",
    ),
    Fault(
        "nats per byte in place of bits",
        "objectives/cross_entropy.py",
        "text_loss_sum / math.log(2) / num_bytes",
        "text_loss_sum / num_bytes",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "bits per byte of a run with the loss of begin and end",
        "objectives/clm.py",
        "(losses * is_text).sum()",
        "losses.sum()",
        "objectives/test_clm.py",
    ),
    Fault(
        "held-out loss a mean of the batches' means",
        "evaluation/held_out.py",
        "                    sums[name] = sums.get(name, 0.0) + value\n"
        "            for name, count in batch.counts.items():\n"
        "                counts[name] = counts.get(name, 0) + count\n",
        '                each = locals().get("each", {})\n'
        "                each.setdefault(name, []).append(value.cpu().double() / batch.counts.get(name, 1))\n"
        "            for name, count in batch.counts.items():\n"
        "                counts[name] = counts.get(name, 0) + count\n"
        "            sums = {name: sum(m) / len(m) * counts.get(name, len(m)) for name, m in each.items()}\n",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "held-out loss of one process in place of all",
        "evaluation/held_out.py",
        "gather_object([(sums, parts, counts)])",
        "[(sums, parts, counts)]",
        "evaluation/test_held_out.py recipes/test_equivalence.py",
    ),
    Fault(
        "dropout in held-out loss",
        "evaluation/held_out.py",
        "    inner.eval()\n",
        "",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "held-out masks that follow the batch size",
        "data/sequences/batches.py",
        "yield Selection(rows, part, np.zeros_like(part))",
        "yield Selection(rows, part, np.full_like(part, batch_size))",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "unigram entropy of the training text",
        "evaluation/held_out.py",
        "    for shard in held_out.arrays():\n",
        "    for shard in train.arrays():\n",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "unigram frequencies of the held-out text",
        "evaluation/held_out.py",
        "for shard in train.arrays():",
        "for shard in held_out.arrays():",
        "evaluation/test_held_out.py",
    ),
    Fault(
        "bootstrap that draws without replacement",
        "evaluation/intervals.py",
        "rows = rng.integers(num_rows, size=num_rows)",
        "rows = rng.permutation(num_rows)",
        "evaluation/test_intervals.py",
    ),
    Fault(
        "bootstrap interval of 90 %",
        "evaluation/intervals.py",
        "LEVEL = 1000, 0.95",
        "LEVEL = 1000, 0.90",
        "evaluation/test_intervals.py",
    ),
    Fault(
        "bootstrap that does not draw seeds",
        "evaluation/intervals.py",
        "runs = rng.integers(len(scorers), size=len(scorers))",
        "runs = np.arange(len(scorers))",
        "evaluation/test_intervals.py",
    ),
    # -------------------------------------------------------------------------------------------- files and checkpoints
    Fault(
        "a checkpoint named before its files are on disk",
        "training/checkpoints.py",
        "def _sync_and_hash(path: Path) -> str:\n    sync(path)\n",
        "def _sync_and_hash(path: Path) -> str:\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a checkpoint named before its manifest is on disk",
        "training/checkpoints.py",
        "            sync(path)\n        final",
        "            pass\n        final",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a checkpoint copied file by file to its name",
        "training/checkpoints.py",
        "        os.rename(temporary, final)\n",
        "        shutil.copytree(temporary, final, dirs_exist_ok=True)\n        shutil.rmtree(temporary)\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "files named in the cache before they are on disk",
        "core/files.py",
        "                if file.is_file():\n                    sync(file)\n",
        "                pass\n",
        "test_files.py",
    ),
    Fault(
        "files of a run named before they are on disk",
        "core/files.py",
        "            os.fsync(file.fileno())\n",
        "",
        "test_files.py",
    ),
    Fault(
        "older checkpoints removed when a save begins",
        "training/checkpoints.py",
        "        self.pending = temporary\n",
        "        self.pending = temporary\n        for path in self.list():\n            shutil.rmtree(path)\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a checkpoint of the same step removed before the new one is named",
        "training/checkpoints.py",
        "            os.rename(final, former)\n",
        "            shutil.rmtree(final)\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a save that shares the weights with training",
        "training/checkpoints.py",
        'value.detach().to("cpu", copy=True)',
        'value.detach().to("cpu")',
        "training/test_checkpoints.py",
    ),
    Fault(
        "the worst checkpoint kept as the best",
        "training/checkpoints.py",
        "scored = sorted((value, path)",
        "scored = sorted((-value, path)",
        "training/test_checkpoints.py",
    ),
    Fault(
        "sha256 of checkpoints not compared",
        "training/checkpoints.py",
        "if sha256(folder / name) != digest:",
        "if False:",
        "training/test_checkpoints.py",
    ),
    Fault(
        "sha256 of tokens not compared",
        "data/tokens/checksums.py",
        "None if _sha256_slowly(path) == digest else",
        "None if _sha256_slowly(path) else",
        "data/tokens/test_checksums.py",
    ),
    Fault(
        "torch.load that runs programs",
        "training/state_files.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        "test_no_code.py training/test_checkpoints.py",
    ),
    Fault(
        "a cache of classified rows that ignores the tokenizer",
        "objectives/classification.py",
        "[*self.text_columns, self.max_length, self.tokenizer]",
        "[*self.text_columns, self.max_length]",
        "objectives/test_classification.py",
    ),
    Fault(
        "a cache of tagged rows that ignores the tokenizer",
        "objectives/tagging.py",
        "[RULES, self.max_length, self.tokenizer, self.tags, self.reading]",
        "[RULES, self.max_length, self.tags, self.reading]",
        "objectives/test_tagging.py",
    ),
    Fault(
        "a cache of tokens that ignores the tokenizer",
        "runs/pretraining_data.py",
        "key = fingerprint(source, tokenizer_fingerprint(tokenizer))",
        "key = fingerprint(source)",
        "recipes/test_recipes.py",
    ),
    # -------------------------------------------------------------------------------------- interrupted, resumed, ended
    Fault(
        "a resumed run without the state of its optimizer",
        "training/checkpoints.py",
        "        optimizer.load_state_dict(moments)\n",
        "        pass\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a resumed run without what its objective has beside the model",
        "training/objective_state.py",
        "        objective.load_state_dict(rest, strict=False)\n",
        "        pass\n",
        "training/test_checkpoints.py objectives/test_contract.py",
    ),
    Fault(
        "a resumed run without the weights of its model",
        "training/objective_state.py",
        "model.load_state_dict({key: value for key, value in stored.items() if key in plain}, strict=False)",
        "pass",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a checkpoint of the third format resumed without its adapters",
        "training/objective_state.py",
        "            model.load_state_dict(read_tensors(former), strict=False)\n",
        "            pass\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a resumed run without its random state",
        "training/checkpoints.py",
        "            set_rng_state(drawn)\n",
        "            pass\n",
        "training/test_checkpoints.py",
    ),
    Fault(
        "a resumed run that repeats the rows of a step",
        "runs/run.py",
        "self.batches.steps(state.step + state.data_offset)",
        "self.batches.steps(max(0, state.step - 1) + state.data_offset)",
        "recipes/test_equivalence.py",
    ),
    Fault(
        "a resumed run that counts its tokens from zero",
        "runs/state.py",
        "            if f.name in stored:\n",
        '            if f.name in stored and f.name != "tokens_seen":\n',
        "recipes/test_equivalence.py",
    ),
    Fault(
        "a resumed run that forgets its best evaluation",
        "runs/run.py",
        ', "early_stopping": self.early_stopping}\n',
        "}\n",
        "recipes/test_finetuning.py::test_the_best_is_kept_and_patience_ends",
    ),
    Fault(
        "a resumed log with a step twice",
        "training/tracking.py",
        'event.get("step", 0) <= last_step',
        'event.get("step", 0) <= last_step + 1',
        "training/test_tracking.py",
    ),
    Fault(
        "an interrupted run that ends with 0",
        "core/program.py",
        "EXIT_INTERRUPTED = 75",
        "EXIT_INTERRUPTED = 0",
        "faults/test_interrupts.py",
    ),
    Fault(
        "a SIGTERM noted in training and never looked at",
        "runs/run.py",
        "stop_requested=lambda: signals.interrupts.reason is not None,",
        "stop_requested=lambda: False,",
        "faults/test_interrupts.py",
    ),
    Fault(
        "a SIGTERM that ends a run at once",
        "core/signals.py",
        "SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP,",
        "SIGNALS = (signal.SIGINT, signal.SIGHUP,",
        "recipes/test_equivalence.py",
    ),
    # ----------------------------------------------------------------------------------------------------------- trying
    Fault(
        "a model that guesses before the mask read at the mask",
        "trying/answers.py",
        'self._shift = int("logits[0, mask - 1]" in self.folder.text(_CARD))',
        "self._shift = 0",
        "trying/test_answers.py",
    ),
    Fault(
        "what a model writes shown as HTML",
        "trying/app.py",
        'return escape("".join(seen))',
        'return "".join(seen)',
        "trying/test_page.py",
    ),
    Fault(
        "control characters of a label sent to the terminal",
        "trying/terminal.py",
        '" ".join(printable(name).split())',
        '" ".join(name.split())',
        "trying/test_try.py",
    ),
    Fault(
        "the commits of a Space looked for in the model of its name",
        "publishing/repository.py",
        "commits = self._api.list_repo_commits(self.repo_id, revision=revision, repo_type=self.repo_type)",
        'commits = self._api.list_repo_commits(self.repo_id, revision=revision, repo_type="model")',
        "publishing/test_space.py",
    ),
    # ------------------------------------------------------------------------------------------------------- publishing
    Fault(
        "all that lies in a checkpoint pushed, the training state too",
        "publishing/pushed.py",
        "    for name, path in _all_files(folder).items():\n        if _is_pushed(name):\n",
        '    for path in filter(Path.is_file, folder.rglob("*")):\n        if name := str(path.relative_to(folder)):\n',
        "publishing/test_hub.py",
    ),
    Fault(
        "predictions for the texts of the data pushed",
        "publishing/pushed.py",
        "(CARD, *PICTURES, SETTINGS)",
        '(CARD, "predictions.jsonl", *PICTURES, SETTINGS)',
        "publishing/test_hub.py",
    ),
    Fault(
        "the training state put beside the finished model",
        "training/checkpoints.py",
        'names = [name for name in manifest if not name.startswith(f"{STATE}/")]',
        "names = list(manifest)",
        "training/test_checkpoints.py",
    ),
    Fault(
        "paths of the machine pushed with the settings",
        "publishing/pushed.py",
        "names_only(settings, near=folder)",
        "settings",
        "publishing/test_hub.py",
    ),
    Fault(
        "text in a table of the card not escaped",
        "publishing/card.py",
        'return _MARKUP.sub(r"\\\\\\g<0>", _line(text))',
        "return _line(text)",
        "publishing/test_card.py",
    ),
    Fault(
        "formulas in the card",
        "publishing/card.py",
        "<\\[|$*~]",
        "<\\[|]",
        "publishing/test_card.py",
    ),
    Fault(
        "lines of text in the card not joined",
        "publishing/card.py",
        'return printable(" ".join(str(text).split()))',
        "return printable(str(text))",
        "publishing/test_card.py",
    ),
    # ---------------------------------------------------------------------------------------------------------- options
    Fault(
        "help without the options of an objective's own section",
        "config/described.py",
        "groups[section.title] = groups.get(section.title, ()) + own",
        "continue",
        "config/test_help.py",
    ),
    Fault(
        "a value that is given stays commented out in the file of options",
        "config/template.py",
        "if not used and value == compact(option.default):",
        "if not used:",
        "config/test_template.py",
    ),
    Fault(
        "a text that looks like a number is written without quotes",
        "core/yaml_text.py",
        "_both = (yaml.SafeDumper.yaml_implicit_resolvers, _OptionsLoader.yaml_implicit_resolvers)",
        "_both = (yaml.SafeDumper.yaml_implicit_resolvers,)",
        "config/test_template.py",
    ),
    Fault(
        "a section with nothing but comments ends the program",
        "config/command_line.py",
        "if value is not None or name not in parts",
        "if value is not None or name",
        "config/test_template.py",
    ),
    Fault(
        "an option of transformers is answered by one that the recipe does not have",
        "config/renamed.py",
        'if all(name in known or f"{name}.enabled" in known for',
        "if all(name for",
        "config/test_renamed.py",
    ),
]


@dataclass(frozen=True)
class Outcome:
    """What the tests said.

    Attributes:
        verdict: `"caught"`, `"NOT caught"` or `"BROKEN"`.
        by: the first test that failed, or why nothing was proved.
        seconds: that they took.
    """

    verdict: str
    by: str
    seconds: float


def copy_of_repository(folder: Path) -> Path:
    """The working tree, without what git and caches keep."""

    def left_out(path: str, names: list[str]) -> set[str]:
        return shutil.ignore_patterns(*LEFT_OUT, *(OUTPUTS if Path(path) == ROOT else ()))(path, names)

    return Path(shutil.copytree(ROOT, folder / "repository", ignore=left_out))


def with_fault(fault: Fault) -> str:
    """The text of a file with what is wrong in place of what is right."""
    text = (ROOT / "nlp_ssl" / fault.file).read_text()
    count = text.count(fault.right)
    assert count == 1, f"{fault.name}: {fault.file} has {fault.right!r} {count} times, not once"
    text = text.replace(fault.right, fault.wrong)
    compile(text, fault.file, "exec")
    return text


def run_tests(repository: Path, files: Iterable[str]) -> Outcome:
    """Run test files until one test fails."""
    folder, began = repository.parent, time.monotonic()
    report, temporary = folder / "report.xml", folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    command += [f"tests/{file}" for file in files]
    variables = {"PYTHONPATH": str(repository), "TMPDIR": str(temporary)}
    with open(folder / "printed.txt", "wb") as printed:
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=os.environ | variables,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.monotonic() - began
    if code is None:
        return Outcome("NOT caught", f"no answer within {LONGEST} s", seconds)
    if code == 0:
        return Outcome("NOT caught", "", seconds)
    failed = _first_failure(report) if code == 1 else None
    if failed is None:
        last = (folder / "printed.txt").read_text(errors="replace").strip().splitlines()[-1:]
        return Outcome("BROKEN", f"pytest ended with {code}: {''.join(last)}", seconds)
    name, said = failed
    if said.startswith("collection failure") or (found := NO_BEHAVIOUR.search(said)):
        return Outcome("BROKEN", f"{name}: {'not collected' if said.startswith('collection') else found[1]}", seconds)
    return Outcome("caught", name, seconds)


def _first_failure(report: Path) -> tuple[str, str] | None:
    """The first test that failed, or whose fixtures did, and what it said."""
    for case in ET.parse(report).iter("testcase"):
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                name = f"{case.get('classname', '').removeprefix('tests.')}::{case.get('name')}"
                return name, f"{found.get('message', '')}\n{found.text or ''}"
    return None


def try_out(fault: Fault) -> Outcome:
    """Whether the tests find a fault."""
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
        repository = copy_of_repository(Path(folder))
        (repository / "nlp_ssl" / fault.file).write_text(with_fault(fault))
        return run_tests(repository, fault.tests.split())


def check(faults: list[Fault]) -> bool:
    """Whether the tests of these faults pass without any."""
    files = sorted({file for fault in faults for file in fault.tests.split()})
    for number, file in enumerate(files, start=1):
        with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
            outcome = run_tests(copy_of_repository(Path(folder)), [file])
        passed = (outcome.verdict, outcome.by) == ("NOT caught", "")
        said = "passes" if passed else f"FAILS without a fault: {outcome.by}"
        print(f"{number:3d}/{len(files)} {file} {said} ({outcome.seconds:.0f} s)", flush=True)
        if not passed:
            return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="words of the faults' names; all faults by default")
    parser.add_argument("--check", action="store_true", help="first run the tests without a fault")
    given = parser.parse_args()
    faults = [fault for fault in FAULTS if not given.names or any(name in fault.name for name in given.names)]
    if not faults:
        parser.error("no fault has such a name")
    for fault in faults:
        with_fault(fault)  # a list that the program has outgrown is found now, not after half an hour
    if given.check and not check(faults):
        return 1
    outcomes = []
    for number, fault in enumerate(faults, start=1):
        outcome = try_out(fault)
        outcomes.append(outcome)
        said = f"{outcome.verdict}{' by ' * (outcome.verdict == 'caught')}{outcome.by}"
        print(f"{number:3d}/{len(faults)} {fault.name}: {said} ({outcome.seconds:.0f} s)", flush=True)
    print("\n| fault | | test | seconds |\n|---|---|---|---:|")
    for fault, outcome in zip(faults, outcomes, strict=True):
        print(f"| {fault.name} | {outcome.verdict} | {outcome.by} | {outcome.seconds:.0f} |")
    caught = sum(outcome.verdict == "caught" for outcome in outcomes)
    print(f"\n{caught} of {len(faults)} faults are caught")
    return int(caught < len(faults))


if __name__ == "__main__":
    sys.exit(main())

"""Small files of every GLUE task in the layout in which the benchmark was published, written by hand."""

import gzip
from pathlib import Path

from launch import WORDS

QUOTE = 'He said "no and left'  # one quote is just a character
PAIR = ["index", "sentence1", "sentence2"]
# folder, header with label, header of the test file, columns of the texts, labels
LAYOUTS = {
    "cola": ("CoLA", None, ["index", "sentence"], ["sentence"], ["0", "1"]),
    "sst2": ("SST-2", ["sentence", "label"], ["index", "sentence"], ["sentence"], ["0", "1"]),
    "mrpc": (
        "MRPC",
        ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ["index", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ["#1 String", "#2 String"],
        ["0", "1"],
    ),
    "qqp": (
        "QQP",
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
        ["id", "question1", "question2"],
        ["question1", "question2"],
        ["0", "1"],
    ),
    "stsb": (
        "STS-B",
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score"],
        ["index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2"],
        ["sentence1", "sentence2"],
        ["1.000", "4.500"],
    ),
    "mnli": (
        "MNLI",
        ["index", "promptID", "sentence1_binary_parse", "sentence1", "sentence2", "label1", "gold_label"],
        ["index", "promptID", "sentence1_binary_parse", "sentence1", "sentence2"],
        ["sentence1", "sentence2"],
        ["contradiction", "entailment", "neutral"],
    ),
    "qnli": (
        "QNLI",
        ["index", "question", "sentence", "label"],
        ["index", "question", "sentence"],
        ["question", "sentence"],
        ["entailment", "not_entailment"],
    ),
    "rte": ("RTE", [*PAIR, "label"], PAIR, PAIR[1:], ["entailment", "not_entailment"]),
    "wnli": ("WNLI", [*PAIR, "label"], PAIR, PAIR[1:], ["0", "1"]),
}
LABEL_COLUMNS = ("label", "Quality", "is_duplicate", "score", "gold_label")


def write_glue(folder: Path, task: str, rows: int = 12, compress: bool = False) -> None:
    """Small files of a task, written by hand in the benchmark's layout."""
    name, header, test_header, texts, labels = LAYOUTS[task]
    files = {"train": header, "dev": header, "test": test_header}
    if task == "mnli":
        files = {"train": header, "dev_matched": header, "dev_mismatched": header}
        files |= {"test_matched": test_header, "test_mismatched": test_header}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for file, columns in files.items():
        lines = [] if columns is None else ["\t".join(columns)]
        for i in range(rows):
            text = f"{QUOTE} {file} {i} {' '.join(WORDS[i : i + 4])}"
            if columns is None:
                lines.append("\t".join(["gj04", labels[i % 2], "*" if i % 2 == 0 else "", text]))
                continue
            cells = {c: f"{text} {c[:2]}" for c in texts} | {c: labels[i % len(labels)] for c in LABEL_COLUMNS}
            lines.append("\t".join(str(cells.get(c, i)) for c in columns))
        content = ("\n".join(lines) + "\n").encode()
        path = folder / name / f"{file}.tsv"
        path.with_name(path.name + ".gz" * compress).write_bytes(gzip.compress(content) if compress else content)

"""Print F1 of taggers as their run and as plain `pipeline` count it.

    python tests/evaluation/tagger_table.py [tokenizer ...]

A tiny body under each tokenizer, or each of the named ones, learns 100 sentences of each language. The exit code is 1
if the two numbers differ in a run that does not say so.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from launch import run
from published_tokenizers import PUBLISHED
from toys import CAUSAL, tiny_config
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from nlp_ssl.data.labelled.detokenize import as_written
from nlp_ssl.data.tokens.tokenizer import train_tokenizer

STEPS = 160
BODIES = {
    "bert": "bert",
    "roberta": "roberta",
    "gpt2": "gpt2",
    "llama-3": "llama",
    "albert": "albert",
    "xlm-roberta": "roberta",
    "deberta-v3": "deberta-v2",
    "our wordpiece": "modernbert",
    "our bpe": "modernbert",
    "our unigram": "modernbert",
}
# words and tags; {0} is one of the people, {1} of the places, {2} a number
LANGUAGES = {
    "English": (
        ["Yesterday {0} Weber went to {1} by train with {2} friends .", "{1} was cold , said {0} O'Neill of {1} ."],
        ["O B-PER I-PER O O B-LOC O O O O O O", "B-LOC O O O O B-PER I-PER O B-LOC O"],
        ["Carla", "Jean-Luc", "Zoë", "Mehmet"],
        ["Paris", "Rome", "Tbilisi", "Oslo"],
    ),
    "numbers and punctuation": (
        ["$ {2},200.50 ( {1} ) : {0} & Co. 's {2}% !", '{2}/{2}/99 - "{0}" , {1} ; {2}'],
        ["O O O B-LOC O O B-PER O O O O O", "O O B-PER O B-LOC O O"],
        ["AT&T", "3M", "H.J.Smith", "d'Arc"],
        ["U.S.", "St.-Denis", "B-52", "N.Y.C."],
    ),
    "Chinese": (
        ["昨天 {0} 去 了 {1} 市 {2} 天 。", "{1} 的 {0} 说 很 好 ， {2} 年"],
        ["O B-PER O O B-LOC I-LOC O O O", "B-LOC O B-PER O O O O O O"],
        ["王小明", "李芳", "张伟", "陈"],
        ["上海", "北京", "东京", "海南"],
    ),
    "Thai": (
        ["วันนี้ {0} ไป {1} กับ เพื่อน {2} คน", "{1} ร้อน มาก {0} พูด"],
        ["O B-PER O B-LOC O O O O", "B-LOC O O B-PER O"],
        ["สมชาย", "มาลี", "ธนา", "อรุณ"],
        ["กรุงเทพ", "เชียงใหม่", "ภูเก็ต", "ลำปาง"],
    ),
}


def sentences(language: str, count: int, seed: int) -> list[dict[str, list[str]]]:
    """Rows of words and tags."""
    templates, tags, people, places = LANGUAGES[language]
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        which = rng.randrange(len(templates))
        filled = templates[which].format(rng.choice(people), rng.choice(places), rng.randint(1, 40))
        rows.append({"tokens": filled.split(), "ner_tags": tags[which].split()})
    return rows


def write_model(folder: Path, name: str, texts: list[str]) -> None:
    """A random body with a tokenizer of these texts."""
    kind = name.removeprefix("our ")
    is_ours = kind in ("wordpiece", "bpe", "unigram")
    tokenizer = train_tokenizer(texts, kind, 400, exact=False) if is_ours else PUBLISHED[name](texts)
    torch.manual_seed(0)
    auto_class = AutoModelForCausalLM if BODIES[name] in CAUSAL else AutoModelForMaskedLM
    auto_class.from_config(tiny_config(BODIES[name], len(tokenizer), max_position_embeddings=130)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)


def learn(name: str, language: str, folder: Path) -> tuple[dict[str, float], str]:
    """F1 by who reads, and what the run says of their difference."""
    for part, count, seed in (("train", 100, 0), ("validation", 60, 1)):
        rows = sentences(language, count, seed)
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_model(folder / "model", name, [as_written(row["tokens"])[0] for row in sentences(language, 300, 2)])
    printed = run(
        "finetune_ner.py", "--model.name", folder / "model", "--data.train_file", folder / "train.jsonl",
        "--data.validation_file", folder / "validation.jsonl", "--max_length", 96, "--train.steps", STEPS,
        "--train.global_batch_size", 16, "--optimizer.lr", "3e-3", "--train.mixed_precision", "no",
        "--train.cpu_threads", 1, "--output_dir", folder / "run",
    )  # fmt: skip
    lines = printed.splitlines()
    ways = {"run": "this run, ", "pipeline": "pipeline(", "split": "tokenizer("}
    found = {
        way: next(float(line.split()[-1]) for line in lines if line.startswith(start))
        for way, start in ways.items()
        if any(line.startswith(start) for line in lines)
    }
    return found, next((line for line in lines if line.startswith("pipeline's F1 is not the run's")), "")


def main() -> int:
    remarks, unsaid = [], 0
    print("| run F1 / pipeline F1 | " + " | ".join(LANGUAGES) + " |\n|---|" + "---:|" * len(LANGUAGES))
    for name in sys.argv[1:] or BODIES:
        cells = []
        for language in LANGUAGES:
            with tempfile.TemporaryDirectory() as folder:
                found, said = learn(name, language, Path(folder))
            cells.append(f"{found['run']:.4f} / {found['pipeline']:.4f}")
            if found["run"] != found["pipeline"]:
                remarks.append(f"- {name}, {language}: {said or 'NOT SAID'}")
                unsaid += not said
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n" + "\n".join(remarks))
    return int(unsaid > 0)


if __name__ == "__main__":
    sys.exit(main())

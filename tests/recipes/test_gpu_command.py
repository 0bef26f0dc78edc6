"""`python -m nlp_ssl.benchmarks.gpu`, rehearsed on a CPU: its parts, what it leaves, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launch import ROOT, execute, write_corpus

from nlp_ssl.benchmarks.gpu import table
from nlp_ssl.benchmarks.profiling import kind_of_kernel, profile_rows


def gpu(*options: object, expect: int = 0, timeout: int = 400) -> str:
    command = [sys.executable, "-m", "nlp_ssl.benchmarks.gpu", *map(str, options)]
    return execute(command, expect, timeout, PYTHONPATH=str(ROOT))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("gpu")
    corpus = write_corpus(folder / "corpus.txt")
    parts = "[hardware, bert-base 512, finetuning, pretraining]"
    options = ["--device", "cpu", "--tiny", "--rounds", 1, "--steps", 1, "--sources", corpus, "--parts", parts]
    labelled = folder / "labelled.csv"  # cut off, or refused, whichever comes first: it has no rows
    labelled.write_text("text,label\n")
    return gpu(*options, "--labelled", labelled, "--out", folder / "out"), folder / "out"


def test_every_part_leaves_its_result(measured):
    printed, out = measured
    names = sorted(path.name for path in out.glob("*.json"))
    assert names == ["bert-base-512.json", "hardware.json", "pretraining.json"]
    assert "bert-base 512: done in" in printed
    steps = json.loads((out / "bert-base-512.json").read_text())
    assert [each["name"] for each in steps["contenders"]] == ["nlp_ssl", "script"]
    run = json.loads((out / "pretraining.json").read_text())
    assert run["steps"] == 4
    assert {line["event"] for line in run["log"]} >= {"step", "evaluation"}


def test_a_part_that_fails_is_named_and_loses_only_itself(measured):
    printed, out = measured
    assert "finetuning: failed with exit code 2" in printed
    assert "labelled.csv" in (out / "finetuning.failed").read_text()
    assert printed.rstrip().splitlines()[-1].startswith("not measured: data, proofs, gpt2-small 1024")


def test_the_rows_can_be_printed_again(measured):
    printed, out = measured
    rows = table(out)
    assert rows in printed
    own = json.loads((out / "bert-base-512.json").read_text())["contenders"][0]
    assert f"| bert-base 512 | {own['tokens_per_second']:,.0f} | {own['mfu']:.0%} |" in rows
    assert gpu("--table", out).strip() == rows.strip()


def test_what_it_refuses(tmp_path):
    said = gpu("--parts", "[steps]", "--device", "cpu", expect=2).strip().splitlines()[-1]
    assert "there is no part 'steps'; there are hardware, data, proofs, bert-base 512" in said
    said = gpu("--table", tmp_path, expect=2).strip().splitlines()[-1]
    assert "holds no results" in said


def test_kernels_are_told_apart_by_their_names():
    names = {
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x": "attention",
        "nvjet_sm90_tst_192x192_64x3_1x2_h_bz_coopB_splitK_NTN": "matrix products",
        "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize128x128x8_stage3": "matrix products",
        "triton_poi_fused_gelu_gelu_backward_view_17": "made by the compiler",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdam": "optimizer",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "void at::native::reduce_kernel<128, 4>": "other",
    }
    assert {name: kind_of_kernel(name) for name in names} == names
    kernels = dict.fromkeys(names, 2.0)
    rows, sentence = profile_rows({"seconds": 0.02, "kernels": kernels, "floor": {"products": 0.003}})
    assert sum(float(row["ms per step"]) for row in rows) == 16
    assert rows[0]["share of the step"] == "20%"
    assert "takes 20.0 ms, its kernels 16.0; its products would take 3.0" in sentence


LOAD = """
import subprocess, sys
from nlp_ssl.benchmarks.load import Load
load, work = Load(), "sum(i * i for i in range(4_000_000))"
subprocess.run([sys.executable, "-S", "-c", work], check=True)
exec(work)
print(load.of_ours(), load.of_others())
"""


def test_the_load_of_others_leaves_out_what_a_process_and_its_children_do():
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    ours, others = map(float, done.stdout.split())
    assert ours > 0.2
    assert 0 <= others <= 1

"""imp bench: sizes, table and fields; imp-cli: bench lines, flags and errors."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import imp
from imp import _core
from imp.cli import bench, classic, exit_codes, main_classic
from imp.cli.app import run_app

# What readers of llama-bench's JSON use; its placement knobs for several GPUs have no meaning here.
LLAMA_BENCH_FIELDS = {
    "build_commit": str, "build_number": int, "cpu_info": str, "gpu_info": str, "backends": str, "model_filename": str,
    "model_type": str, "model_size": int, "model_n_params": int, "n_batch": int, "n_ubatch": int, "n_threads": int,
    "type_k": str, "type_v": str, "n_gpu_layers": int, "n_prompt": int, "n_gen": int, "n_depth": int, "test_time": str,
    "avg_ns": int, "stddev_ns": int, "avg_ts": float, "stddev_ts": float, "samples_ns": list, "samples_ts": list,
}  # fmt: skip


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of the user takes part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("IMP_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("512", [512]),
        ("0", [0]),
        ("128,256", [128, 256]),
        ("1-4", [1, 2, 3, 4]),
        ("128-512+128", [128, 256, 384, 512]),
        ("128-1000*2", [128, 256, 512]),
        ("8,16-64*2,3", [8, 16, 32, 64, 3]),
    ],
)
def test_sizes(text: str, sizes: list[int]) -> None:
    assert bench.parse_sizes(text, "-p") == sizes


@pytest.mark.parametrize(
    "text", ["", "x", "1,", "-4", "4-", "4-2", "1-8*1", "0-8*2", "1-8+0", "1-8/2", "1-100000", "1.5"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^-p "):
        bench.parse_sizes(text, "-p")


def test_plan_names_tests_as_llama_bench_does() -> None:
    tests = bench.plan("512,0", "128", ["512,128", "0,4"], "0,4096")
    names = ["pp512", "tg128", "pp512+tg128", "tg4"]
    assert [test.name for test in tests] == names + [f"{name} @ d4096" for name in names]
    with pytest.raises(ValueError, match="expected PP,TG"):
        bench.plan("1", "1", ["512"], "0")
    with pytest.raises(ValueError, match="nothing to measure"):
        bench.plan("0", "0", None, "0")


def test_markdown_is_llama_benchs_table_with_two_columns_more(
    tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["bench", tiny_llama, "-p", "16", "-n", "4", "-pg", "16,4", "-d", "0,8", "-r", "2", "-t", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == (
        "| model                          |       size |     params | backend    | threads |            test |"
        "                  t/s |     GB/s |  of peak |"
    )
    assert lines[1] == (
        "| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: |"
        " -------------------: | -------: | -------: |"
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:8]]
    assert [row[5] for row in rows] == [
        "pp16", "tg4", "pp16+tg4", "pp16 @ d8", "tg4 @ d8", "pp16+tg4 @ d8",
    ]  # fmt: skip
    for row in rows:
        assert row[:5] == ["llama 129K F32", "0.49 MiB", "0.13 M", "CPU", "1"]
        assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", row[6])
        generates_only = row[5].startswith("tg")
        assert bool(re.fullmatch(r"\d+\.\d", row[7])) == generates_only
        assert bool(re.fullmatch(r"\d+ %", row[8])) == generates_only
    assert {len(line) for line in lines[1:2]} == {len(lines[0])}
    assert re.fullmatch(r"build: \w+ \(\d+\)", lines[9])
    assert re.fullmatch(r"peak: \d+\.\d GB/s read from memory, measured in this run", lines[10])


def bench_rows(capsys: pytest.CaptureFixture[str], model: str, *more: str) -> list[dict[str, Any]]:
    """The rows of a small benchmark as JSON."""
    assert run_app(["bench", model, "-p", "16", "-n", "4", "-r", "3", *more, "-o", "json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_json_has_llama_benchs_fields(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench_rows(capsys, tiny_llama, "-t", "1,2")
    assert [(row["n_threads"], row["n_prompt"], row["n_gen"]) for row in rows] == [
        (1, 16, 0), (1, 0, 4), (2, 16, 0), (2, 0, 4),
    ]  # fmt: skip
    for row in rows:
        for name, kind in LLAMA_BENCH_FIELDS.items():
            assert isinstance(row[name], kind), name
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 3
        tokens = row["n_prompt"] + row["n_gen"]
        for nanoseconds, speed in zip(row["samples_ns"], row["samples_ts"], strict=True):
            assert speed == pytest.approx(tokens / nanoseconds * 1e9)
        assert row["avg_ts"] == pytest.approx(sum(row["samples_ts"]) / 3)
        assert row["model_size"] == 129472 * 4
        assert row["model_n_params"] == 129472
    generation = rows[1]
    assert generation["read_share"] == pytest.approx(generation["read_gb_s"] / generation["peak_read_gb_s"])
    assert rows[0]["read_gb_s"] is None


def test_a_gpus_bandwidth_is_its_own(
    tiny_llama: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure_cpu(_: int) -> float:
        pytest.fail("the CPU's bandwidth was measured")

    measured = []

    def measure_gpu(index: int) -> float:
        measured.append(index)
        return 4e12

    monkeypatch.setattr(_core, "measure_read_bandwidth", measure_cpu)
    monkeypatch.setattr(_core, "measure_gpu_read_bandwidth", measure_gpu)
    monkeypatch.setattr(
        bench, "open_engine", lambda model, *, device, **rest: imp.Engine(model, device="cpu", log=False)
    )
    monkeypatch.setattr(imp.Engine, "device", "cuda")
    for device, index in (("cuda", 0), ("cuda:1", 1)):
        small = ["bench", tiny_llama, "-p", "0", "-n", "2", "-r", "1", "-t", "1", "--device", device, "-o", "json"]
        assert run_app(small) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert measured.pop() == index
        assert row["peak_read_gb_s"] == 4000
        assert row["read_share"] == pytest.approx(row["read_gb_s"] / 4000)


def test_csv_and_jsonl_carry_the_same_rows(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["bench", tiny_llama, "-p", "8", "-n", "2", "-r", "1", "-t", "1"]
    assert run_app([*small, "-o", "csv"]) == 0
    from_csv = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert run_app([*small, "-o", "jsonl"]) == 0
    from_lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(from_csv) == len(from_lines) == 2
    for text, row in zip(from_csv, from_lines, strict=True):
        assert list(text) == [name for name in row if not name.startswith("samples_")]
        assert text["model_type"] == row["model_type"]
        assert float(text["avg_ts"]) > 0
        assert row["stddev_ts"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "xml"], "-o xml: one of md, csv, json, jsonl"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-p", "9-1"], "does not go up"),
        (["-pg", "1"], "expected PP,TG"),
        (["-r", "0"], "--repetitions"),
        (["-p", "8", "-n", "0", "--set", "runtime.max_seq_len=4"], "needs 8 tokens of context, and max_seq_len is 4"),
        (["-t", "99999999999"], "num_threads: expected an integer"),
    ],
)
def test_wrong_bench_options(
    arguments: list[str], message: str, tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["bench", tiny_llama, *arguments]) == exit_codes.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


# ---- imp-cli


def run_classic(*arguments: str) -> int:
    """imp-cli in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main_classic(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_classic_bench_lines(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_classic("-m", tiny_llama, "--bench", "--bench-pp", "16", "--bench-reps", "2", "-n", "4", "-t", "1") == 0
    heading, pp, tg = capsys.readouterr().out.splitlines()
    assert heading.startswith("llama 129K F32, ")
    assert heading.endswith("prompt of fixed ids, greedy, tg at depth 16")
    assert re.fullmatch(r"pp 16 tokens avg \d+\.\d\d ms \(\d+ tok/s\) \[2 reps\]", pp)
    assert re.fullmatch(r"tg 4 tokens avg \d+\.\d\d ms \(\d+\.\d tok/s\) \[2 reps\]", tg)


def test_classic_bench_json(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-m", tiny_llama, "--bench", "--bench-pp", "16", "--bench-reps", "2", "-n", "4", "-t", "1", "--json"]
    assert run_classic(*command, "--set", "bench.generate=true") == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert (result["pp_tokens"], result["tg_tokens"], result["tg_depth"], result["reps"]) == (16, 4, 16, 2)
    assert result["prefill_tps"] == pytest.approx(16e3 / result["pp_ms"])
    assert result["decode_tps"] == pytest.approx(4e3 / result["tg_ms"])
    assert result["generate_tps"] == pytest.approx(4e3 / result["generate_ms"])
    assert result["generate_ms"] > 0
    for name in ("pp_ms", "tg_ms"):
        assert result[f"{name}_min"] <= result[name] <= result[f"{name}_max"]
    assert result["peak_vram_mib"] == 0
    assert result["dispatch"]["resolved"]["kv_dtype"] == "fp16"
    assert run_classic(*command) == 0
    assert "generate_ms" not in json.loads(capsys.readouterr().out)


def test_classic_bench_keeps_a_length_that_was_set(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-m", tiny_llama, "--bench", "--bench-pp", "16", "--bench-reps", "1", "-n", "4", "-t", "1", "--json"]
    for given, length in (([], 16 + 4 + 256), (["--max-seq-len", "40"], 40), (["--set", "runtime.max_seq_len=41"], 41)):
        assert run_classic(*command, *given) == 0
        assert json.loads(capsys.readouterr().out)["dispatch"]["resolved"]["max_seq_len"] == length


def test_classic_bench_vram_is_the_total_alone(
    tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imp.Engine, "device", "cuda")
    command = ["-m", tiny_llama, "--bench", "--bench-pp", "4", "--bench-reps", "1", "-n", "2", "--json"]
    assert run_classic(*command, "--report", "report.json") == 0
    memory = json.loads((tmp_path / "report.json").read_text())["mem"]
    assert json.loads(capsys.readouterr().out)["peak_vram_mib"] == memory["total"] / 2**20 > 0


def test_classic_prompt_template_and_report(
    tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("-m", tiny_llama, "-n", "3", "--temperature", "0", "--json")
    counts = {}
    for template in ("none", "auto", "chatml"):
        assert run_classic(*common, "-p", "hello", "--chat-template", template) == 0
        counts[template] = json.loads(capsys.readouterr().out)["prompt_tokens"]
    assert counts["none"] < counts["auto"] == counts["chatml"]
    (tmp_path / "prompt").write_text("hello")
    assert run_classic(*common, "--prompt-file", "prompt", "--report", "report.json", "--max-seq-len", "100") == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == counts["auto"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["config"]["effective"]["runtime.max_seq_len"] == {
        "value": 100,
        "origin": "flag",
        "detail": "--max-seq-len",
    }


def test_classic_sampling_flags_reach_the_sampler(tiny_llama: str) -> None:
    flags = (
        "--temperature 0.5 --top-k 7 --top-p 0.8 --min-p 0.1 --typical-p 0.9 --repeat-penalty 1.1 --repeat-last-n 9 "
        "--frequency-penalty 0.2 --presence-penalty 0.3 --seed 5 --dry-multiplier 0.4 --dry-base 2 "
        "--dry-allowed-length 3 --dry-penalty-last-n 11 --mirostat 2 --mirostat-tau 4 --mirostat-eta 0.2 --stop a --stop b"
    )
    params = classic.make_params(classic.make_parser().parse_args(["-m", tiny_llama, *flags.split()]))
    assert (params.temperature, params.top_k, params.top_p, params.min_p, params.typical_p) == (0.5, 7, 0.8, 0.1, 0.9)
    assert (params.repetition_penalty, params.penalty_last_n) == (1.1, 9)
    assert (params.frequency_penalty, params.presence_penalty, params.seed) == (0.2, 0.3, 5)
    assert (params.dry_multiplier, params.dry_base, params.dry_allowed_length, params.dry_penalty_last_n) == (
        0.4,
        2,
        3,
        11,
    )
    assert (params.mirostat, params.mirostat_tau, params.mirostat_eta) == (2, 4, 0.2)
    assert params.stop == ["a", "b"]
    assert params.max_tokens == 256


def test_classic_perplexity_equals_ppl(tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("hello in the tower " * 300)
    command = ["-m", tiny_llama, "--perplexity", "text", "--json", "-t", "1", "--max-seq-len", "512"]
    assert run_classic(*command) == 0
    classic_value = json.loads(capsys.readouterr().out)["perplexity"]
    assert run_app(["ppl", tiny_llama, "-f", "text", "--json", "-t", "1", "--set", "runtime.max_seq_len=512"]) == 0
    assert classic_value == json.loads(capsys.readouterr().out)["perplexity"]


def test_classic_conversation_takes_the_named_template(
    tiny_llama: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    chat_ids = imp.Engine.chat_ids

    def note(engine: imp.Engine, messages: Any, **options: Any) -> list[int]:
        given.append(chat_ids(engine, messages, **options))
        return given[-1]

    monkeypatch.setattr(imp.Engine, "chat_ids", note)
    for template in ("auto", "none", "llama3"):
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        assert run_classic("-m", tiny_llama, "-i", "-n", "2", "--chat-template", template, "--device", "cpu") == 0
    with imp.Engine(tiny_llama, device="cpu") as engine:
        messages = [{"role": "user", "content": "hello"}]
        expected = [chat_ids(engine, messages, chat_template=name) for name in (None, "none", "llama3")]
    assert given == expected
    assert len({tuple(ids) for ids in given}) == 3


def test_classic_conversation_without_a_template_is_refused_before_loading(
    tiny_llama: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_core, "read_chat_template", lambda path: "")
    monkeypatch.setattr(classic, "Engine", lambda *_, **__: pytest.fail("it was loaded"))
    assert run_classic("-m", tiny_llama, "-i") == exit_codes.USAGE
    assert "has no chat template; name one with --chat-template" in capsys.readouterr().err


def test_classic_switches_act_or_are_refused_by_name() -> None:
    status = {row["name"]: row["status"] for row in _core.option_rows()}
    for flag, (key, value) in classic._CONFIG_FLAGS.items():
        if status[key] == "active" or flag == "--kv-fp16":  # the cache is fp16
            continue
        given = [flag] if value is not None else [flag, "x"]
        with pytest.raises(ValueError, match=rf"^{flag}: {key} .*not implemented yet"):
            classic.make_config(classic.make_parser().parse_args(["-m", "m", *given]))


def test_ctrl_c_during_the_first_imports_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt:
        """Ctrl-C at the import of the command."""

        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "imp.cli.classic":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "imp.cli.classic")
    monkeypatch.setattr(sys, "meta_path", [Interrupt, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main_classic(["--help"])
    assert ended.value.code == exit_codes.INTERRUPTED
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--mtp-spec-decode", "-p", "x"], "unrecognized arguments: --mtp-spec-decode"),
        (["--bench-p", "5", "--bench"], "unrecognized arguments: --bench-p"),
        ([], "give exactly one of --prompt"),
        (["-p", "x", "--bench"], "give exactly one of --prompt"),
        (["-p", "x", "--prompt-file", "f"], "exclude each other"),
        (["--prompt-file", "/no/such"], "--prompt-file /no/such: No such file"),
        (["--perplexity", "/no/such"], "--perplexity /no/such: No such file"),
        (["-p", "x", "--kv-fp8"], '--kv-fp8: kv_cache.dtype = "fp8" is not implemented yet'),
        (["-p", "x", "--kv-fp16", "--kv-int4"], '--kv-int4: kv_cache.dtype = "int4" is not implemented yet'),
        (["-p", "x", "--prefix-caching"], "unrecognized arguments: --prefix-caching"),
        (["-p", "x", "--mmproj", "f"], "--mmproj: paths.mmproj"),
        (["-p", "x", *["--stop", "s"] * 5], "--stop can be given 4 times"),
        (["-p", "x", "-n", "0"], "--max-tokens/-n: expected a whole number of at least 1, found '0'"),
        (["-p", "x", "-n", "abc"], "--max-tokens/-n: expected a whole number of at least 1, found 'abc'"),
        (["-p", "x", "-t", "1.5"], "--threads/-t: expected a whole number of at least 0, found '1.5'"),
        (["-p", "x", "--top-p", "3"], "top_p = 3"),
        (["-p", "x", "--temperature", "warm"], "invalid float value: 'warm'"),
    ],
)
def test_wrong_classic_flags_are_2(
    arguments: list[str], message: str, tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_classic("--model", tiny_llama, *arguments) == exit_codes.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_classic_model_errors_are_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_classic("-m", "nothing.gguf", "-p", "x") == exit_codes.MODEL
    assert capsys.readouterr().err.startswith("imp-cli: no file and no catalogue model 'nothing.gguf'")

"""imp run, ppl, explain, inspect, ls, doctor and config on a tiny model, and their exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import imp
from imp import models
from imp.cli import common, exit_codes
from imp.cli.app import run_app

CUDA_REASON = imp._core.why_no_cuda()
NO_CUDA = pytest.mark.skipif(not CUDA_REASON, reason="this machine has a CUDA device")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No configuration, cache or home of the user takes part."""
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "HF_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("IMP_CONFIG", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Runs a command that must succeed; what it wrote to stdout, parsed."""
    assert run_app(list(arguments)) == 0
    return json.loads(capsys.readouterr().out)


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-W", "error", "-c", "from imp.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, encoding="utf-8", errors="replace", **options)


# ---- run


def test_run_streams_the_answer_to_stdout_and_the_rest_to_stderr(
    tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["run", tiny_llama, "hello", "-n", "12", "--temp", "0", "-t", "1", "--stats"]) == 0
    captured = capsys.readouterr()
    with imp.Engine(tiny_llama, device="cpu", num_threads=1) as engine:
        params = imp.SamplingParams(temperature=0, max_tokens=12)
        expected = engine.chat([{"role": "user", "content": "hello"}], params)[0]
    assert captured.out == expected.outputs[0].text + "\n"
    device_line, *stats = captured.err.splitlines()
    assert device_line.startswith("imp: cpu: ")
    names = [line.split()[0] for line in stats if line.strip()]
    assert names == ["model", "backend", "memory", "load", "prompt", "generation"]
    assert re.search(r"prompt +\d+ tokens, [\d.]+ tokens/s", captured.err)
    assert re.search(r"generation +\d+ tokens, [\d.]+ tokens/s", captured.err)
    assert re.search(r"memory +weights .*total .*process_peak", captured.err)


def test_run_json_raw_and_system(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("-n", "3", "--temp", "0", "--device", "cpu", "--json")
    raw = run_json(capsys, "run", tiny_llama, "hello", "--raw", *common)
    chat = run_json(capsys, "run", tiny_llama, "hello", *common)
    system = run_json(capsys, "run", tiny_llama, "hello", "--system", "be brief", *common)
    with imp.Engine(tiny_llama, device="cpu") as engine:
        assert raw["prompt_tokens"] == len(engine.tokenize("hello"))
        assert chat["prompt_tokens"] == len(engine.chat_ids([{"role": "user", "content": "hello"}]))
    assert system["prompt_tokens"] > chat["prompt_tokens"] > raw["prompt_tokens"]
    assert raw["finish_reason"] in ("length", "stop")
    assert raw["memory_bytes"]["weights"] > 0
    assert raw["device"].startswith("cpu: ")


def test_run_reads_standard_input(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "from imp.cli import main; main()", "run", tiny_llama, "--json", "-n", "2"]
    done = subprocess.run(command, input="hello", capture_output=True, text=True, check=True)
    by_argument = run_json(capsys, "run", tiny_llama, "hello", "--json", "-n", "2")
    assert json.loads(done.stdout)["prompt_tokens"] == by_argument["prompt_tokens"]
    assert done.stderr == ""


def test_same_seed_same_answer(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {}
    for seed in ("1", "1", "2"):
        answer = run_json(capsys, "run", tiny_llama, "hi", "--temp", "1.5", "-s", seed, "-n", "16", "--json")["text"]
        assert answers.setdefault(seed, answer) == answer
    assert answers["1"] != answers["2"]


def test_report_is_written_whole(tiny_llama: str, tmp_path: Path) -> None:
    assert run_app(["run", tiny_llama, "hi", "-n", "1", "--report", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["device"]["backend"] == "cpu"
    assert [path.name for path in tmp_path.glob("r.json*")] == ["r.json"]


# ---- exit codes: one line, the right number, no traceback


def damage(tmp_path: Path, tiny_llama: str, kind: str) -> str:
    """A file that is no model in one of several ways."""
    path = tmp_path / f"{kind}.gguf"
    data = bytearray(Path(tiny_llama).read_bytes())
    match kind:
        case "empty":
            data = bytearray()
        case "cut":
            del data[50_000:]
        case "magic":
            data[:4] = b"GGML"
        case "architecture":
            at = data.index(b"llama", data.index(b"general.architecture"))
            data[at : at + 5] = b"xlama"
        case "pre_tokenizer":
            at = data.index(b"gpt-2", data.index(b"tokenizer.ggml.pre"))
            data[at : at + 5] = b"gpt-9"
        case "pipe":
            os.mkfifo(path)
            return str(path)
        case "directory":
            path.mkdir()
            return str(path)
        case "missing":
            return str(path)
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no file and no catalogue model"),
        ("directory", "is a directory"),
        ("pipe", "is a named pipe"),
        ("empty", "the file is empty"),
        ("cut", "the file may be incomplete"),
        ("magic", "not a GGUF file"),
        ("architecture", 'general.architecture is "xlama"; this build knows'),
        ("pre_tokenizer", "gpt-9"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "ppl", "bench", "explain", "chat"])
def test_a_file_that_is_no_model_is_3(
    verb: str, kind: str, message: str, tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = damage(tmp_path, tiny_llama, kind)
    (tmp_path / "text").write_text("some text")
    more = {"run": ["hi"], "ppl": ["-f", "text"]}.get(verb, [])
    assert run_app([verb, model, *more]) == exit_codes.MODEL
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("imp: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{model}", "hi", "-c", "4"], "the prompt has 18 tokens, but max_seq_len is 4"),
        (["run", "{model}", "hi", "--temp", "nan"], "temperature = nan"),
        (["run", "{model}", "hi", "--top-p", "7"], "top_p = 7"),
        (["run", "{model}", ""], "the prompt is empty"),
        (["run", "{model}", "hi", "--raw", "--system", "x"], "--system needs a chat template"),
        (["run", "{model}", "hi", "--device", "vulkan"], 'device "vulkan" is unknown'),
        (["run", "{model}", "hi", "--device", "cuda:x"], 'device "cuda:x" is unknown'),
        (["run", "/no/model", "hi", "--device", "tpu"], 'device "tpu" is unknown; expected auto, cpu, cuda or cuda:N'),
        (["run", "{model}", "hi", "--threads", "9999"], "number of threads is 9999"),
        (["run", "{model}", "hi", "--threads", "99999999999"], "num_threads: expected an integer from"),
        (["run", "{model}", "hi", "--max-tokens", "99999999999"], "expected an integer of at most 2147483647"),
        (["run", "{model}", "hi", "--seed", "-1"], "seed: expected an integer from 0 to 2**64 - 1, or None, found -1"),
        (["run", "{model}", "hi", "-c", "99999999999"], "--ctx-size: runtime.max_seq_len"),
        (["run", "{model}", "hi", "-c", "9", "--set", "runtime.max_seq_len=8"], "--ctx-size and --set"),
        (["run", "{model}", "hi", "--memory-budget", "lots"], "--memory-budget lots: expected a size like 8GiB"),
        (["run", "{model}", "hi", "--memory-budget", "0"], "--memory-budget 0: expected a size like 8GiB"),
        (["explain", "{model}", "--batch", "99999999999"], "batch_sizes: expected an integer from"),
        (["run", "{model}", "hi", "--set", "nonsense"], "expected section.key=value"),
        (["run", "{model}", "hi", "--set", "kv_cache.dtyp=fp8"], "kv_cache.dtype"),
        (["run", "{model}", "hi", "--set", "kv_cache.dtype=fp8"], "not implemented yet"),
        (["run", "{model}", "hi", "--config", "/no/such.conf"], "/no/such.conf: no such configuration file"),
        (["run", "{model}", "--bogus"], "No such option: --bogus"),
        (["run"], "Missing argument"),
        (["bogus"], "No such command 'bogus'"),
        (["ppl", "{model}", "-f", "/no/such/text"], "--file /no/such/text: No such file or directory"),
        (["ppl", "{model}", "-f", "{model}"], "not UTF-8 at byte"),
        (["ppl", "{model}", "-f", "text", "-c", "64"], "64"),
        (["explain", "{model}", "--batch", "0"], "token counts start at 1"),
        (["explain", "{model}", "--batch", "x"], "expected token counts like 1,8,512"),
        (["config", "check", "/no/such.conf"], "/no/such.conf: no such file"),
        (["config", "check", "{model}"], 'expected "key = value"'),
        (["config", "show", "--set", "runtime.warmup=maybe"], "runtime.warmup"),
        (["pull", "hf:nonsense"], "not of the form hf:org/repo[:quant]"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], message: str, tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("too short for a window")
    filled = [argument.replace("{model}", tiny_llama) for argument in arguments]
    assert run_app([*filled, "--device", "cpu"] if filled[0] == "ppl" else filled) == exit_codes.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


@NO_CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_device_that_is_not_there_is_4(device: str, tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", tiny_llama, "hi", "--device", device]) == exit_codes.DEVICE
    assert capsys.readouterr().err == f"imp: --device {device}: {CUDA_REASON}; use --device cpu\n"


def test_each_device_is_looked_at_by_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imp._core, "why_no_cuda", lambda device=0: "" if device == 1 else f"number {device} is too old")
    for usable in ("cpu", "auto", "cuda:1"):
        common.check_device(usable)
    for device, number in (("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)):
        with pytest.raises(imp.CudaError, match=rf"^--device {device}: number {number} is too old; use --device cpu$"):
            common.check_device(device)


def test_a_memory_budget_is_kept_to_and_the_refusal_says_which_would_do(
    tiny_llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("explain", tiny_llama, "--device", "cpu", "--json", "--memory-budget")
    assert run_app([*command, "1MiB"]) == exit_codes.MEMORY
    refusal = capsys.readouterr().err
    assert refusal.startswith("imp: the model does not fit: weights ")
    assert refusal.count("\n") == 1
    advice = re.search(r"set the memory budget to (\d.*B) or more", refusal)
    assert advice
    plan = run_json(capsys, *command, advice.group(1))["memory_plan"]
    assert plan["total_bytes"] <= plan["budget_bytes"] == common.parse_bytes(advice.group(1), "")
    assert "asked for" in plan["table"]


@pytest.mark.parametrize(
    ("text", "count"),
    [("4096", 4096), ("1K", 1024), ("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("2gb", 2 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, count: int) -> None:
    assert common.parse_bytes(text, "--x") == count


@pytest.mark.parametrize("text", ["", "0", "-1", "8 bananas", "GiB", "1e9", "nan", "9999999T", "9" * 400, "1,5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--x .*: expected a size like 8GiB, 512MiB or a number of bytes$"):
        common.parse_bytes(text, "--x")


def test_a_warning_is_said_once(tiny_llama: str, capfd: pytest.CaptureFixture[str]) -> None:
    setting = "runtime.max_batch_size=999"
    for arguments in (["run", tiny_llama, "hi", "-n", "1", "--set", setting], ["config", "show", "--set", setting]):
        assert run_app(arguments) == 0
        assert capfd.readouterr().err.count("999 is above the largest value") == 1


def test_no_memory_is_5(tiny_llama: str) -> None:
    code = (
        "import resource; from imp.cli import main, app; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); "
        f"main(['run', {tiny_llama!r}, 'hi', '-c', '50000000', '--device', 'cpu'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == exit_codes.MEMORY
    assert re.search(r"^imp: .*memory", done.stderr, re.M)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["/no/such/folder/r.json", "/dev/full", "."])
def test_an_unwritable_report_is_1(path: str, tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["run", tiny_llama, "hi", "-n", "1", "--report", path]) == exit_codes.FAILURE
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(f"imp: --report {path}: ")
    assert not Path(path + ".part").exists()
    assert captured.out == "" or path == "/dev/full", "what can be known is said before the work"


def test_a_full_disk_under_stdout_is_1(tiny_llama: str) -> None:
    for arguments in (["inspect", tiny_llama, "--json"], ["--help"]):
        with Path("/dev/full").open("w") as full:
            process = start(*arguments, stdout=full, stderr=subprocess.PIPE)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (exit_codes.FAILURE, "imp: No space left on device\n")


def test_a_closed_pipe_is_quiet(tiny_llama: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("inspect", tiny_llama, "--json", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (exit_codes.BROKEN_PIPE, "")


def test_ctrl_c_is_130(tiny_llama: str) -> None:
    arguments = ["run", tiny_llama, "hello", "--temp", "0", "--set", "runtime.max_seq_len=5000000", "-n", "4000000"]
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(20)  # it is generating
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED
    assert errors.endswith("imp: interrupted\n")
    assert "Traceback" not in errors


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tiny_llama: str) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("imp.cli.inspect.inspect", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run_app(["inspect", tiny_llama])


def test_every_documented_code_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for code, meaning in exit_codes.TABLE:
        assert f"{code} {meaning}" in text


# ---- ppl


def test_ppl_json_equals_the_engine(tiny_llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "hello in the tower " * 60
    (tmp_path / "text").write_text(text)
    result = run_json(capsys, "ppl", tiny_llama, "-f", "text", "-c", "64", "--json", "-t", "1", "--device", "cpu")
    with imp.Engine(tiny_llama, device="cpu", num_threads=1) as engine:
        expected = engine.perplexity(text, context=64)
    assert result["perplexity"] == pytest.approx(expected.value, rel=1e-12)
    assert (result["windows"], result["scored_tokens"]) == (expected.windows, expected.scored_tokens)
    assert run_app(["ppl", tiny_llama, "-f", "text", "-c", "64", "-t", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"perplexity {expected.value:.4f} +/- ")
    assert "\r" not in captured.err, "no progress where stderr is no terminal"


# ---- explain, inspect


def test_explain_in_both_forms(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    explained = run_json(capsys, "explain", tiny_llama, "--batch", "1,16", "--json", "--device", "cpu")
    assert explained["spec"]["architecture"] == "llama"
    assert run_app(["explain", tiny_llama, "--batch", "1,16", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "architecture=llama" in out
    assert re.search(r"^ *qkv +F32 .*m=16 ", out, re.M)


def test_inspect_in_both_forms(tiny_llama: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, "inspect", tiny_llama, "--json")
    assert report["metadata"]["general.architecture"] == "llama"
    assert len(report["metadata"]["tokenizer.ggml.tokens"]) == 288
    assert report["file_bytes"] == Path(tiny_llama).stat().st_size
    embedding = next(tensor for tensor in report["tensors"] if tensor["name"] == "token_embd.weight")
    assert embedding["shape"] == [288, 64]
    assert embedding["bytes"] == 288 * 64 * 4
    assert run_app(["inspect", tiny_llama, "--tensors"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"token_embd\.weight +F32 +288 x 64 +72\.0 KiB", text)
    assert "(288 values)" in text


# ---- ls, doctor


def test_ls_names_what_is_here(
    alone: Path, tiny_llama: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_json(capsys, "ls", "--json") == []
    assert run_app(["ls"]) == 0
    assert "imp ls --all" in capsys.readouterr().out
    first = models.CATALOGUE[0]
    size = Path(tiny_llama).stat().st_size
    entry = models.CatalogueEntry("tiny", "t", "tiny.gguf", size, "0" * 64, "none", first.parts)
    monkeypatch.setattr(models, "CATALOGUE", (entry, first))
    path = models.cache_dir() / "tiny.gguf"
    path.parent.mkdir(parents=True)
    shutil.copy(tiny_llama, path)
    assert run_json(capsys, "ls", "--json") == [
        {"name": "tiny", "path": str(path), "size_bytes": size, "source": "catalogue"}
    ]
    rows = run_json(capsys, "ls", "--json", "--all")
    assert [(row["name"], row["path"]) for row in rows] == [("tiny", str(path)), (first.name, None)]
    assert run_app(["ls", "--all"]) == 0
    assert f"imp pull {first.name}" in capsys.readouterr().out
    assert run_json(capsys, "run", "tiny", "hi", "-n", "1", "--json")["generated_tokens"] == 1


class FakeDevice:
    """A CUDA device as the native part describes it."""

    def __init__(self, index: int, why_not: str = "", free_gib: int = 100) -> None:
        self.index, self.name, self.why_not = index, "NVIDIA H200", why_not
        self.major, self.minor, self.driver_version, self.runtime_version = 9, 0, 13010, 13000
        self.architectures = "90a,120a"
        self.free_bytes, self.total_bytes = free_gib << 30, 140 << 30


@pytest.mark.parametrize(
    ("devices", "level", "text"),
    [
        ([], "ok", "none: no CUDA driver on this machine"),
        ([FakeDevice(0)], "ok", "0: NVIDIA H200, sm_90, 100.00 GiB of 140.00 GiB free; driver for CUDA 13.1, built "
         "with 13.0 for 90a,120a"),
        ([FakeDevice(0), FakeDevice(1, "out of memory")], "ok", "1: NVIDIA H200: out of memory"),
        ([FakeDevice(0, free_gib=0)], "note", "0 B of 140.00 GiB free"),
        ([FakeDevice(0, "NVIDIA H200 is sm_90, and this build has kernels for 120a only")], "", "kernels for 120a only"),
    ],
)  # fmt: skip
def test_doctor_describes_the_gpus(
    alone: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    devices: list[FakeDevice],
    level: str,
    text: str,
) -> None:
    monkeypatch.setattr(imp._core, "cuda_devices", lambda: devices)
    monkeypatch.setattr(imp._core, "why_no_cuda", lambda: "no CUDA driver on this machine")
    run_app(["doctor", "--json"])  # a GPU without its library is a problem here
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    gpu = findings["gpu"]
    assert text in gpu["text"]
    assert gpu["level"] == (level or gpu["level"])
    if level == "note":
        assert "nvidia-smi" in gpu["advice"]
    usable = any(not device.why_not for device in devices)
    assert ("not needed" in findings["cublas"]["text"]) == (not usable)


def test_doctor_finds_a_damaged_model(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = run_json(capsys, "doctor", "--json")
    assert {finding["what"] for finding in healthy} >= {"imp", "cpu", "gpu", "memory", "cache", "models", "config"}
    entry = models.CatalogueEntry("bad", "t", "bad.gguf", 4, "0" * 64, "none", ())
    monkeypatch.setattr(models, "CATALOGUE", (entry,))
    models.cache_dir().mkdir(parents=True)
    (models.cache_dir() / "bad.gguf").write_bytes(b"GGUF")
    assert run_app(["doctor"]) == exit_codes.FAILURE
    out = capsys.readouterr().out
    assert re.search(r"^problem +models +.*bad\.gguf", out, re.M)
    assert "-> delete the file and fetch it again" in out


# ---- config


def test_config_keys_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    keys = run_json(capsys, "config", "keys", "--json")
    assert len(keys) == 106
    assert {row["status"] for row in keys} == {"active", "pending"}
    shown = run_json(capsys, "config", "show", "--json", "--set", "runtime.warmup=true")
    assert list(shown) == [row["name"] for row in keys]
    assert shown["runtime.warmup"]["value"] is True
    assert shown["runtime.warmup"]["origin"] == "set"
    assert run_app(["config", "show", "--origin", "--set", "runtime.warmup=true"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^warmup = true +# set", out, re.M)
    assert re.search(r"^deterministic = false +# default", out, re.M)


def test_what_config_show_prints_checks_again(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["config", "show", "--set", "generation.think_budget=7"]) == 0
    (alone / "shown.conf").write_text(capsys.readouterr().out)
    assert run_app(["config", "check", "shown.conf", "--strict"]) == 0
    assert capsys.readouterr().out == "shown.conf: ok, 106 keys set, 0 warnings\n"


def test_seed_conf_checks_without_a_warning(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["config", "check", "--strict", str(data / "seed.conf")]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("106 keys set, 0 warnings\n")
    assert captured.err == ""


def test_strict_makes_warnings_errors(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (alone / "odd.conf").write_text("[runtime]\nwarmupp = true\n")
    assert run_app(["config", "check", "odd.conf"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "odd.conf: ok, 0 keys set, 1 warnings\n"
    assert "warmup" in captured.err
    assert run_app(["config", "check", "--strict", "odd.conf"]) == exit_codes.USAGE


# ---- the shell


def test_completion_knows_commands_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str) -> list[str]:
        variables = {"_IMP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        process = start(env=os.environ | variables, stdout=subprocess.PIPE)
        return process.communicate(timeout=60)[0].split()

    assert complete("imp expl") == ["explain"]
    assert complete("imp run smol") == ["smollm2-135m"]
    assert complete("imp config ch") == ["check"]


def test_help_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; from imp.cli.app import run_app; run_app(['--help']); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"numpy", "huggingface_hub", "rich", "jinja2", "ssl", "zipfile", "imp.models", "imp.cli.run"}
    started = time.process_time()
    assert run_app(["run", "--help"]) == 0
    assert time.process_time() - started < 1.0
    assert "NO_COLOR" not in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["config", "--help"]])
def test_output_has_no_escape_codes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(arguments) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err

"""tools/gpu_bench.py without a GPU: commands, parsing, table, and a whole run of programs that only pretend."""

from __future__ import annotations

import importlib
import json
import stat
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).parent.parent.parent / "tools"

IMP = {
    "version": "0.1.0", "commit": "abc1234", "device": "NVIDIA H200", "settings": [], "load_s": 1.5,
    "rows": {
        "pp512": {"median": 20000.0, "stdev": 10.0, "samples": [20000.0]},
        "tg128": {"median": 300.0, "stdev": 1.0, "samples": [299.0, 301.0]},
        "tg64 @ d16384": {"median": 200.0, "stdev": 0.0, "samples": [200.0]},
        "gen128": {"median": 290.0, "stdev": 0.0, "samples": [290.0]},
    },
    "first_token_128_ms": 8.25, "bytes_per_token": 8_000_000_000, "kv_bytes_per_position": 147456,
    "launches_per_token": 254.0, "read_bytes_per_s": 4.0e12,
}  # fmt: skip


def llama_rows(*tests: tuple[int, int, int, float]) -> str:
    """What llama-bench -o json prints, as far as it is read."""
    common = {"build_commit": "0c1e570", "build_number": 7000, "backends": "CUDA", "gpu_info": "NVIDIA H200"}
    return json.dumps([
        {**common, "n_prompt": p, "n_gen": n, "n_depth": d, "samples_ts": [speed, 1.1 * speed, 0.2 * speed]}
        for p, n, d, speed in tests
    ])  # fmt: skip


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("gpu_bench")


def test_test_names(tool: ModuleType) -> None:
    for name in tool.TESTS:
        assert tool.test_name(*tool.parse_test(name)) == name
    with pytest.raises(ValueError, match="expected ppN or tgN"):
        tool.parse_test("xx5")


def test_llama_commands_cover_every_row_once(tool: ModuleType) -> None:
    shallow, deep = tool.llama_commands(Path("/x/llama-bench"), Path("m.gguf"), 5)
    assert shallow[:3] == ["/x/llama-bench", "-m", "m.gguf"]
    assert " ".join(shallow).endswith("-ngl 99 -fa 1 -o json -p 128,512,4096 -n 128 -r 5")
    assert " ".join(deep).endswith("-p 0 -n 64 -d 16384 -r 2")


def test_llama_output(tool: ModuleType) -> None:
    noise = "ggml_cuda_init: found 1 CUDA devices:\n"
    found = tool.parse_llama(noise + llama_rows((512, 0, 0, 10300.0), (0, 128, 0, 218.5), (0, 64, 16384, 170.0)))
    assert {name: row["median"] for name, row in found["rows"].items()} == {
        "pp512": 10300.0,
        "tg128": 218.5,
        "tg64 @ d16384": 170.0,
    }
    assert found["build"] == "7000 (0c1e570), CUDA, NVIDIA H200"
    with pytest.raises(RuntimeError, match="no JSON"):
        tool.parse_llama("error: unknown argument")


def test_imp_output(tool: ModuleType) -> None:
    assert tool.parse_imp("chatter\n" + json.dumps(IMP) + "\n")["load_s"] == 1.5
    with pytest.raises(RuntimeError, match="no result"):
        tool.parse_imp("Traceback ...")


def test_shares_and_table(tool: ModuleType) -> None:
    # 300 tokens of 8 GB and 64 positions' keys, of 4 TB/s; at a depth the context weighs in.
    assert tool.read_share(IMP, "tg128") == pytest.approx(300 * (8e9 + 64 * 147456) / 4e12)
    assert tool.read_share(IMP, "tg64 @ d16384") == pytest.approx(200 * (8e9 + (16384 + 32) * 147456) / 4e12)
    assert tool.read_share(IMP, "pp512") is None
    llama = tool.parse_llama(llama_rows((512, 0, 0, 10000.0), (0, 128, 0, 200.0)))
    lines = tool.table({"some-model": {"imp": IMP, "llama_cpp": llama}, "other": {}})
    assert "| some-model | pp512 | 20000 ± 10 | 10000 ± 4933 | 2.00 | - |" in lines
    assert "| some-model | tg128 | 300.0 ± 1.0 | 200.0 ± 98.7 | 1.50 | 60 % |" in lines
    assert "| some-model | gen128 | 290.0 ± 0.0 | - | - | - |" in lines
    assert "| some-model | 8.25 | 1.50 | 254 | 8.000 |" in lines
    assert not any("other" in line for line in lines)


def test_spans(tool: ModuleType) -> None:
    fields = ("clocks.sm", "power.draw")
    assert tool.spans(["1980, 300.5\n", "1700, [N/A]\n", "broken\n"], fields) == {
        "clocks.sm": [1700, 1980],
        "power.draw": [300.5, 300.5],
    }


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_whole_run(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One engine fails on one file: its rows are missing, the others stand, and the exit code says so."""
    (tmp_path / "a.gguf").write_bytes(b"x")
    (tmp_path / "b.gguf").write_bytes(b"x")
    rows = llama_rows((0, 128, 0, 200.0))
    llama = program(tmp_path / "llama-bench", f"import sys\nif 'b.gguf' in sys.argv[2]: sys.exit(3)\nprint({rows!r})\n")
    facts = "NVIDIA H200, 580.1, 1980 MHz, 1980 MHz, 3201 MHz, 700 W, 143771 MiB"
    program(tmp_path / "nvidia-smi", f"print({facts!r})\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    measure = program(tmp_path / "measure", f"print({json.dumps(IMP)!r})\n")
    monkeypatch.setattr(tool, "imp_command", lambda model, settings, repetitions: [str(measure)])
    out = tmp_path / "out"
    arguments = ["gpu_bench", "--models", str(tmp_path), "--llama-bench", str(llama), "--out", str(out), "a", "b"]
    monkeypatch.setattr(sys, "argv", arguments)
    assert tool.main() == 1
    report: dict[str, Any] = json.loads((out / "gpu-bench-h200.json").read_text())
    assert report["commit"] == "abc1234"
    assert report["gpu"]["clocks.mem"] == "3201 MHz"
    assert report["models"]["a"]["llama_cpp"]["rows"]["tg128"]["median"] == 200.0
    assert report["models"]["b"]["imp"]["rows"]["tg128"]["median"] == 300.0
    assert "llama_cpp" not in report["models"]["b"]
    assert report["complete"] is True
    assert report["command"] == f"gpu_bench --models {tmp_path.name} --llama-bench llama-bench --out out a b"
    assert len(report["failures"]) == 1
    assert "exit 3" in report["failures"][0]
    assert "| a | tg128 | 300.0 ± 1.0 | 200.0 ± 98.7 | 1.50 | 60 % |" in capsys.readouterr().out


def test_synthetic_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="gguf, which writes the files, is not installed")
    monkeypatch.syspath_prepend(str(TOOLS))
    synth = importlib.import_module("synth_model")
    shape, mix = synth.split_name("qwen3-8b-q4_k_m")
    assert (shape.num_layers, mix) == (36, "q4_k_m")
    for name in ("qwen3-8b", "qwen3-9b-q8_0", "llama-1b-q9"):
        with pytest.raises(ValueError, match="expected one of"):
            synth.split_name(name)


def test_a_synthetic_file_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="gguf, which writes the files, is not installed")
    import imp

    monkeypatch.syspath_prepend(str(TOOLS))
    synth = importlib.import_module("synth_model")
    small = synth.Shape("qwen3", 8, 256, 512, 4, 2, 64, 300, 1e6, 1e-6, qk_norm=True)
    monkeypatch.setitem(synth.SHAPES, "small", small)
    for mix in synth.MIXES:
        path = synth.write_model(f"small-{mix}", tmp_path)
        with imp.Engine(path, device="cpu", num_threads=1) as engine:
            assert engine.report()["model"]["num_layers"] == 8
            logits = engine.logits([1, 2, 3])
            assert abs(logits).max() < 1000  # finite, and of a model's size
            assert logits.std() > 0.01


def test_sanitizer_commands(tool: ModuleType, tmp_path: Path) -> None:
    gpu_test = importlib.import_module("gpu_test")
    programs = [tmp_path / f"cuda_test_{stem}" for stem in ("failures", "graphs", "linear", "model")]
    for program in programs:  # doctest's list
        program.write_text(
            "#!/bin/sh\nprintf '[doctest] listing\\n=====\\none, two\\nthree\\n=====\\n[doctest] 2\\n'\n"
        )
        program.chmod(0o755)
    work = gpu_test.sanitizer_work(programs, ["memcheck", "racecheck"])
    cases = {(share.program.name, name, tool) for share, tool in work for name in share.names}
    names = ("one, two", "three")
    both = [(f"cuda_test_{stem}", name) for stem in ("graphs", "linear") for name in names]
    models = [("cuda_test_model", name) for name in names]
    assert cases == {(*case, tool) for case in both for tool in ("memcheck", "racecheck", "trace")} | {
        (*case, tool) for case in models for tool in ("memcheck", "trace")
    }
    assert work[0][1] == "racecheck"  # the slowest first
    commands = {share.key(tool): share.command(tool) for share, tool in work}
    assert commands["cuda_test_model/memcheck/1"][:3] == ["compute-sanitizer", "--tool", "memcheck"]
    assert work[0][0].command("memcheck", "/else/where")[0] == "/else/where"
    assert commands["cuda_test_model/memcheck/1"][-2:] == ["--first=1", "--last=2"]
    assert commands["cuda_test_linear/trace/2"][0] == str(programs[2])
    assert commands["cuda_test_linear/trace/2"][-2:] == ["--first=2", "--last=2"]
    assert any(word.startswith("--test-case-exclude=") for word in commands["cuda_test_graphs/memcheck/1"])
    seconds = {"cuda_test_linear/memcheck": {"three": 9.5}}
    assert gpu_test.sanitizer_work(programs, ["memcheck"], seconds)[0][0].names == ("three",)

    # An earlier part of the run: what passed there counts, and the rest is done.
    passed = {"cuda_test_linear/memcheck": ["one, two"], "cuda_test_linear/trace": list(names)}
    rest = gpu_test.sanitizer_work(programs[2:3], ["memcheck"], None, passed)
    assert [(share.names, tool) for share, tool in rest] == [(("three",), "memcheck")]
    earlier = {"passed_cases": passed, "seconds_of_cases": {name: {"one, two": 1.5} for name in passed}}
    found = gpu_test.by_program(rest, {}, earlier)
    assert found["results"] == {
        "cuda_test_linear/memcheck": {"exit": -1, "cases": 2, "passed": 1, "seconds": 1.5},
    }
    ended = {"exit": 0, "seconds": 2.0, "case_seconds": {"three": 2.0}}
    found = gpu_test.by_program(rest, {"cuda_test_linear/memcheck/2": ended}, earlier)
    assert found["failed"] == []
    assert found["passed_cases"]["cuda_test_linear/memcheck"] == list(names)
    assert gpu_test.earlier_part({**earlier, "kernels": {}})["passed_cases"] == passed
    assert list(gpu_test.earlier_part(earlier)["passed_cases"]) == ["cuda_test_linear/memcheck"]  # it was stopped


def test_gpu_tests_keep_the_words_of_a_failure_and_what_ran_before_a_stop(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_test = importlib.import_module("gpu_test")
    programs, out = tmp_path / "programs", tmp_path / "out"
    programs.mkdir()
    program(
        programs / "cuda_test_bad",
        "print('/home/me/x.cpp:3: ERROR: CHECK( a == b ) is NOT correct!\\nwords')\nexit(1)\n",
    )
    program(programs / "cuda_test_good", "print('[doctest] test cases: 2 | 2 passed | 0 failed | 0 skipped')\n")
    monkeypatch.setattr(gpu_test, "gpu_facts", lambda: {"name": "NVIDIA H200"})
    monkeypatch.setattr(sys, "argv", ["gpu_test", str(programs), "--out", str(out), "--commit", "abc1234"])
    assert gpu_test.main() == 1
    report = json.loads((out / "gpu-test-h200.json").read_text())
    assert report["complete"] is True
    assert report["failed"] == ["cuda_test_bad"]
    assert report["results"]["cuda_test_bad"]["said"] == ["x.cpp:3: ERROR: CHECK( a == b ) is NOT correct!"]
    assert report["results"]["cuda_test_good"]["test cases"] == {"passed": 2, "failed": 0}
    assert "---- cuda_test_bad: exit 1" in capsys.readouterr().out

    run = gpu_test.run

    def stopped(key: str, *rest: Any) -> Any:
        if key == "cuda_test_good":
            raise KeyboardInterrupt
        return run(key, *rest)

    monkeypatch.setattr(gpu_test, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        gpu_test.main()
    report = json.loads((out / "gpu-test-h200.json").read_text())
    assert report["complete"] is False
    assert list(report["results"]) == ["cuda_test_bad"]


def test_sanitizers_put_the_shares_of_a_program_together(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_test = importlib.import_module("gpu_test")
    programs, out = tmp_path / "programs", tmp_path / "out"
    programs.mkdir()
    listing = "import sys\nif '--list-test-cases' in sys.argv: print('[doctest] listing\\none\\ntwo\\nthree')\n"
    program(programs / "cuda_test_linear", listing)
    race = "import sys\nif 'racecheck' in sys.argv and '--last=3' in sys.argv:\n  print('========= Error: Race reported between a and b')\n  exit(1)\n"
    program(tmp_path / "compute-sanitizer", race)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(gpu_test, "gpu_facts", lambda: {"name": "NVIDIA H200"})
    monkeypatch.setattr(gpu_test, "build_trace", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["gpu_test", str(programs), "--sanitize", "--jobs", "2", "--out", str(out)])
    assert gpu_test.main() == 1
    report = json.loads((out / "gpu-sanitize-h200.json").read_text())
    assert report["complete"] is True
    assert report["failed"] == ["cuda_test_linear/racecheck"]
    raced = report["results"]["cuda_test_linear/racecheck"]
    assert (raced["cases"], raced["passed"]) == (3, 2)
    assert raced["said"] == ["Error: Race reported between a and b"]
    assert report["results"]["cuda_test_linear/memcheck"]["passed"] == 3


def test_a_file_that_is_missing_and_unknown_is_named(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf", reason="gguf, which writes the files, is not installed")
    monkeypatch.setattr(tool, "gpu_facts", lambda: {"name": "NVIDIA H200"})
    monkeypatch.setattr(sys, "argv", ["gpu_bench", "--models", str(tmp_path), "no-such-q8_0"])
    with pytest.raises(SystemExit, match=r"no-such-q8_0 not in .*, and cannot be made: no-such-q8_0: expected one of"):
        tool.main()

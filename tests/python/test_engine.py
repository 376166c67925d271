"""Engine from Python: batches, streams, threads, interruption, scores."""

from __future__ import annotations

import gc
import json
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imp
from imp import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = ["hello in the tower", "one", "<|im_start|> is text here", "the the the the the the the"]


# ---- generate


def test_generate_takes_text_ids_and_lists(engine: imp.Engine) -> None:
    ids = engine.tokenize("hello")
    by_text = engine.generate("hello", GREEDY)
    by_ids = engine.generate(ids, GREEDY)
    by_lists = engine.generate(["hello", ids], GREEDY)
    assert len(by_text) == len(by_ids) == 1
    assert by_text[0].prompt == "hello"
    assert by_ids[0].prompt is None
    for output in (*by_text, *by_ids, *by_lists):
        assert output.finished
        assert output.prompt_token_ids == ids
        completion = output.outputs[0]
        assert completion.finish_reason == "length"
        assert completion.finished()
        assert len(completion.token_ids) == 12
        assert completion.token_ids == by_text[0].outputs[0].token_ids
        assert completion.text == engine.detokenize(completion.token_ids, skip_special_tokens=True)
        assert completion.logprobs is None
        assert completion.cumulative_logprob is None
    assert len({output.request_id for output in (*by_text, *by_ids, *by_lists)}) == 4
    by_array = engine.generate(np.array([ids, ids]), GREEDY)  # type: ignore[arg-type]
    assert [output.outputs[0].token_ids for output in by_array] == [by_text[0].outputs[0].token_ids] * 2
    assert engine.generate([], GREEDY) == []


def test_batch_equals_one_by_one_and_keeps_the_order(engine: imp.Engine) -> None:
    together = engine.generate(PROMPTS, GREEDY)
    alone = [engine.generate(prompt, GREEDY)[0] for prompt in PROMPTS]
    assert [output.prompt for output in together] == PROMPTS
    assert [o.outputs[0].token_ids for o in together] == [o.outputs[0].token_ids for o in alone]


def test_one_set_of_parameters_for_each_prompt(engine: imp.Engine) -> None:
    params = [GREEDY.clone(max_tokens=count) for count in (1, 5, 3)]
    outputs = engine.generate(["a", "b", "c"], params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 5, 3]
    with pytest.raises(ValueError, match="2 for 3 prompts"):
        engine.generate(["a", "b", "c"], params[:2])


def test_metrics(engine: imp.Engine) -> None:
    metrics = engine.generate("hello in the tower", GREEDY)[0].metrics
    assert metrics is not None
    assert metrics.prompt_tokens == len(engine.tokenize("hello in the tower"))
    assert metrics.generated_tokens == 12
    assert metrics.prefill_s > 0
    assert metrics.decode_s > 0
    assert metrics.queued_s >= 0
    assert metrics.generated_tokens_per_s == 11 / metrics.decode_s  # the first is the prompt's


def test_without_max_tokens_it_runs_until_the_context_is_full(engine: imp.Engine) -> None:
    output = engine.generate("hello", SamplingParams(temperature=0, ignore_eos=True))[0]
    assert output.outputs[0].finish_reason == "length"
    assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == engine.max_model_len


def test_stop_strings_and_ids(engine: imp.Engine) -> None:
    free = engine.generate("hello", GREEDY.clone(max_tokens=40))[0].outputs[0]
    stop = free.text[6:8]
    assert stop.strip()
    stopped = engine.generate("hello", GREEDY.clone(max_tokens=40, stop=[stop, "never there"]))[0].outputs[0]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    assert stopped.text == free.text[: free.text.index(stop)]
    kept = GREEDY.clone(max_tokens=40, stop=stop, include_stop_str_in_output=True)
    assert engine.generate("hello", kept)[0].outputs[0].text == free.text[: free.text.index(stop) + len(stop)]

    token = free.token_ids[5]
    by_id = engine.generate("hello", GREEDY.clone(max_tokens=40, stop_token_ids=[token]))[0].outputs[0]
    assert (by_id.finish_reason, by_id.stop_reason) == ("stop", token)
    assert by_id.token_ids == free.token_ids[: free.token_ids.index(token) + 1]


def test_end_of_sequence_has_no_stop_reason(engine: imp.Engine) -> None:
    eos = engine.tokenizer.eos_token_id
    assert eos is not None
    output = engine.generate("a", SamplingParams(allowed_token_ids=[eos], temperature=0))[0].outputs[0]
    assert (output.finish_reason, output.stop_reason, output.token_ids) == ("stop", None, [eos])
    assert output.text == ""


def test_logprobs(engine: imp.Engine) -> None:
    output = engine.generate("hello in the tower", GREEDY.clone(max_tokens=4, logprobs=3, prompt_logprobs=2))[0]
    completion = output.outputs[0]
    assert completion.logprobs is not None
    assert len(completion.logprobs) == 4
    ids = output.prompt_token_ids + completion.token_ids
    rows = engine.logits(ids, all=True).astype(np.float64)
    expected = (
        rows - np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1, keepdims=True)) - rows.max(1, keepdims=True)
    )
    first = len(output.prompt_token_ids) - 1
    for step, (token, row) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        assert next(iter(row)) == token
        assert len(row) == 3  # the greedy token is among the best three
        assert row[token].rank == 1
        assert row[token].decoded_token == engine.tokenizer.piece(token).decode("utf-8", "replace")
        for other, entry in row.items():
            assert entry.logprob == pytest.approx(expected[first + step, other], abs=2e-2)
    assert completion.cumulative_logprob == pytest.approx(
        sum(row[token].logprob for token, row in zip(completion.token_ids, completion.logprobs, strict=True))
    )
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for position in range(1, len(output.prompt_token_ids)):
        row = output.prompt_logprobs[position]
        assert row is not None
        token = output.prompt_token_ids[position]
        assert row[token].logprob == pytest.approx(expected[position - 1, token], abs=2e-2)
        assert sorted(entry.rank for entry in row.values())[:2] == [1, 2]


def test_seeds(engine: imp.Engine, tiny_llama: str) -> None:
    warm = SamplingParams(temperature=1.5, max_tokens=16, ignore_eos=True)
    one, two = (engine.generate("a", warm.clone(seed=5))[0].outputs[0].token_ids for _ in range(2))
    assert one == two
    assert engine.generate("a", warm.clone(seed=6))[0].outputs[0].token_ids != one
    assert engine.generate("a", warm)[0].outputs[0].token_ids != engine.generate("a", warm)[0].outputs[0].token_ids
    runs = []
    for _ in range(2):
        with imp.Engine(tiny_llama, device="cpu", num_threads=1, seed=9) as seeded:
            runs.append([o.outputs[0].token_ids for o in seeded.generate(["a", "a"], warm)])
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


def test_several_sequences_for_one_prompt(engine: imp.Engine) -> None:
    params = SamplingParams(n=3, temperature=1.5, seed=1, max_tokens=8, ignore_eos=True)
    outputs = engine.generate("hello", params)[0].outputs
    assert [output.index for output in outputs] == [0, 1, 2]
    assert len({tuple(output.token_ids) for output in outputs}) == 3
    assert engine.generate("hello", params)[0].outputs == outputs


def test_more_prompts_than_fit_in_a_batch(engine: imp.Engine) -> None:
    prompts = [[3 + i, 4 + i, 5 + i] for i in range(25)]
    seen = engine.generate(prompts, GREEDY.clone(max_tokens=3), use_tqdm=True)
    assert [output.prompt_token_ids for output in seen] == prompts
    assert engine.report()["scheduler"]["max_running"] <= engine.config["runtime.max_batch_size"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (5, "expected text"),
        (None, "expected text"),
        (b"bytes", "expected text"),
        ({"prompt": "x"}, "expected text"),
        (["a", 5], r"prompts\[1\]"),
        ([["a"]], r"prompts\[0\]"),
        ("", "no tokens"),
        ([[]], "no tokens"),
        ([5, 99999], "99999"),
        ([-1], "-1"),
        ([[5] * 400], "400 tokens, but max_seq_len is 256"),
    ],
)
def test_bad_prompts(engine: imp.Engine, prompts: Any, message: str) -> None:
    with pytest.raises(imp.InvalidArgumentError, match=message):
        engine.generate(prompts, GREEDY)


def test_a_bad_prompt_cancels_the_others(engine: imp.Engine) -> None:
    with pytest.raises(imp.InvalidArgumentError, match="99999"):
        engine.generate([[5], [6], [99999]], GREEDY)


def test_special_tokens_in_prompts_only_when_asked(engine: imp.Engine) -> None:
    text = "<|im_start|>x"
    assert engine.generate(text, GREEDY)[0].prompt_token_ids == engine.tokenize(text)
    assert engine.generate(text, GREEDY, parse_special=True)[0].prompt_token_ids[0] == 1


# ---- chat


def test_chat(engine: imp.Engine) -> None:
    messages = [{"role": "user", "content": "hello"}]
    one = engine.chat(messages, GREEDY)
    assert len(one) == 1
    assert one[0].prompt == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert one[0].prompt_token_ids == engine.chat_ids(messages)
    assert one[0].outputs[0].token_ids == engine.generate(one[0].prompt_token_ids, GREEDY)[0].outputs[0].token_ids
    other = [{"role": "user", "content": "bye"}]
    both = engine.chat([messages, other], GREEDY)
    assert [output.outputs[0].token_ids for output in both] == [
        engine.chat(conversation, GREEDY)[0].outputs[0].token_ids for conversation in (messages, other)
    ]
    open_end = engine.chat(messages, GREEDY, add_generation_prompt=False)[0].prompt
    assert one[0].prompt == f"{open_end}<|im_start|>assistant\n"
    streamed = list(engine.stream_chat(messages, GREEDY))
    assert "".join(delta.text for delta in streamed) == one[0].outputs[0].text


# ---- stream


def test_stream_equals_generate(engine: imp.Engine) -> None:
    params = GREEDY.clone(logprobs=1)
    whole = engine.generate("hello", params)[0].outputs[0]
    stream = engine.stream("hello", params)
    deltas = list(stream)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [token for delta in deltas for token in delta.token_ids] == whole.token_ids
    assert [row for delta in deltas for row in delta.logprobs or []] == whole.logprobs
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert len(deltas) >= 12
    assert stream.output.finished
    assert stream.output.outputs[0] == whole
    assert stream.output.metrics is not None
    assert list(stream) == []


def test_leaving_a_stream_cancels_it(engine: imp.Engine) -> None:
    for index, _ in enumerate(engine.stream("hello", SamplingParams(ignore_eos=True))):
        if index == 3:
            break
    del _
    gc.collect()
    assert engine.report()["kv"]["blocks_used"] == 0


def test_closing_a_stream(engine: imp.Engine) -> None:
    unlimited = SamplingParams(ignore_eos=True)
    with engine.stream("hello", unlimited) as stream:
        next(stream)
        assert engine.report()["kv"]["blocks_used"] > 0
    assert engine.report()["kv"]["blocks_used"] == 0
    assert list(stream) == []
    never_started = engine.stream("hello", unlimited)
    never_started.close()
    never_started.close()
    engine.stream("hello", unlimited)  # nobody holds it


def test_streams_side_by_side(engine: imp.Engine) -> None:
    alone = [list(engine.stream(prompt, GREEDY)) for prompt in PROMPTS[:2]]
    together: list[list[imp.Delta]] = [[], []]
    streams = [engine.stream(prompt, GREEDY) for prompt in PROMPTS[:2]]
    for first, second in zip(*streams, strict=True):
        together[0].append(first)
        together[1].append(second)
    assert together == alone


def test_stream_errors_come_at_the_call(engine: imp.Engine) -> None:
    with pytest.raises(imp.InvalidArgumentError, match="99999"):
        engine.stream([99999])


# ---- threads and interruption


def test_threads_share_the_engine(engine: imp.Engine) -> None:
    expected = {prompt: engine.generate(prompt, GREEDY)[0].outputs[0].token_ids for prompt in PROMPTS}
    steps_before = engine.report()["scheduler"]["steps"]
    wrong: list[str] = []
    together = threading.Barrier(len(PROMPTS))

    def work(prompt: str) -> None:
        together.wait()
        answers = [engine.generate(prompt, GREEDY)[0].outputs[0].token_ids for _ in range(5)]
        wrong.extend(prompt for answer in answers if answer != expected[prompt])

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    steps = engine.report()["scheduler"]["steps"] - steps_before
    assert steps < 4 * 5 * 12, "requests of several threads were not batched"


def test_threads_stream_and_cancel(engine: imp.Engine) -> None:
    expected = [list(engine.stream(prompt, GREEDY)) for prompt in PROMPTS]
    wrong: list[int] = []

    def work(which: int) -> None:
        for round_ in range(6):
            seen = []
            for delta in engine.stream(PROMPTS[which], GREEDY):
                seen.append(delta)
                if round_ % 2 and len(seen) == 3:
                    break
            if seen != expected[which][: len(seen)]:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    engine.generate("a", GREEDY)  # a step in which the last cancelled requests end


def interrupt_while(work: Callable[[], object]) -> None:
    """Sends what Ctrl-C sends in the midst of `work`, which is repeated until that comes."""

    def repeat() -> None:
        while True:
            work()

    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, args=(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        repeat()
    timer.join()


def test_interrupt_cancels_and_leaves_the_engine_usable(engine: imp.Engine) -> None:
    expected = engine.generate("hello", GREEDY)[0].outputs[0].token_ids
    endless = [SamplingParams(ignore_eos=True)] * 50
    interrupt_while(lambda: engine.generate([[3 + i] for i in range(50)], endless))
    assert engine.report()["kv"]["blocks_used"] == 0
    assert engine.generate("hello", GREEDY)[0].outputs[0].token_ids == expected


def test_interrupt_of_perplexity(engine: imp.Engine) -> None:
    interrupt_while(lambda: engine.perplexity([5] * 4096, context=64))
    assert engine.generate("a", GREEDY)[0].finished


def test_native_calls_release_the_interpreter(engine: imp.Engine) -> None:
    ticks = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    ticker = threading.Thread(target=tick)
    ticker.start()
    started = time.perf_counter()
    engine.perplexity([5, 6, 7, 8] * 2048, context=128)
    ended = time.perf_counter()
    done.set()
    ticker.join()
    inside = [moment for moment in ticks if started < moment < ended]
    assert len(inside) > (ended - started) / 0.05, "the other thread stood still"


# ---- scores


def test_logits(engine: imp.Engine, data: Path) -> None:
    ids = np.load(data / "models" / "tiny-llama.ids.npy").tolist()
    expected = np.load(data / "models" / "tiny-llama.logits.npy")
    rows = engine.logits(ids, all=True)
    assert rows.dtype == np.float32
    assert rows.shape == (len(ids), engine.vocab_size)
    assert rows.flags.owndata or rows.base is not None
    np.testing.assert_allclose(rows, expected, atol=5e-3 * np.abs(expected).max())
    last = engine.logits(ids)
    assert last.shape == (engine.vocab_size,)
    np.testing.assert_allclose(last, rows[-1], atol=1e-5 * np.abs(expected).max())
    del engine
    gc.collect()
    assert np.isfinite(rows).all()


def test_logits_fill_the_whole_context(tiny_llama: str) -> None:
    ids = list(range(1, 34))
    with imp.Engine(tiny_llama, device="cpu", max_model_len=32) as engine:
        rows = engine.logits(ids[:32], all=True)
        np.testing.assert_allclose(rows[:31], engine.logits(ids[:31], all=True), atol=1e-5 * np.abs(rows).max())
        with pytest.raises(imp.InvalidArgumentError, match="the prompt has 33 tokens, but max_seq_len is 32; shorten"):
            engine.logits(ids)
        with pytest.raises(
            imp.InvalidArgumentError, match="has 32 tokens, but max_seq_len is 32 and one more must fit"
        ):
            engine.generate([ids[:32]])


def test_logits_outlive_the_engine(tiny_llama: str) -> None:
    with imp.Engine(tiny_llama, device="cpu") as engine:
        rows = engine.logits([1, 2, 3])
        copy = rows.copy()
    gc.collect()
    np.testing.assert_array_equal(rows, copy)


def test_perplexity(engine: imp.Engine) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(3, engine.vocab_size, 300).tolist()
    calls: list[tuple[int, int, float]] = []
    result = engine.perplexity(ids, context=64, progress=lambda *call: calls.append(call))
    assert result.windows == 4
    assert [call[:2] for call in calls] == [(done, 4) for done in (1, 2, 3, 4)]
    assert calls[-1][2] == pytest.approx(result.value)
    assert float(result) == result.value
    total = count = 0.0
    for start in range(0, 256, 64):
        window = ids[start : start + 64]
        rows = engine.logits(window, all=True).astype(np.float64)
        for position in range(32, 63):
            row = rows[position]
            total += math.log(np.exp(row - row.max()).sum()) + row.max() - row[window[position + 1]]
            count += 1
    assert result.scored_tokens == count
    assert result.value == pytest.approx(math.exp(total / count), rel=2e-3)
    assert engine.perplexity("hello in the tower " * 40, context=32).value > 1


def test_perplexity_errors(engine: imp.Engine) -> None:
    with pytest.raises(ValueError, match=r"tokens"):
        engine.perplexity([5] * 10, context=64)
    with pytest.raises(ZeroDivisionError):
        engine.perplexity([5] * 512, context=64, progress=lambda *_: 1 / 0)
    for call in (engine.report, engine.close, lambda: engine.generate("a", GREEDY)):
        with pytest.raises(ValueError, match="own progress callback"):
            engine.perplexity([5] * 512, context=64, progress=lambda *_, call=call: call())
    assert engine.perplexity([5] * 512, context=64).windows == 8


# ---- what it says about itself


def test_device_auto_says_what_it_chose(tiny_llama: str, capfd: pytest.CaptureFixture[str]) -> None:
    with imp.Engine(tiny_llama) as engine:
        errors = capfd.readouterr().err
        assert errors == f"imp: {engine.device_line}\n"
        assert engine.device in errors
    with imp.Engine(tiny_llama, log=False), imp.Engine(tiny_llama, device="cpu"):
        assert capfd.readouterr().err == ""


def test_report_and_explain(engine: imp.Engine) -> None:
    engine.generate("hello", GREEDY)
    report = engine.report()
    assert report["timings"]["generated_tokens"] >= 12
    assert report["mem"]["weights"] > 0
    assert report["model"]["architecture"] == "llama"
    assert sum(report["launches"].values()) > 0
    assert report["sampling"][report["sampling"]["where"] + "_draws"] >= 12
    explanation = engine.explain([1, 64])
    assert json.loads(json.dumps(explanation)) == explanation
    text = str(explanation)
    for op in (*explanation["linear"], *explanation["attention"]):
        assert op["chosen"]
        assert op["chosen"] in text
        for refused in op["refused"]:
            assert refused["name"] in text
            assert refused["reason"] in text
    assert "weights" in text
    with pytest.raises(ValueError, match="batch of 0"):
        engine.explain([0])
    assert engine.device_name == report["device"]["name"]
    assert "llama" in engine.model_description
    assert "llama" in repr(engine)


def test_model_without_tokenizer(data: Path) -> None:
    with imp.Engine(data / "models" / "tiny-qwen2.gguf", device="cpu") as engine:
        output = engine.generate([5, 6, 7], GREEDY.clone(logprobs=1))[0].outputs[0]
        assert len(output.token_ids) == 12
        assert output.text == ""
        assert output.logprobs is not None
        assert output.logprobs[0][output.token_ids[0]].decoded_token is None
        with pytest.raises(imp.UnsupportedError, match="no tokenizer"):
            engine.generate("text", GREEDY)
        with pytest.raises(imp.UnsupportedError, match="no tokenizer"):
            engine.chat([{"role": "user", "content": "x"}], chat_template="chatml")


def test_two_engines_in_one_process(tiny_llama: str, data: Path) -> None:
    with (
        imp.Engine(tiny_llama, device="cpu") as one,
        imp.Engine(data / "models" / "tiny-qwen3.gguf", device="cpu") as two,
    ):
        first = one.generate([5, 6, 7], GREEDY)[0].outputs[0].token_ids
        two.generate([5, 6, 7], GREEDY)
        assert one.generate([5, 6, 7], GREEDY)[0].outputs[0].token_ids == first
        assert one.report()["model"]["architecture"] != two.report()["model"]["architecture"]


def test_speeds_leave_the_first_token_to_the_prompt() -> None:
    times = {"queued_s": 0.0, "prefill_s": 2.0, "decode_s": 4.0, "prompt_tokens": 10}
    assert imp.RequestMetrics(**times, generated_tokens=9).prompt_tokens_per_s == 5
    assert imp.RequestMetrics(**times, generated_tokens=9).generated_tokens_per_s == 2
    assert imp.RequestMetrics(**times, generated_tokens=9, num_sequences=5).generated_tokens_per_s == 1
    assert imp.RequestMetrics(**times, generated_tokens=1).generated_tokens_per_s == 0
    assert imp.RequestMetrics(**{**times, "decode_s": 0.0}, generated_tokens=9).generated_tokens_per_s == 0

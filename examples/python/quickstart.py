"""Ask a model, watch it answer, score a text: python quickstart.py MODEL."""

import sys

import imp


def main(model: str) -> None:
    """Chats, streams and scores."""
    with imp.Engine(model, max_model_len=256) as engine:
        question = [{"role": "user", "content": "Why is the sky blue?"}]
        answer = engine.chat(question, imp.SamplingParams(temperature=0, max_tokens=40))[0]
        print(answer.outputs[0].text)
        if answer.metrics is not None:
            print(f"{answer.metrics.generated_tokens_per_s:.1f} tokens/s")

        for delta in engine.stream("Once upon a time", imp.SamplingParams(seed=1, max_tokens=40)):
            print(delta.text, end="", flush=True)
        print()

        # Many prompts at once share their batches.
        prompts = [f"{n} and {n} is" for n in ("One", "Two", "Three")]
        for output in engine.generate(prompts, imp.SamplingParams(temperature=0, max_tokens=5)):
            print(output.prompt, "->", output.outputs[0].text.strip())

        print("perplexity", round(engine.perplexity("The quick brown fox. " * 40, context=64).value, 2))


if __name__ == "__main__":
    main(sys.argv[1])

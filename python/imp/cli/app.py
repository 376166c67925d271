"""The command table of ``imp``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import exit_codes


class Commands(TyperGroup):
    """The commands, with the errors that a user can cause reported as one line and a documented exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except exit_codes.EXPECTED as error:
            raise typer.Exit(exit_codes.report_error(error)) from None


def complete_model(incomplete: str) -> list[str]:
    """Names of models for the shell's Tab key; files are completed by the shell itself."""
    from .. import models  # noqa: PLC0415 - slow to import

    names = {entry.name for entry in models.CATALOGUE} | {model.name for model in models.local_models()}
    return sorted(name for name in names if name.startswith(incomplete))


app = typer.Typer(
    name="imp",
    cls=Commands,
    help="Run language models in GGUF files: on the GPU, and on the CPU where there is none.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in exit_codes.TABLE) + ".",
)

Model = Annotated[
    str,
    typer.Argument(
        help="GGUF file, catalogue name (imp ls --all) or hf:org/repo[:quant]", autocompletion=complete_model
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one configuration key; repeatable"),
]
ConfigFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="Configuration file to read")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[int, typer.Option("--threads", "-t", min=0, help="CPU threads; 0: one a physical core")]
Context = Annotated[int | None, typer.Option("--ctx-size", "-c", min=1, help="Longest sequence, prompt included")]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        metavar="SIZE",
        help="Most memory for weights, KV cache and workspace: 8GiB, 512MiB; default: 3/4 of what is free",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is loaded and chosen")]
Report = Annotated[str | None, typer.Option("--report", metavar="FILE", help="Write the engine's report as JSON")]

Temperature = Annotated[
    float | None, typer.Option("--temperature", "--temp", help="0: always the most likely token; default 0.7")
]
TopK = Annotated[int | None, typer.Option("--top-k", help="0: all; default 40")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Default 0.9")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Default 0")]
Seed = Annotated[int | None, typer.Option("--seed", "-s", help="Default: a different one each time")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "--predict", "-n", min=1, help="Default: until the model stops")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from .._version import __version__  # noqa: PLC0415

        print(f"imp {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    """Run language models in GGUF files: on the GPU, and on the CPU where there is none."""


@app.command()
def run(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="Default: standard input")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template")
    ] = False,
    system: Annotated[str | None, typer.Option("--system", help="System message")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say model, backend, memory and speed on stderr")] = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Stop string; repeatable")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    threads: Threads = 0,
    ctx_size: Context = None,
    report: Report = None,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Answer one prompt and stream the answer to stdout."""
    from . import run as verb  # noqa: PLC0415

    verb.run(**_options(locals()))


@app.command()
def chat(
    model: Model,
    system: Annotated[str | None, typer.Option("--system", help="System message")] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    config: ConfigFile = None,
    settings: Settings = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    threads: Threads = 0,
    ctx_size: Context = None,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Keep the lines typed, for the arrow keys; /help says where")
    ] = True,
    verbose: Verbose = False,
) -> None:
    """Talk to a model: history, multi-line input, /help for the commands."""
    from . import chat as verb  # noqa: PLC0415

    verb.chat(**_options(locals()))


@app.command()
def bench(
    model: Model,
    n_prompt: Annotated[
        str, typer.Option("-p", "--n-prompt", help="Prompt lengths: 512, 128,256 or 128-512*2")
    ] = "512",
    n_gen: Annotated[str, typer.Option("-n", "--n-gen", help="Tokens to generate")] = "128",
    pg: Annotated[list[str] | None, typer.Option("-pg", help="Prompt and generation together: PP,TG")] = None,
    depth: Annotated[str, typer.Option("-d", "--n-depth", help="Tokens already in the context")] = "0",
    threads: Annotated[str, typer.Option("-t", "--threads", help="CPU threads; 0: one a physical core")] = "0",
    repetitions: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="Timed runs of each test")] = 5,
    output: Annotated[str, typer.Option("-o", "--output", help="md, csv, json or jsonl")] = "md",
    config: ConfigFile = None,
    settings: Settings = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    verbose: Verbose = False,
) -> None:
    """Measure prompt processing (pp) and generation (tg) as llama-bench does, with bandwidth beside it."""
    from . import bench as verb  # noqa: PLC0415

    verb.bench(**_options(locals()))


@app.command()
def ppl(
    model: Model,
    file: Annotated[str, typer.Option("--file", "-f", help="Text to score; - for standard input")],
    ctx_size: Annotated[int, typer.Option("--ctx-size", "-c", min=4, help="Tokens in a window")] = 512,
    config: ConfigFile = None,
    settings: Settings = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    threads: Threads = 0,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Perplexity of a text, measured in llama-perplexity's windows."""
    from . import ppl as verb  # noqa: PLC0415

    verb.ppl(**_options(locals()))


@app.command()
def explain(
    model: Model,
    batch: Annotated[str, typer.Option("--batch", help="Token counts to explain the kernel choice for")] = "1,8,512",
    config: ConfigFile = None,
    settings: Settings = None,
    device: Device = "auto",
    memory_budget: MemoryBudget = None,
    threads: Threads = 0,
    ctx_size: Context = None,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """What will run and why: sizes, memory plan, the kernel of each op and why the others were refused."""
    from . import explain as verb  # noqa: PLC0415

    verb.explain(**_options(locals()))


@app.command()
def inspect(
    model: Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor")] = False,
    json_output: Json = False,
) -> None:
    """Metadata and tensors of a model file; nothing is loaded."""
    from . import inspect as verb  # noqa: PLC0415

    verb.inspect(**_options(locals()))


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Catalogue name or hf:org/repo[:quant]", autocompletion=complete_model)],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar")] = False,
) -> None:
    """Fetch a model by name, verified by checksum; an interrupted fetch resumes. Prints the path."""
    from . import pull as verb  # noqa: PLC0415

    verb.pull(**_options(locals()))


@app.command(name="ls")
def list_models(
    all_models: Annotated[bool, typer.Option("--all", "-a", help="Also what could be fetched by name")] = False,
    json_output: Json = False,
) -> None:
    """Models on this machine."""
    from . import pull as verb  # noqa: PLC0415

    verb.list_models(**_options(locals()))


@app.command()
def doctor(json_output: Json = False) -> None:
    """Look at this machine and say what imp will use and what is in its way."""
    from . import doctor as verb  # noqa: PLC0415

    verb.doctor(**_options(locals()))


config_app = typer.Typer(help="The configuration: values, where they come from, and files.", no_args_is_help=True)
app.add_typer(config_app, name="config")


@config_app.command("show")
def config_show(
    config: ConfigFile = None,
    settings: Settings = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from")] = False,
    json_output: Json = False,
) -> None:
    """Every effective value."""
    from . import config as verb  # noqa: PLC0415

    verb.show(**_options(locals()))


@config_app.command("check")
def config_check(
    file: Annotated[str, typer.Argument(help="Configuration file")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors")] = False,
) -> None:
    """Read a file as the engine would and say what is wrong with it."""
    from . import config as verb  # noqa: PLC0415

    verb.check(**_options(locals()))


@config_app.command("keys")
def config_keys(json_output: Json = False) -> None:
    """Every key: type, default, allowed values, and whether it acts yet."""
    from . import config as verb  # noqa: PLC0415

    verb.keys(**_options(locals()))


def _options(names: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a command without the imported module."""
    return {name: value for name, value in names.items() if name != "verb"}


def run_app(arguments: list[str]) -> int:
    """Runs one command line and gives its exit code; never raises for what a user can do wrong."""
    try:
        app(args=arguments, prog_name="imp")
        code = exit_codes.OK
    except SystemExit as request:  # typer's way to end, also after a usage error
        code = request.code if isinstance(request.code, int) else exit_codes.OK
    except exit_codes.EXPECTED as error:  # while options were read or help was printed
        code = exit_codes.report_error(error)
    return exit_codes.flush_output(code)

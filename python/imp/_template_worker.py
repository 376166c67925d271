"""The process in which chat templates are rendered. Templates come with models and may be hostile.

Started by path, not as a module, with its own sys.path: it imports Jinja2 and nothing of imp. It reads requests from
stdin and writes replies to stdout, each a 4-byte big-endian length and that many bytes of JSON. Memory is limited
once for the process, processor time before each request; the parent adds a limit of time on the wall.
"""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys
from typing import Any, BinaryIO

MEMORY_BYTES = 512 << 20
MAX_CACHED = 32


def main() -> None:
    """Serves requests until stdin ends."""
    sys.path.extend(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    environment = make_environment()
    compiled: dict[str, Any] = {}
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CORE, 0)
    write_message(replies, {"ready": True})
    while (request := read_message(requests)) is not None:
        limit_cpu(request["timeout_s"])
        write_message(replies, answer(environment, compiled, request))


def limit(which: int, value: int) -> None:
    """Sets a soft and hard limit, as low as it may already be."""
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def limit_cpu(timeout_s: float) -> None:
    """Ends the process if it is still busy long after the parent gave up, even when the parent is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime + timeout_s) + 2, hard))


def read_message(stream: BinaryIO) -> Any:
    """One message, None at the end."""
    head = stream.read(4)
    return json.loads(stream.read(int.from_bytes(head, "big"))) if len(head) == 4 else None


def write_message(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Writes one message."""
    body = json.dumps(message).encode()
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def make_environment() -> Any:
    """The sandbox, with the filters and globals that templates of Hugging Face models expect."""
    import jinja2.ext  # noqa: PLC0415
    import jinja2.nodes  # noqa: PLC0415
    import jinja2.sandbox  # noqa: PLC0415
    import jinja2.utils  # noqa: PLC0415

    class Generation(jinja2.ext.Extension):
        """{% generation %} marks the assistant's text for training; here it is plain."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Namespace(jinja2.utils.Namespace):
        """`namespace()` without names that begin with an underscore, which reach into Python."""

        def __init__(*args: Any, **attributes: Any) -> None:
            jinja2.utils.Namespace.__init__(args[0])
            for name, value in dict(*args[1:], **attributes).items():
                args[0][name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"namespace attribute {name!r}")
            super().__setitem__(name, value)

    def make_dict(*args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["namespace"] = Namespace
    environment.globals["dict"] = make_dict  # the class itself would bring its attributes along
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def answer(environment: Any, compiled: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Renders one request. `error` is the kind, `message` the text of what went wrong."""
    from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError  # noqa: PLC0415

    try:
        source = request["template"]
        if source not in compiled:
            if len(compiled) >= MAX_CACHED:
                compiled.clear()
            compiled[source] = (environment.from_string(source), names_read(environment, source))
        template, readable = compiled[source]
        unknown = sorted(set(request["kwargs"]) - readable)
        if unknown:
            return {"error": "kwargs", "unknown": unknown, "readable": sorted(readable - set(request["variables"]))}
        return render(template, {**request["variables"], **request["kwargs"]}, request["max_output_bytes"])
    except TemplateSyntaxError as error:
        return {"error": "syntax", "message": f"line {error.lineno}: {error.message}"}
    except SecurityError as error:
        return {"error": "security", "message": str(error)}
    except TemplateError as error:
        return {"error": "template", "message": str(error)}
    except MemoryError:
        return {"error": "memory", "message": "memory limit"}
    except RecursionError:
        return {"error": "recursion", "message": "nested too deeply"}
    except Exception as error:  # a template can raise anything that its filters raise
        return {"error": "template", "message": f"{type(error).__name__}: {error}"}


def names_read(environment: Any, source: str) -> set[str]:
    """Names that a template reads and does not get from its environment."""
    from jinja2.nodes import Name  # noqa: PLC0415

    tree = environment.parse(source)
    return {name.name for name in tree.find_all(Name) if name.ctx == "load"} - set(environment.globals)


def render(template: Any, variables: dict[str, Any], max_bytes: int) -> dict[str, Any]:
    """The text, or an error as soon as it is longer than it may be."""
    pieces: list[str] = []
    size = 0
    for piece in template.generate(variables):
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > max_bytes:
            return {"error": "output", "message": f"more than {max_bytes} bytes"}
        pieces.append(piece)
    return {"text": "".join(pieces)}


if __name__ == "__main__":
    main()

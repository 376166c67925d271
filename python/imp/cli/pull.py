"""``imp pull`` and ``imp ls``: models by name."""

from __future__ import annotations

from .. import models
from .common import DownloadBar, format_bytes, format_table, print_json


def pull(*, model: str, quiet: bool) -> None:
    path = models.resolve(model, download=True, progress=DownloadBar(quiet=quiet))
    print(path)


def list_models(*, all_models: bool, json_output: bool) -> None:
    found = models.local_models()
    here = {model.name for model in found}
    missing = [entry for entry in models.CATALOGUE if entry.name not in here] if all_models else []
    if json_output:
        rows = [
            {"name": model.name, "path": str(model.path), "size_bytes": model.size_bytes, "source": model.source}
            for model in found
        ]
        rows += [
            {"name": entry.name, "path": None, "size_bytes": entry.size_bytes, "source": "catalogue"}
            for entry in missing
        ]
        print_json(rows)
        return
    table = [[model.name, format_bytes(model.size_bytes), str(model.path)] for model in found]
    table += [[entry.name, format_bytes(entry.size_bytes), f"not here; imp pull {entry.name}"] for entry in missing]
    if table:
        print(format_table(["NAME", "SIZE", "PATH"], table, right={1}))
    else:
        print("no models on this machine; imp ls --all shows what can be fetched by name")

"""The examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "python"


def test_quickstart(tiny_llama: str) -> None:
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), tiny_llama]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "tokens/s" in result.stdout
    assert result.stdout.count("->") == 3
    assert "perplexity" in result.stdout.splitlines()[-1]

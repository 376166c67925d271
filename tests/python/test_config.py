"""RuntimeConfig and imp.config: the parser of the command line, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

import imp
from imp import config


def test_defaults_for_embedders_read_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imp.conf").write_text("[runtime]\nmax_batch_size = 7\n")
    monkeypatch.chdir(tmp_path)
    assert imp.RuntimeConfig().file is None
    assert imp.RuntimeConfig()["runtime.max_batch_size"] == 4
    assert imp.RuntimeConfig()["server.prefix_cache"] is False


def test_load_searches_like_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imp.conf").write_text("[runtime]\nmax_batch_size = 7\n")
    other = tmp_path / "other.conf"
    other.write_text("[runtime]\nmax_batch_size = 8\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMP_CONFIG", raising=False)
    found = config.load()
    assert found["runtime.max_batch_size"] == 7
    assert found.file is not None
    assert found.file.endswith("imp.conf")
    assert found["server.prefix_cache"] is True
    assert config.load(other)["runtime.max_batch_size"] == 8
    monkeypatch.setenv("IMP_CONFIG", str(other))
    assert config.load()["runtime.max_batch_size"] == 8


def test_effective_values_carry_their_source(tmp_path: Path) -> None:
    file = tmp_path / "a.conf"
    file.write_text("# comment\n[runtime]\nwarmup = yes\nmax_batch_size = 3\n")
    loaded = imp.RuntimeConfig(file, overrides={"runtime.max_batch_size": 5})
    loaded.set("runtime.max_seq_len", 64, origin="api", detail="max_model_len")
    effective = loaded.effective()
    assert effective["runtime.warmup"].value is True
    assert effective["runtime.warmup"].origin == "file"
    assert effective["runtime.warmup"].detail.endswith("a.conf:3")
    assert effective["runtime.max_batch_size"][:2] == (5, "set")
    assert effective["runtime.max_seq_len"] == (64, "api", "max_model_len")
    assert effective["runtime.deterministic"] == (False, "default", "")
    assert loaded.is_explicit("runtime.warmup")
    assert not loaded.is_explicit("runtime.deterministic")


def test_values_of_every_type() -> None:
    made = imp.RuntimeConfig(
        overrides={
            "runtime.warmup": True,
            "runtime.max_seq_len": 128,
            "ffn.sparsity_threshold": 1e-05,
            "diagnostics.dump_hidden_dir": "/tmp/x y",
        }
    )
    assert made["runtime.warmup"] is True
    assert made["runtime.max_seq_len"] == 128
    assert made["ffn.sparsity_threshold"] == 1e-05
    assert made["diagnostics.dump_hidden_dir"] == "/tmp/x y"
    made["runtime.warmup"] = False
    assert made["runtime.warmup"] is False


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"runtime.warmpu": True}, r"warmpu.*runtime\.warmup"),
        ({"runtime.max_seq_len": "16k"}, "16k"),
        ({"runtime.max_seq_len": 1.5}, "max_seq_len"),
        ({"runtime.warmup": "maybe"}, "true or false"),
        ({"runtime.warmup": None}, "expected a bool, number or string"),
        ({"moe.skip": True}, "not implemented yet"),
        ("runtime.warmup=1", "overrides: expected"),
    ],
)
def test_bad_overrides(overrides: object, message: str) -> None:
    with pytest.raises(imp.InvalidArgumentError, match=message):
        imp.RuntimeConfig(overrides=overrides)  # type: ignore[arg-type]


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(imp.ImpError, match=r"nowhere\.conf"):
        imp.RuntimeConfig(tmp_path / "nowhere.conf")
    with pytest.raises(imp.ImpError):
        imp.RuntimeConfig("")
    with pytest.raises(imp.InvalidArgumentError, match=r"my\.conf:2"):
        imp.RuntimeConfig.from_text("[runtime]\nwarmup\n", "my.conf")
    odd = imp.RuntimeConfig.from_text("[runtime]\nwarmpu = true\n", "my.conf")
    assert any("warmpu" in warning for warning in odd.warnings)


def test_dump_reads_back_equal() -> None:
    made = imp.RuntimeConfig(overrides={"runtime.warmup": True, "diagnostics.exit_layer": 3})
    again = imp.RuntimeConfig.from_text(made.dump())
    assert {key: made[key] for key in made} == {key: again[key] for key in again}


def test_copies_are_independent() -> None:
    made = imp.RuntimeConfig(overrides={"runtime.max_batch_size": 2})
    copy = made.copy()
    copy["runtime.max_batch_size"] = 3
    assert made["runtime.max_batch_size"] == 2


def test_keys() -> None:
    rows = config.keys()
    assert len(rows) == 106
    assert {row["name"] for row in rows} == set(imp.RuntimeConfig())
    assert {row["status"] for row in rows} == {"active", "pending"}
    defaults = imp.RuntimeConfig()
    for row in rows:
        if row["name"] != "server.prefix_cache":  # off for embedders
            assert row["default"] == defaults[str(row["name"])]
        assert row["doc"]
    assert "runtime.warmup" in defaults
    assert "runtime.nothing" not in defaults


def test_engine_arguments_become_settings(tiny_llama: str) -> None:
    with imp.Engine(
        tiny_llama,
        device="cpu",
        config={"runtime.max_batch_size": 2},
        overrides={"runtime.warmup": True},
        max_model_len=96,
    ) as engine:
        effective = engine.config.effective()
        assert effective["runtime.max_batch_size"].value == 2
        assert effective["runtime.warmup"].value is True
        assert effective["runtime.max_seq_len"] == (96, "api", "max_model_len")
        assert engine.max_model_len == 96
        reported = engine.report()["config"]["effective"]
        assert reported["runtime.max_seq_len"]["value"] == 96


def test_engine_does_not_share_its_settings(tiny_llama: str) -> None:
    made = imp.RuntimeConfig(overrides={"runtime.max_batch_size": 2})
    with imp.Engine(tiny_llama, device="cpu", config=made) as engine:
        made["runtime.max_batch_size"] = 3
        assert engine.config["runtime.max_batch_size"] == 2

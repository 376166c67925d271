"""Configuration: the same keys, files and errors as the command line's, read by the same parser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from . import _core
from .errors import InvalidArgumentError

Value = bool | int | float | str


class Setting(NamedTuple):
    """An effective value, the kind of its source ("default", "file", "set", "api", ...) and which one ("imp.conf:12")."""

    value: Value
    origin: str
    detail: str


class RuntimeConfig:
    """All settings of an engine.

    `file` is read when given; without it no file is looked for and the defaults for embedding programs hold.
    `load()` searches as the command line does. `overrides` maps "section.key" to a value and beats the file.
    """

    def __init__(
        self, file: str | os.PathLike[str] | None = None, overrides: Mapping[str, Value] | None = None
    ) -> None:
        """Reads `file`, then applies `overrides` in their order."""
        if file is None:
            self._core = _core.Config.defaults_for_embedders()
        elif os.fspath(file):
            self._core = _core.Config.load(os.fspath(file))
        else:  # an empty name would start the file search
            raise InvalidArgumentError("the name of the configuration file is empty")
        self.update(overrides or {})

    @classmethod
    def load(cls, file: str | os.PathLike[str] | None = None, overrides: Mapping[str, Value] | None = None) -> Self:
        """Settings as the command line finds them: `file`, else $IMP_CONFIG, ./imp.conf, ~/.config/imp/imp.conf."""
        config = cls.from_core(_core.Config.load("" if file is None else os.fspath(file)))
        config.update(overrides or {})
        return config

    @classmethod
    def from_text(cls, text: str, name: str = "<text>") -> Self:
        """The settings of a configuration file's text; errors call it `name`."""
        config = cls()
        config._core.load_text(text, name)
        return config

    @classmethod
    def from_core(cls, core: _core.Config) -> Self:
        """A view of native settings."""
        config = cls.__new__(cls)
        config._core = core
        return config

    @property
    def core(self) -> _core.Config:
        """The native settings."""
        return self._core

    @property
    def file(self) -> str | None:
        """The file that was read, None if there was none."""
        return self._core.file or None

    @property
    def warnings(self) -> list[str]:
        """What the parser found odd: unknown keys of a file, duplicates."""
        return list(self._core.warnings)

    def copy(self) -> RuntimeConfig:
        """An independent copy."""
        return RuntimeConfig.from_core(_core.Config(self._core))

    def update(self, overrides: Mapping[str, Value]) -> None:
        """Applies overrides, as `--set section.key=value` does."""
        if not isinstance(overrides, Mapping):
            raise InvalidArgumentError(f'overrides: expected {{"section.key": value}}, found {overrides!r}')
        for key, value in overrides.items():
            self._core.set(str(key), text_of(key, value), "set")

    def set(self, key: str, value: Value, *, origin: str = "set", detail: str = "") -> None:
        """Sets one key; `origin` is "set", "flag" or "api"."""
        self._core.set(key, text_of(key, value), origin, detail)

    def effective(self) -> dict[str, Setting]:
        """Every key with its effective value and where that came from."""
        return {key: self._setting(key) for key in self}

    def _setting(self, key: str) -> Setting:
        return Setting(self._core.get(key), *self._core.source(key))

    def is_explicit(self, key: str) -> bool:
        """Whether somebody set the key, even to its default."""
        return self._core.is_explicit(key)

    def dump(self) -> str:
        """The settings as a file that reads back equal."""
        return self._core.dump()

    def __getitem__(self, key: str) -> Value:
        """The effective value of a key; an unknown key is a ValueError with the nearest known ones."""
        return self._core.get(key)

    def __setitem__(self, key: str, value: Value) -> None:
        """Same as update({key: value})."""
        self.update({key: value})

    def __iter__(self) -> Iterator[str]:
        """The keys, sorted as the option table."""
        return iter(json.loads(self._core.to_json()))

    def __contains__(self, key: object) -> bool:
        """Whether there is such a key."""
        return key in set(self)

    def __repr__(self) -> str:
        """The settings that differ from their defaults."""
        changed = {key: s.value for key, s in self.effective().items() if s.origin != "default"}
        return f"RuntimeConfig(file={self.file!r}, overrides={changed!r})"


def load(file: str | os.PathLike[str] | None = None, overrides: Mapping[str, Value] | None = None) -> RuntimeConfig:
    """RuntimeConfig.load: the file search of the command line, then `overrides`."""
    return RuntimeConfig.load(file, overrides)


def keys() -> list[dict[str, Value]]:
    """The option table: name, type, default, status ("active" or "pending"), allowed, platform and doc of each key."""
    return _core.option_rows()


def text_of(key: str, value: Value) -> str:
    """A value as it would stand in a configuration file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value
    raise InvalidArgumentError(f"{key}: expected a bool, number or string, found {value!r}")

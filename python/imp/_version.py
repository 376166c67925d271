"""The version of the package, which is the version of its native part, and the commit that was built."""

from ._core import __commit__, __version__

__all__ = ["__commit__", "__version__"]

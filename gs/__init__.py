"""Run a program of your choice before the OOM killer kills a process.

This module owns nothing but the names: each is loaded from its submodule when it is first used,
so that `import gs` costs next to nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backends import Capabilities as Capabilities
    from .backends import capabilities as capabilities
    from .child import Completed as Completed
    from .child import run as run
    from .errors import GsError as GsError
    from .errors import InvalidHandler as InvalidHandler
    from .errors import MalformedLine as MalformedLine
    from .errors import NoSuchProcess as NoSuchProcess
    from .errors import NotSupported as NotSupported
    from .errors import PermissionDenied as PermissionDenied
    from .errors import ProgramNotExecutable as ProgramNotExecutable
    from .errors import ProgramNotFound as ProgramNotFound
    from .errors import RegistryFull as RegistryFull
    from .errors import UsageError as UsageError
    from .eventstream import EventStream as EventStream
    from .eventstream import OomEvent as OomEvent
    from .eventstream import events as events
    from .registry import Registration as Registration
    from .registry import on_oom as on_oom
    from .registry import register as register
    from .registry import registrations as registrations
    from .registry import unregister as unregister

_HOME = {
    "Capabilities": "backends",
    "capabilities": "backends",
    "Completed": "child",
    "run": "child",
    "GsError": "errors",
    "InvalidHandler": "errors",
    "MalformedLine": "errors",
    "NoSuchProcess": "errors",
    "NotSupported": "errors",
    "PermissionDenied": "errors",
    "ProgramNotExecutable": "errors",
    "ProgramNotFound": "errors",
    "RegistryFull": "errors",
    "UsageError": "errors",
    "EventStream": "eventstream",
    "OomEvent": "eventstream",
    "events": "eventstream",
    "Registration": "registry",
    "on_oom": "registry",
    "register": "registry",
    "registrations": "registry",
    "unregister": "registry",
}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=[name])
    value: object = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

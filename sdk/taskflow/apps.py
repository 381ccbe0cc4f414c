"""Finding an app by name: `module:attribute`, as `taskflow worker` and the packaged worker take it."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from taskflow.errors import InvalidArgument

if TYPE_CHECKING:
    from taskflow import AsyncTaskFlow, TaskFlow


def load(path: str, *, scheduler: str | None = None) -> TaskFlow | AsyncTaskFlow:
    """The app that `path` (`shop.tasks:app`) names; the current folder is searched first.

    With `scheduler` (host:port) it runs against that one, whichever its own code names. InvalidArgument says in one
    line what is missing: the module, the attribute, or an app behind it, or at which line the module itself failed.
    """
    from taskflow import AsyncTaskFlow, TaskFlow
    from taskflow._transport import check_address

    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute.isidentifier():
        raise InvalidArgument(f"app: {path!r} names none; give module:attribute, like shop.tasks:app", field="app")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(module_name)
    app = getattr(module, attribute, None)
    if isinstance(app, (TaskFlow, AsyncTaskFlow)):
        if scheduler is not None:
            app._core.scheduler = check_address(scheduler, "scheduler")
        return app
    there = [name for name, value in vars(module).items() if isinstance(value, (TaskFlow, AsyncTaskFlow))]
    hint = f"; it has {', '.join(there)}" if there else f"; write {attribute} = TaskFlow(…) there"
    what = "has nothing" if app is None else f"has a {type(app).__name__}, not a TaskFlow app,"
    raise InvalidArgument(f"app: {module_name} {what} called {attribute}{hint}", field="app")


def _import(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise InvalidArgument(
                f"app: there is no module {error.name} in {os.getcwd()} or on the path; "
                "run it from the folder that holds the module",
                field="app",
            ) from None
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> InvalidArgument:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename[0] != "<"
        and frame.filename != __file__
        and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return InvalidArgument(f"app: importing {name} failed{where}: {type(error).__name__}: {error}", field="app")

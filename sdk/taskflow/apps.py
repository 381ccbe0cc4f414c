"""Finding an app by name: `module:attribute`, as `taskflow worker` and the packaged worker take it."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import traceback
from typing import TYPE_CHECKING

from taskflow._messages.texts import a
from taskflow._worker import importing
from taskflow.errors import InvalidArgument

if TYPE_CHECKING:
    from taskflow._client.async_client import AsyncTaskFlow
    from taskflow._client.client import TaskFlow

_OURS = ("taskflow", "taskflow_server")


def load(path: str, *, scheduler: str | None = None) -> TaskFlow | AsyncTaskFlow:
    """The app that `path` (`shop.tasks:app`) names; the current folder is searched first.

    With `scheduler` (host:port) it runs against that one, whichever its own code names. InvalidArgument says in one
    line what is missing: the module, the attribute, or an app behind it, or at which line the module itself failed.
    """
    from taskflow import AsyncTaskFlow, TaskFlow
    from taskflow._transport.channels import check_address

    module_name, colon, attribute = path.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise InvalidArgument(
            f"app: {path!r} names a file; give the module, {name}:{attribute or 'app'}, from the folder that holds it",
            field="app",
        )
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
    _refuse_our_name(module_name)
    there = [name for name, value in vars(module).items() if isinstance(value, (TaskFlow, AsyncTaskFlow))]
    hint = f"; it has {', '.join(there)}" if there else f"; write {attribute} = TaskFlow(…) there"
    what = "has nothing" if app is None else f"has {a(type(app).__name__)}, not a TaskFlow app,"
    raise InvalidArgument(f"app: {module_name} {what} called {attribute}{hint}", field="app")


def _import(name: str) -> object:
    importing.by_load = True
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            _refuse_our_name(name)
            raise InvalidArgument(
                f"app: there is no module {error.name} in {os.getcwd()} or on the path; "
                "run it from the folder that holds the module",
                field="app",
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error
    finally:
        importing.by_load = False


def _refuse_our_name(name: str) -> None:
    """A folder or file of the user with the name of one of our packages is not what is imported."""
    first = name.partition(".")[0]
    here = next((path for path in (first, f"{first}.py") if os.path.exists(path)), None)
    if first in _OURS and here is not None:
        raise InvalidArgument(
            f"app: {os.path.join(os.getcwd(), here)} has the name of TaskFlow's own package {first}, which is imported"
            " in its place; give it another name",
            field="app",
        )


def _broken(name: str, error: BaseException) -> InvalidArgument:
    where = _own_line(error)
    at = f" at {where}" if where else ""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        said = f"{type(error).__name__}: {error.msg}"  # `str` repeats the line
    elif isinstance(error, SystemExit):
        said = f"it ended the process, by sys.exit({error.code!r}); put that under: if __name__ == '__main__'"
    return InvalidArgument(f"app: importing {name} failed{at}: {said}", field="app")


def _own_line(error: BaseException) -> str:
    """`file:line` of the user's own code at which an import failed, rather than of a library that it calls."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename[0] != "<"
        and frame.filename != __file__
        and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_libraries())] or frames
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def _libraries() -> tuple[str, ...]:
    """The folders of TaskFlow's code, of the standard library and of installed packages."""
    paths = sysconfig.get_paths()
    return (
        os.path.dirname(__file__) + os.sep,
        *(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )

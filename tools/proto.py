"""Generates the Python of proto/taskflow/v1 into the SDK. `python -m tools.proto [folder]`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
SDK = ROOT / "sdk"


def generate(into: Path) -> None:
    """Write the modules of every .proto file under `into`/taskflow/v1. Exits with protoc's message on an error."""
    import grpc_tools
    from grpc_tools import protoc

    scripts = Path(sys.executable).parent
    (into / "taskflow" / "v1").mkdir(parents=True, exist_ok=True)
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            *(str(path) for path in sorted((PROTO / "taskflow" / "v1").glob("*.proto"))),
        ]
    )
    if status != 0:
        sys.exit(status)
    (into / "taskflow" / "v1" / "__init__.py").touch()


def generated(under: Path) -> dict[str, str]:
    """The generated files by name."""
    return {path.name: path.read_text() for path in (under / "taskflow" / "v1").glob("*_pb2*.py*")}


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SDK)

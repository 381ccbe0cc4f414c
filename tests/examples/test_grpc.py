"""docs/howto/grpc.md: its program runs with grpcio and the generated code of the protos, without the SDK."""

import os
import subprocess
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

from tests.support.cluster import ServiceCluster
from tests.support.docs import ROOT, blocks

PAGE = ROOT / "docs" / "howto" / "grpc.md"
PROTO = ROOT / "proto"


def test_the_program_of_the_page_prints_what_the_page_shows(cluster: ServiceCluster, tmp_path: Path) -> None:
    includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    files = [str(path) for path in sorted(PROTO.glob("taskflow/v1/*.proto"))]
    assert protoc.main(["protoc", *includes, f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", *files]) == 0
    for folder in ("taskflow", "taskflow/v1"):
        (tmp_path / folder / "__init__.py").touch()  # so it is this package that is found, not the SDK's
    (program,), (shown,) = blocks(PAGE, "python"), blocks(PAGE, "console")
    (tmp_path / "plain.py").write_text(program)

    ran = subprocess.run(
        [sys.executable, "plain.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip

    assert ran.stderr == ""
    assert f"$ python plain.py\n{ran.stdout}" == shown


def test_each_proto_names_its_packages_in_go_and_java() -> None:
    for path in PROTO.glob("taskflow/v1/*.proto"):
        text = path.read_text()
        assert 'option go_package = "taskflow/v1;taskflowv1";' in text, path.name
        assert 'option java_package = "io.taskflow.v1";' in text, path.name

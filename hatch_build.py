"""Compiles proto/evertalk/v1/*.proto into services/evertalk/v1.

Hatchling runs this as a build hook for every wheel, editable ones included. Run as a script
(`python hatch_build.py`, `make proto`) it does the same for a developer who changed a proto.
"""

from __future__ import annotations

import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a script, without the build backend
    if __name__ != "__main__":
        raise
    BuildHookInterface = object

PROTO_ROOT = "proto"
SOURCE_ROOT = "services"
PACKAGE = "evertalk/v1"
INIT = '"""Generated from proto/evertalk/v1; do not edit."""\n'


def plugin(name: str) -> Path:
    """The path of the protoc plugin that the imported mypy-protobuf installed."""
    for file in metadata.files("mypy-protobuf") or []:
        if file.stem == name and file.parent.name in ("bin", "Scripts"):
            return Path(str(file.locate())).resolve()
    raise FileNotFoundError(f"mypy-protobuf is installed without its program {name}.")


def compile_protos(root: Path) -> list[Path]:
    """Compile every proto below `root` and return the generated files, `__init__.py` among them."""
    from grpc_tools import protoc

    protos = sorted((root / PROTO_ROOT / PACKAGE).glob("*.proto"))
    if not protos:
        raise FileNotFoundError(f"There is no .proto file in {root / PROTO_ROOT / PACKAGE}.")
    target = root / SOURCE_ROOT / PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    # protoc writes beside the target, so that each file is then put in place by one atomic rename
    # and a failed run leaves the previous files as they were.
    with tempfile.TemporaryDirectory(prefix=".v1-", dir=target) as scratch:
        arguments = [
            "protoc",
            f"-I{root / PROTO_ROOT}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugin('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={plugin('protoc-gen-mypy_grpc')}",
            f"--python_out={scratch}",
            f"--grpc_python_out={scratch}",
            f"--mypy_out=quiet:{scratch}",
            f"--mypy_grpc_out=quiet,only_async:{scratch}",
            *map(str, protos),
        ]
        status = protoc.main(arguments)
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status}; its messages are above.")
        output = Path(scratch, PACKAGE)
        (output / "__init__.py").write_text(INIT, encoding="utf-8")
        generated = [file.replace(target / file.name) for file in sorted(output.iterdir())]
    for stale in set(target.glob("*.py*")) - set(generated):
        stale.unlink()
    return generated


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,unused-ignore]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        for file in compile_protos(root):
            build_data["artifacts"].append(f"/{file.relative_to(root).as_posix()}")


if __name__ == "__main__":
    try:
        files = compile_protos(Path(__file__).resolve().parent)
    except (FileNotFoundError, ModuleNotFoundError, RuntimeError) as error:
        sys.exit(f"hatch_build.py: {error}")
    print(f"{len(files)} files generated in {SOURCE_ROOT}/{PACKAGE}")

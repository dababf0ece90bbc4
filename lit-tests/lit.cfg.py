"""lit configuration: text tests of single passes, of the parser and verifier, and of the command line.

Run by tools/test, or by hand after `cargo build -p qcc-opt -p qcc`:
    .venv/bin/lit -v lit-tests [-Dprofile=release] [-Dtarget_dir=DIR]
"""

import os
import shutil
import sys

import lit.formats

config.name = "qcc"
config.test_format = lit.formats.ShTest(execute_external=False)  # lit's own shell, the same everywhere
config.suffixes = [".qir", ".test"]
config.excludes = ["Inputs"]
config.test_source_root = os.path.dirname(os.path.abspath(__file__))
root = os.path.dirname(config.test_source_root)
target = lit_config.params.get("target_dir", os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target")))
bindir = os.path.abspath(os.path.join(target, lit_config.params.get("profile", "debug")))
config.test_exec_root = os.path.join(target, "lit")
config.environment["PATH"] = os.pathsep.join([bindir, os.environ.get("PATH", "")])
config.environment["NO_COLOR"] = "1"


def tool(*names):
    """The first of these programs that exists, on PATH or beside the running Python."""
    path = os.pathsep.join([os.environ.get("PATH", ""), os.path.dirname(sys.executable)])
    return next((found for n in names if n and (found := shutil.which(n, path=path))), None)


qcc_opt = shutil.which("qcc-opt", path=bindir)
if not qcc_opt:
    lit_config.fatal("qcc-opt not in %s: cargo build first, or -Dprofile=release / -Dtarget_dir=DIR" % bindir)
versions = range(30, 14, -1)
filecheck = tool(os.environ.get("FILECHECK"), *["FileCheck-%d" % v for v in versions], "FileCheck", "filecheck")
if not filecheck:
    lit_config.fatal("no FileCheck: run tools/setup, or install an LLVM that has it")
config.substitutions.append((r"\bqcc-opt\b", qcc_opt))
config.substitutions.append((r"\bFileCheck\b", filecheck))
inverter = tool(*["not-%d" % v for v in versions], "not")
if inverter:  # else lit's built-in `not` is used
    config.substitutions.append((r"(?<![-\w])not(?=\s)", inverter))
if os.environ.get("LLVM_SYS_221_PREFIX") or shutil.which("llvm-config-22"):  # as tools/test builds
    config.available_features.add("llvm")

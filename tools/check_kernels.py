#!/usr/bin/env python3
"""Checks every kernel with the compilers that users' machines have, none of which needs a GPU: see tools/README.md.

UNMIST_DUMP_KERNELS=$PWD/target/kernels cargo test --release --test suite -- every_kernel_translates
python tools/check_kernels.py target/kernels
"""

import argparse
import ctypes
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# An RDNA 2 and an RDNA 3 chip, by the names RADV_FORCE_FAMILY takes.
FAMILIES = ["NAVI21", "GFX1100"]
# What is printed of RADV's statistics.
SHOWN = ["VGPRs", "Spilled VGPRs", "Spilled SGPRs", "Scratch size", "LDS size", "Subgroups per SIMD", "Code size"]


class Kernel:
    def __init__(self, folder, line):
        name, self.source, self.bindings, extension, self.constants = line.rstrip("\n").split("\t")
        self.path = folder / name
        # Kernels with subgroup operations are for CPU drivers, which use the cache as registers.
        self.subgroups = extension == "subgroups"
        # wgpu's own extension of WGSL; it needs Vulkan 1.3.
        self.matrices = extension == "matrices"

    def file(self, suffix):
        return self.path.with_name(self.path.name + suffix)

    def __str__(self):
        return f"{self.path.name} ({self.constants})"


def run(*command, **options):
    """Runs a command; returns its error, or None."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


def check_tint(kernels):
    """Tint, Chrome's WGSL compiler. It requires `enable subgroups`; naga, wgpu's compiler, refuses it."""
    for kernel in (kernel for kernel in kernels if not kernel.matrices):
        with tempfile.NamedTemporaryFile("w", suffix=".wgsl") as file:
            file.write(("enable subgroups;\n" if kernel.subgroups else "") + kernel.file(".wgsl").read_text())
            file.flush()
            yield kernel, run("tint", "--format", "wgsl", "-o", os.devnull, file.name)


def without_array_strides(spirv):
    """naga gives every array type a stride; spirv-val allows that only in buffers. All buffers here hold run-time-sized
    arrays, so those of fixed size can lose it."""
    words = struct.unpack(f"<{len(spirv) // 4}I", spirv)
    instructions, at = [], 5
    while at < len(words):
        length = words[at] >> 16
        instructions.append(words[at : at + length])
        at += length
    op_decorate, op_type_array, array_stride = 71, 28, 6
    fixed = {i[1] for i in instructions if i[0] & 0xFFFF == op_type_array}
    kept = [i for i in instructions if not (i[0] & 0xFFFF == op_decorate and i[1] in fixed and i[2] == array_stride)]
    words = [*words[:5], *(word for i in kept for word in i)]
    return struct.pack(f"<{len(words)}I", *words)


def check_spirv(kernels):
    """Khronos's validator, on what Vulkan drivers get."""
    for kernel in kernels:
        spirv = without_array_strides(kernel.file(".spv").read_bytes())
        environment = "vulkan1.3" if kernel.matrices else "vulkan1.1"
        done = subprocess.run(["spirv-val", "--target-env", environment, "-"], input=spirv, capture_output=True)
        yield kernel, None if done.returncode == 0 else (done.stderr or done.stdout).decode().strip()


class DxcLibrary:
    """libdxcompiler through its COM interface, IDxcCompiler3, as it is laid out on Linux."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.compiler = ctypes.c_void_p()
        compiler, interface = "73e22d93-e6ce-47f3-b5bf-f0664f39c1b0", "228b4687-5a6a-4730-900c-9702b2203f54"
        result = self.library.DxcCreateInstance(self.guid(compiler), self.guid(interface), ctypes.byref(self.compiler))
        if result != 0:
            raise OSError(f"{path}: DxcCreateInstance failed")

    @staticmethod
    def guid(text):
        return ctypes.create_string_buffer(uuid.UUID(text).bytes_le, 16)

    @staticmethod
    def call(this, index, result, *arguments):
        # Two slots for destructors follow the three methods of IUnknown.
        table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
        types = [type(a) if isinstance(a, ctypes._SimpleCData) else ctypes.c_void_p for a in arguments]
        arguments = [a if isinstance(a, ctypes._SimpleCData) else ctypes.cast(a, ctypes.c_void_p) for a in arguments]
        return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *types)(table[index + 2])(this, *arguments)

    def error(self, hlsl):
        class Source(ctypes.Structure):
            _fields_ = [("text", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", ctypes.c_uint32)]

        source = Source(hlsl, len(hlsl), 65001)  # UTF-8
        flags = ["-E", "main", "-T", "cs_6_0", "-HV", "2018"]
        flags = (ctypes.c_wchar_p * len(flags))(*flags)
        result, status, blob = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_void_p()
        self.call(
            self.compiler,
            3,
            ctypes.c_int,
            ctypes.byref(source),
            flags,
            ctypes.c_uint32(len(flags)),
            ctypes.c_void_p(),
            self.guid("58346cda-dde7-4497-9461-6f87af5e0659"),
            ctypes.byref(result),
        )
        self.call(result, 3, ctypes.c_int, ctypes.byref(status))
        if status.value == 0:
            return None
        self.call(result, 5, ctypes.c_int, ctypes.byref(blob))
        return ctypes.string_at(self.call(blob, 3, ctypes.c_void_p), self.call(blob, 4, ctypes.c_size_t)).decode(
            errors="replace"
        )


def check_dxc(kernels):
    """Microsoft's compiler, on what DX12 gets. Either `dxc`, or the library that DXC_LIBRARY names."""
    library = None if shutil.which("dxc") else DxcLibrary(os.environ["DXC_LIBRARY"])
    for kernel in (kernel for kernel in kernels if not kernel.matrices):
        if library is None:
            command = ["dxc", "-E", "main", "-T", "cs_6_0", "-HV", "2018", "-Fo", os.devnull, kernel.file(".hlsl")]
            yield kernel, run(*command)
        else:
            yield kernel, library.error(kernel.file(".hlsl").read_bytes())


def radv_icd():
    return next(iter(sorted(Path("/usr/share/vulkan/icd.d").glob("radeon_icd*.json"))), None)


def build_driver_stats():
    """Builds tools/driver_stats, and says where it is."""
    manifest = ROOT / "tools/driver_stats/Cargo.toml"
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "driver_stats"
    build = ["cargo", "build", "--quiet", "--release", "--manifest-path", manifest, "--target-dir", target]
    subprocess.run(build, check=True)
    return target / "release/driver_stats"


def statistics(line):
    """What driver_stats printed of one kernel."""
    pairs = (part.split("=") for part in line.strip().split("\t")[1:])
    return {name: int(value) for name, value in pairs}


def check_radv(kernels):
    """Mesa's compiler for AMD GPUs. No kernel for GPUs may spill registers. Prints the statistics."""
    kernels = [kernel for kernel in kernels if not kernel.subgroups and not kernel.matrices]
    program = build_driver_stats()
    for family in FAMILIES:
        environment = os.environ | {"RADV_FORCE_FAMILY": family, "VK_ICD_FILENAMES": str(radv_icd())}
        arguments = [f"{kernel.file('.spv')}:{kernel.bindings}" for kernel in kernels]
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            yield kernels[0], f"{family}: status {done.returncode} {done.stderr}"
            continue
        most = {}
        for kernel, line in zip(kernels, done.stdout.splitlines(), strict=True):
            values = {name: statistics(line)[name] for name in SHOWN}
            spilled = values["Spilled VGPRs"] + values["Spilled SGPRs"] + values["Scratch size"]
            yield kernel, f"{family}: {values}" if spilled else None
            known = most.setdefault(kernel.source, values)
            if values["VGPRs"] > known["VGPRs"]:
                most[kernel.source] = values
        print(f"\n{family}, the variant of each file with the most registers:")
        print("kernel".ljust(36), *SHOWN, sep="  ")
        for source, values in most.items():
            print(source.ljust(36), *(str(v).rjust(len(n)) for n, v in values.items()), sep="  ")


CHECKS = {
    "tint": (check_tint, lambda: shutil.which("tint"), "tint is not on the PATH"),
    "spirv-val": (check_spirv, lambda: shutil.which("spirv-val"), "spirv-val is not on the PATH"),
    "dxc": (
        check_dxc,
        lambda: shutil.which("dxc") or os.environ.get("DXC_LIBRARY"),
        "no dxc on the PATH, no DXC_LIBRARY",
    ),
    "radv": (check_radv, radv_icd, "Mesa's RADV is not installed"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the test wrote the kernels")
    parser.add_argument("--skip", nargs="*", default=[], choices=CHECKS, help="checks to leave out")
    parser.add_argument("--only", default="", help="kernels whose name contains this, e.g. attention/")
    arguments = parser.parse_args()
    table = arguments.folder / "kernels.tsv"
    kernels = [Kernel(arguments.folder, line) for line in table.read_text().splitlines()]
    kernels = [kernel for kernel in kernels if arguments.only in kernel.source]
    failed = False
    for name, (check, available, missing) in CHECKS.items():
        if name in arguments.skip:
            continue
        if not available():
            print(f"{name}: {missing}; --skip {name} leaves this check out")
            failed = True
            continue
        results = list(check(kernels))
        failures = [(kernel, error) for kernel, error in results if error is not None]
        for kernel, error in failures:
            print(f"{name}: {kernel}:\n{error}")
        print(f"{name}: {len(results)} checked, {len(failures)} failed")
        failed |= bool(failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()

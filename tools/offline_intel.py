#!/usr/bin/env python3
"""What Intel's GPUs would be given of the kernels that full-size models run, without the GPU: see tools/README.md.

python3 tools/offline_intel.py --build                             # once: Mesa's compiler, into target/mesa-intel
UNMIST_DUMP_VENDOR=intel UNMIST_DUMP_PROGRAMS=$PWD/target/programs-intel cargo test --release --test offline
python3 tools/offline_intel.py target/programs-intel               # the table
python3 tools/offline_intel.py target/programs-intel --check       # fails where one spills that did not
python3 tools/offline_intel.py target/programs-intel --write       # benches/offline/intel.tsv
"""

import argparse
import json
import os
import re
import subprocess
import sys
import venv
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check_kernels import build_driver_stats, statistics
from offline import ROOT, Programs, backward, describe, loops, read_table, share, table

TABLE = ROOT / "benches/offline/intel.tsv"
# The generation of Tiger Lake to Raptor Lake, and Arc, by the names that the shim takes.
PLATFORMS = ["tgl", "dg2"]
KINDS = ["fma", "vector", "lds", "memory", "control"]
CONTROL = ("if", "else", "endif", "while", "break", "continue", "halt", "jmpi", "brd", "brc", "do")
LIMIT = re.compile(rf"cmp\.\w+\.f\d\.\d\(\d+\)\s+null<1>U?D\s+(g\d+)<\S+\s+(0x[0-9a-f]+|\d+)U?D")
STEP = r"add\(\d+\)\s+REGISTER<1>U?D\s+REGISTER<\S+\s+(0x[0-9a-f]+|\d+)U?D"
PACKAGES = "bison flex glslang-tools libdrm-dev libexpat1-dev libvulkan1 ninja-build pkg-config zlib1g-dev".split()
OPTIONS = """-Dvulkan-drivers=intel -Dtools=drm-shim,intel -Dgallium-drivers= -Dplatforms= -Dbuildtype=release
    -Dglx=disabled -Degl=disabled -Dgbm=disabled -Dllvm=disabled -Dzstd=disabled
    -Dopengl=false -Dgles1=disabled -Dgles2=disabled""".split()


class Compiler:
    """Mesa's driver for Intel's GPUs beside a shim that stands for the kernel's part of it."""

    def __init__(self, folder):
        self.folder = folder
        self.driver = folder / "build/src/intel/vulkan/libvulkan_intel.so"
        self.shim = folder / "build/src/intel/tools/libintel_noop_drm_shim.so"

    def build(self):
        """Debian's source of Mesa, built as little as will do: ten minutes of one core. Needs root, for apt-get."""
        source = self.folder / "source"
        (self.folder / "lists/partial").mkdir(parents=True, exist_ok=True)
        source.mkdir(exist_ok=True)
        codename = re.search(r"VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text())[1]
        listed = self.folder / "sources.list"
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        listed.write_text(f"deb-src [signed-by={key}] http://deb.debian.org/debian {codename} main\n")
        # A list of its own, so that the system's stays as it is.
        places = {"Dir::Etc::sourcelist": listed, "Dir::Etc::sourceparts": "/dev/null",
                  "Dir::State::lists": self.folder / "lists"}
        options = [part for name, place in places.items() for part in ["-o", f"{name}={place.resolve()}"]]
        run("apt-get", "install", "-y", "--no-install-recommends", *PACKAGES)
        run("apt-get", *options, "update")
        run("apt-get", *options, "source", "--download-only", "mesa", cwd=source)
        archive = next(source.glob("mesa_*.orig.tar.*"))
        run("tar", "xf", archive.resolve(), cwd=source)
        python = self.folder / "python"
        venv.create(python, with_pip=True)
        run(python / "bin/pip", "install", "--quiet", "meson", "mako")
        mesa = next(path for path in source.iterdir() if path.is_dir())
        environment = os.environ | {"PATH": f"{(python / 'bin').resolve()}:{os.environ['PATH']}"}
        build = self.folder / "build"
        run("meson", "setup", build.resolve(), mesa.resolve(), *OPTIONS, env=environment)
        targets = [library.relative_to(build) for library in [self.driver, self.shim]]
        run("ninja", "-C", build.resolve(), *targets, env=environment)

    def environment(self, platform):
        icd = self.folder / "icd.json"
        library = str(self.driver.resolve())
        described = {"file_format_version": "1.0.0", "ICD": {"api_version": "1.3.230", "library_path": library}}
        icd.write_text(json.dumps(described))
        # A compiled kernel from a cache would be a kernel without text.
        return os.environ | {
            "INTEL_STUB_GPU_PLATFORM": platform, "LD_PRELOAD": str(self.shim.resolve()),
            "VK_ICD_FILENAMES": str(icd.resolve()), "MESA_SHADER_CACHE_DISABLE": "true", "INTEL_DEBUG": "cs",
        }


def run(*command, **options):
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


def instructions(text):
    """The instructions of a kernel, one a line, the line of every label, and the cycles of the block that begins at a
    line, as the compiler estimates them: ten times as many for each loop around it."""
    lines, labels, cycles = [], {}, {}
    for line in text.split("Native code for", 1)[1].splitlines()[2:]:
        if block := re.match(r"\s+START B\d+ .*\((\d+) cycles\)", line):
            cycles[len(lines)] = cycles.get(len(lines), 0) + int(block[1])
        elif label := re.fullmatch(r"(LABEL\d+):", line.strip()):
            labels[label[1]] = len(lines)
        elif "MsgDesc" in line:
            lines[-1] += " " + line.strip()
        elif re.match(r"(\([+-]f\d\.\d[^)]*\)\s+)?[a-z]", line):
            lines.append(re.sub(r"^\([^)]*\)\s*", "", line))
    return lines, labels, cycles


def kind(line):
    """What an instruction is, by its name; None for waiting."""
    name = line.split("(")[0].split(".")[0].split()[0]
    if name in ("mad", "mac", "dp4a"):
        return "fma"
    if name.startswith("send"):
        return "lds" if re.search(r"bti 254|Surface = 254|slm MsgDesc", line) else "memory"
    if name in CONTROL:
        return "control"
    return None if name in ("sync", "nop") else "vector"


def passes(line):
    """How often eight lanes of the unit are busy with it: instructions for 16 or 32 invocations take two or four."""
    width = re.match(r"[\w.]+\s?(?:\w+\s?)?\((\d+)\)", line)
    return max(1, int(width[1]) // 8) if width else 1


def mix(lines, cycles, loop, depth=1):
    """What one round of a loop issues, in passes of eight lanes, and how many cycles it is estimated to take."""
    counted, number = Counter(), loop.first
    while number <= loop.last:
        inner = next((inner for inner in loop.inner if inner.first == number), None)
        if inner:
            for name, count in mix(lines, cycles, inner, depth + 1).items():
                counted[name] += inner.rounds * count
            number = inner.last + 1
        else:
            if found := kind(lines[number]):
                counted[found] += passes(lines[number]) if found in ("fma", "vector") else 1
            counted["cycles"] += cycles.get(number, 0) // 10**depth
            number += 1
    return counted


def hottest(text):
    """The instructions of one round of the outermost loop with the most multiply-adds."""
    lines, labels, cycles = instructions(text)
    ends = backward(lines, labels, r"while\(\d+\)\s+JIP:\s+(LABEL\d+)")
    mixes = (mix(lines, cycles, loop) for loop in loops(lines, ends, LIMIT, STEP))
    return max(mixes, key=lambda counted: counted["fma"], default=Counter())


class Measured(Programs):
    """What the compiler says about every kernel."""

    def __init__(self, folder, compiler):
        super().__init__(folder)
        program = build_driver_stats()
        self.platforms, self.compiler = {}, None
        for platform in PLATFORMS:
            environment = compiler.environment(platform)

            def compile_one(name):
                command = [program, f"{folder / name}.spv:{self.kernels[name]['bindings']}"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode != 0:
                    sys.exit(f"{platform} {name}: status {done.returncode}\n{done.stderr[-2000:]}")
                self.compiler = re.search(r"^.*\), (Mesa \S+)$", done.stderr, re.MULTILINE)[1]
                return name, statistics(done.stdout) | {"mix": hottest(done.stderr)}

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                self.platforms[platform] = dict(pool.map(compile_one, self.kernels))

    def rows(self):
        works = {program: self.work(program) for program in self.programs}
        for platform, kernels in self.platforms.items():
            order = sorted(kernels, key=lambda name: ([-work[name] for work in works.values()], name))
            for name in order:
                values, counted = kernels[name], kernels[name]["mix"]
                yield {
                    "platform": platform,
                    "kernel": self.kernels[name]["kernel"],
                    "settings": self.kernels[name]["settings"],
                    **{program: f"{work[name]:.1f}" for program, work in works.items()},
                    "invocations": str(self.kernels[name]["invocations"]),
                    "SIMD": str(values["Subgroup size"]),
                    "instructions": str(values["Instruction Count"]),
                    "spills": str(values["Spill Count"]),
                    "fills": str(values["Fill Count"]),
                    "scratch": str(values["Scratch Memory Size"]),
                    "workgroup memory": str(values["Workgroup Memory Size"]),
                    **{key: str(counted[key]) for key in [*KINDS, "cycles"]},
                    "FMA share": f"{share(counted):.1f}",
                }


def report(measured):
    """The kernels with at least one per cent of a program's work."""
    rows = list(measured.rows())
    for program in measured.programs:
        for platform in PLATFORMS:
            print(f"\n{program}, {platform}: work, SIMD, spills and fills, FMA share, a round of the loop, its cycles")
            chosen = [row for row in rows if row["platform"] == platform and float(row[program]) >= 1.0]
            for row in sorted(chosen, key=lambda row: -float(row[program])):
                mixed = " ".join(f"{key} {row[key]}" for key in KINDS)
                print(f"  {row[program]:>5} % {row['SIMD']:>3} {row['spills']:>4} {row['fills']:>4} "
                      f"{row['FMA share']:>5} %  {mixed:<52} {row['cycles']:>6}  {describe(row)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where tests/offline wrote the programs")
    parser.add_argument("--mesa", type=Path, default=ROOT / "target/mesa-intel", help="where Mesa is built")
    parser.add_argument("--build", action="store_true", help="build Mesa's compiler first (Debian; ten minutes)")
    parser.add_argument("--check", action="store_true", help="fail where a kernel spills more than in the table")
    parser.add_argument("--write", action="store_true", help="write the table")
    arguments = parser.parse_args()
    compiler = Compiler(arguments.mesa)
    if arguments.build:
        compiler.build()
    if arguments.folder is None:
        sys.exit(None if arguments.build else "Which folder of programs? Or --build")
    if not compiler.driver.exists():
        sys.exit(f"{compiler.driver} is not there: --build makes it")
    measured = Measured(arguments.folder, compiler)
    report(measured)
    if arguments.write:
        TABLE.write_text(table(measured, "tools/offline_intel.py"))
    if arguments.check:
        _, before = read_table(TABLE.read_text(), "platform")
        known = {key: int(row["spills"]) for key, row in before.items()}
        worse = [row for row in measured.rows()
                 if int(row["spills"]) > known.get((row["platform"], row["kernel"], row["settings"]), 0)]
        for row in worse:
            print(f"{row['platform']} {describe(row)}: {row['spills']} spills")
        sys.exit(len(worse) > 0)


if __name__ == "__main__":
    main()

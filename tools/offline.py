#!/usr/bin/env python3
"""What an AMD GPU's compiler makes of the kernels that full-size models run, without the GPU: see tools/README.md.

UNMIST_DUMP_PROGRAMS=$PWD/target/programs cargo test --release --test offline
python3 tools/offline.py target/programs                    # the table
python3 tools/offline.py target/programs --check            # against benches/offline/amd.tsv
python3 tools/offline.py target/programs --write            # the new one instead
python3 tools/offline.py target/programs --predict "RX 6800 XT"
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check_kernels import FAMILIES, build_driver_stats, radv_icd, statistics

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benches/offline/amd.tsv"
KINDS = ["fma", "vector", "lds", "memory", "scalar"]
# What no contraction that the rules choose may exceed: 128 registers leave a SIMD of RDNA 2 and 3 eight subgroups, and
# WebGPU guarantees no more workgroup memory. No kernel may spill.
MOST = {"VGPRs": 128, "spilled": 0, "LDS size": 16384}
# The least share of multiply-adds in the loop over k, for contractions that make up 90 % of a program's work.
LEAST_SHARE = 80.0
WAIT = re.compile(r"s_(waitcnt|clause|nop|delay_alu|inst_prefetch|set_inst_prefetch|sleep|setprio)")
NUMBER = r"(0x[0-9a-f]+|\d+)"
# What counts loops: a comparison of a register with a number, and a step from a register to itself.
LIMIT = re.compile(rf"s_cmpk?_(?:ge|lt|lg|eq)_[ui]32 (s\d+), {NUMBER}$")
STEP = rf"s_(?:add_u32|add_i32|addk_i32) REGISTER, (?:REGISTER, )?{NUMBER}$"


class Loop:
    """A part of a program that is repeated: the lines from a label to the last branch back to it."""

    def __init__(self, first, last):
        self.first, self.last = first, last
        self.inner = []
        self.rounds = 1

    def holds(self, other):
        return self.first <= other.first and other.last <= self.last and self is not other


def instructions(text):
    """The instructions of a kernel, one a line, and the line of every label."""
    lines, labels = [], {}
    for line in text.splitlines():
        code = line.split(";")[0].strip()
        if label := re.fullmatch(r"(BB\d+):", code):
            labels[label[1]] = len(lines)
        elif code:
            lines.append(code)
    return lines, labels


def backward(lines, labels, branch=r"s_c?branch\w*\s+(BB\d+)"):
    """The first line and the last line of what is repeated."""
    ends = {}
    for number, line in enumerate(lines):
        target = re.match(branch, line)
        if target and labels[target[1]] <= number:
            ends[labels[target[1]]] = number
    return ends


def loops(lines, ends, limit=LIMIT, step=STEP):
    """The outermost loops, each with those inside it."""
    found = sorted((Loop(first, last) for first, last in ends.items()), key=lambda loop: loop.last - loop.first)
    outermost = []
    for number, loop in enumerate(found):
        loop.rounds = rounds(lines[loop.first : loop.last + 1], limit, step)
        around = next((other for other in found[number + 1 :] if other.holds(loop)), None)
        (around.inner if around else outermost).append(loop)
    return outermost


def rounds(lines, limit, step):
    """How often a loop runs that counts in a register from 0, by steps, up to a number; 1 if that is not known."""
    for line in lines:
        if compared := limit.match(line):
            register, end = compared[1], int(compared[2], 0)
            by = step.replace("REGISTER", re.escape(register))
            steps = [int(match[1], 0) for match in (re.match(by, line) for line in lines) if match]
            if len(steps) == 1 and steps[0] and end % steps[0] == 0:
                return end // steps[0]
    return 1


def kind(line):
    """What an instruction is, by its name; None for hints, and for waiting."""
    name = line.split()[0]
    if name.startswith(("v_fma", "v_mad_f", "v_mac_f", "v_pk_fma_", "v_dot", "v_wmma", "v_dual_fmac")):
        return "fma"
    if name.startswith("v_"):
        return "vector"
    if name.startswith("ds_"):
        return "lds"
    if name.startswith(("buffer_", "global_", "flat_", "scratch_")):
        return "memory"
    return None if WAIT.match(name) else "scalar"


def mix(lines, loop):
    """The instructions of one round of a loop: of loops inside it as often as they run, of branches all of them. So
    work that only some rounds do, as stepping to the next tap of a window, counts in full."""
    counted = Counter()
    number = loop.first
    while number <= loop.last:
        inner = next((inner for inner in loop.inner if inner.first == number), None)
        if inner:
            for name, count in mix(lines, inner).items():
                counted[name] += inner.rounds * count
            number = inner.last + 1
        else:
            parts = lines[number].split("::")
            counted.update(found for found in map(kind, (part.strip() for part in parts)) if found)
            counted["barriers"] += lines[number].startswith("s_barrier")
            number += 1
    return counted


def in_flight(lines, loop):
    """The multiply-adds between the last load from memory of a round and the wait for the first one: how much there is
    to do while loads are on their way."""
    loads = [n for n in range(loop.first, loop.last + 1) if re.match(r"(buffer|global)_load", lines[n])]
    if not loads:
        return 0
    weight = Counter()
    for inner in loop.inner:
        weight.update({number: inner.rounds - 1 for number in range(inner.first, inner.last + 1)})
    done = 0
    for number in range(loads[-1] + 1, loop.last + 1):
        # This waits until no more than so many loads are on their way, the latest ones.
        left = re.match(r"s_waitcnt.*vmcnt\((\d+)\)", lines[number])
        if left and int(left[1]) < len(loads):
            break
        done += (1 + weight[number]) * (kind(lines[number]) == "fma")
    return done


def share(counted):
    """Multiply-adds among vector, LDS and memory instructions, in per cent."""
    issued = sum(counted[name] for name in KINDS[:4])
    return 100.0 * counted["fma"] / issued if issued else 0.0


def hottest(text):
    """The instructions of one round of the outermost loop with the most multiply-adds."""
    lines, labels = instructions(text)
    mixes = [(mix(lines, loop), loop) for loop in loops(lines, backward(lines, labels))]
    counted, loop = max(mixes, key=lambda pair: pair[0]["fma"], default=(Counter(), None))
    if loop:
        counted["in flight"] = in_flight(lines, loop)
    return counted


def compile_all(folder, kernels, family):
    """Statistics and machine code of every kernel, and the name of the compiler."""
    program = build_driver_stats()
    assembly = folder / family
    assembly.mkdir(exist_ok=True)
    environment = os.environ | {"RADV_FORCE_FAMILY": family, "VK_ICD_FILENAMES": str(radv_icd())}

    def compile_one(name):
        command = [program, "--assembly", assembly, f"{folder / name}.spv:{kernels[name]['bindings']}"]
        # Mesa 22.3 crashes at some places of the address space, chosen anew by each process, when it writes down the
        # code of some kernels: up to one time in two.
        for _ in range(20):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode >= 0:
                break
        if done.returncode != 0:
            sys.exit(f"{family} {name}: status {done.returncode}\n{done.stderr}")
        values = statistics(done.stdout)
        values["spilled"] = values["Spilled VGPRs"] + values["Spilled SGPRs"] + values["Scratch size"]
        return values | {"mix": hottest((assembly / f"{name}.s").read_text())}, done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(compile_one, kernels))
    compiler = found[0][1].strip().splitlines()[-1].split(", ")[-1]
    return {name: values for name, (values, _) in zip(kernels, found)}, compiler


class Programs:
    """The kernels and launches of a folder that tests/offline wrote."""

    def __init__(self, folder):
        described = json.loads((folder / "programs.json").read_text())
        self.kernels, self.programs = described["kernels"], described["programs"]

    def work(self, program):
        """The share of a program's floating-point operations that each kernel has, in per cent."""
        launches = self.programs[program]
        total = sum(launch["flops"] for launch in launches)
        work = Counter()
        for launch in launches:
            work[launch["file"]] += 100.0 * launch["flops"] / total
        return work


class Measured(Programs):
    """What the compilers for AMD's GPUs say about every kernel."""

    def __init__(self, folder):
        super().__init__(folder)
        self.families = {}
        for family in FAMILIES:
            self.families[family], self.compiler = compile_all(folder, self.kernels, family)

    def rows(self):
        works = {program: self.work(program) for program in self.programs}
        for family, kernels in self.families.items():
            order = sorted(kernels, key=lambda name: ([-work[name] for work in works.values()], name))
            for name in order:
                values, counted = kernels[name], kernels[name]["mix"]
                yield {
                    "family": family,
                    "kernel": self.kernels[name]["kernel"],
                    "settings": self.kernels[name]["settings"],
                    **{program: f"{work[name]:.1f}" for program, work in works.items()},
                    "invocations": str(self.kernels[name]["invocations"]),
                    **{key: str(values[key]) for key in ["VGPRs", "spilled", "LDS size", "Subgroups per SIMD"]},
                    "Code size": str(values["Code size"]),
                    **{key: str(counted[key]) for key in [*KINDS, "barriers", "in flight"]},
                    "FMA share": f"{share(counted):.1f}",
                }

    def limits(self):
        """What is worse than it may ever be."""
        for family, kernels in self.families.items():
            for name, values in kernels.items():
                contraction = self.kernels[name]["kernel"].startswith("contraction/")
                for key, most in MOST.items():
                    if values[key] > most and (contraction or key == "spilled"):
                        yield f"{family} {describe(self.kernels[name])}: {key} {values[key]}, at most {most}"
        yield from self.low_shares("sd15-unet-512")

    def low_shares(self, program):
        """Contractions among the kernels that make up 90 % of the work, with too few multiply-adds."""
        covered = 0.0
        for name, work in self.work(program).most_common():
            if covered >= 90.0:
                return
            covered += work
            for family, kernels in self.families.items():
                found, kernel = share(kernels[name]["mix"]), self.kernels[name]
                if kernel["kernel"].startswith("contraction/") and found < LEAST_SHARE:
                    yield f"{family} {describe(kernel)}: {found:.1f} % multiply-adds, at least {LEAST_SHARE}"


def describe(kernel):
    return f"{kernel['kernel']} ({kernel['settings']})"


def table(measured, by="tools/offline.py"):
    rows = list(measured.rows())
    lines = [f"# {measured.compiler}; written by {by}", "\t".join(rows[0])]
    return "\n".join(lines + ["\t".join(row.values()) for row in rows]) + "\n"


def read_table(text, first="family"):
    compiler, header, *lines = text.splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"))) for line in lines]
    return compiler, {(row[first], row["kernel"], row["settings"]): row for row in rows}


def worse(before, now):
    """How a kernel got worse."""
    for key in ["VGPRs", "spilled", "LDS size"]:
        if int(now[key]) > int(before[key]):
            yield f"{key} {before[key]} became {now[key]}"
    if int(now["in flight"]) < int(before["in flight"]):
        yield f"multiply-adds while loads are in flight: {before['in flight']} became {now['in flight']}"
    # Half a per cent is an instruction here or there.
    if float(now["FMA share"]) < float(before["FMA share"]) - 0.5:
        yield f"FMA share {before['FMA share']} % became {now['FMA share']} %"


def check(measured):
    """The differences from the committed table; every one is a reason to fail."""
    problems = list(measured.limits())
    committed, before = read_table(TABLE.read_text())
    compiler, now = read_table(table(measured))
    if compiler != committed:
        # Another compiler makes other code: only the limits hold.
        print(f"{TABLE.relative_to(ROOT)} was made with {committed[2:]}, here is {compiler[2:]}: limits checked alone")
        return problems
    for key in now.keys() - before.keys():
        problems.append(f"{' '.join(key)}: not in the table")
    for key in before.keys() - now.keys():
        problems.append(f"{' '.join(key)}: in the table, but no program runs it")
    for key in now.keys() & before.keys():
        problems += [f"{' '.join(key)}: {how}" for how in worse(before[key], now[key])]
    return problems


# Peak f32 multiply-adds counted as two, TFLOP/s; memory bandwidth, GB/s; SIMDs that run subgroups independently; what
# stands for its compiler. From the makers' data sheets; without dual issue, which ACO 22.3 does not use.
GPUS = {
    "RX 6800 XT": (20.7, 512, 144, "NAVI21"),
    "RX 7900 XTX": (30.7, 960, 192, "GFX1100"),
    "RTX 3060": (12.7, 360, 112, "NAVI21"),
    "RTX 4090": (82.6, 1008, 512, "NAVI21"),
    "Arc A770": (17.2, 560, 512, "NAVI21"),
}
# Between two launches that depend on each other, microseconds: drain, barrier, fill. An assumption.
LAUNCH = 4.0


def filled(launch, kernel, simds):
    """The share of a launch's time that SIMDs are busy, if those without a subgroup in the last round wait."""
    subgroups = math.ceil(kernel["invocations"] / 64)
    x, y, z = launch["workgroups"]
    first, last, length = x * y * z * subgroups, 0, 1.0
    if kernel["kernel"] == "contraction/5_streams":
        # Whole tiles, then parts of others, which SIMDs without a whole tile may take in the meantime.
        params = launch["params"]
        tile = int(re.search(r"TILE_M=(\d+)", kernel["settings"])[1])
        whole = min(max(params["whole_rows"] // tile - params["first_workgroup_y"], 0), y)
        first, last = (rows * x * subgroups for rows in (whole, y - whole))
        length = min(params["K_per_split"] / (params["KD"] * params["KH"] * params["KW"] * params["C"]), 1.0)
    idle = -first % simds
    left = max(last - idle * math.floor(1.0 / length), 0)
    rounds = math.ceil(first / simds) + math.ceil(left / simds) * length
    return (first + last * length) / (rounds * simds)


def predict(measured, gpu, simds):
    """A step's time if every kernel ran at its share of the peak, no latency showed, and each launch waited for the one
    before. It says what cannot be beaten, not what will be seen. With another number of SIMDs, peak and bandwidth are
    in proportion."""
    tflops, bandwidth, all_simds, family = GPUS[gpu]
    simds = simds or all_simds
    tflops, bandwidth = tflops * simds / all_simds, bandwidth * simds / all_simds
    print(f"\npredicted for {gpu} ({simds} SIMDs, {tflops:.1f} TFLOP/s, {bandwidth:.0f} GB/s, code as for {family}); "
          "nothing was measured:")
    print("program".ljust(20), *(c.rjust(12) for c in ["ms a step", "arithmetic", "memory", "launches", "TFLOP/s"]))
    for program, launches in measured.programs.items():
        arithmetic = memory = 0.0
        for launch in launches:
            counted = measured.families[family][launch["file"]]["mix"]
            # Where no loop has multiply-adds, memory decides.
            efficiency = filled(launch, measured.kernels[launch["file"]], simds) * (share(counted) / 100.0 or 1.0)
            by_flops = launch["flops"] / (tflops * 1e9 * efficiency)
            by_bytes = launch["bytes"] / (bandwidth * 1e6)
            arithmetic += by_flops if by_flops > by_bytes else 0.0
            memory += by_bytes if by_flops <= by_bytes else 0.0
        between = LAUNCH * 1e-3 * len(launches)
        whole = arithmetic + memory + between
        flops = sum(launch["flops"] for launch in launches)
        values = [f"{v:.1f}" for v in [whole, arithmetic, memory, between, flops / whole / 1e9]]
        print(program.ljust(20), *(v.rjust(12) for v in values))


def report(measured):
    """The kernels with at least one per cent of a program's work."""
    for program in measured.programs:
        work = measured.work(program)
        print(f"\n{program}: {len(measured.programs[program])} launches")
        for family, kernels in measured.families.items():
            print(f"  {family}: work, FMA share of the loop, FMA while loads are in flight, instructions of the loop, "
                  "registers, subgroups a SIMD, kernel")
            for name, part in work.most_common():
                values, counted = kernels[name], kernels[name]["mix"]
                if part >= 1.0:
                    mixed = " ".join(f"{key} {counted[key]}" for key in KINDS)
                    print(f"  {part:5.1f} % {share(counted):6.1f} % {counted['in flight']:5}  {mixed:<48} "
                          f"{values['VGPRs']:4} {values['Subgroups per SIMD']:3}  {describe(measured.kernels[name])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where tests/offline wrote the programs")
    parser.add_argument("--check", action="store_true", help="fail where a kernel is worse than in the committed table")
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("--predict", metavar="GPU", choices=GPUS, help=f"how long a step takes: {', '.join(GPUS)}")
    parser.add_argument("--simds", metavar="N", type=int, help="--predict for a GPU of as many SIMDs of this kind")
    arguments = parser.parse_args()
    if radv_icd() is None:
        sys.exit("Mesa's RADV is not installed: apt-get install mesa-vulkan-drivers libvulkan1")
    measured = Measured(arguments.folder)
    if arguments.write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table(measured))
    if arguments.predict:
        predict(measured, arguments.predict, arguments.simds)
    if arguments.check:
        problems = sorted(check(measured))
        print("\n".join(problems))
        print(f"{len(list(measured.rows()))} kernels compiled by {measured.compiler}, {len(problems)} problems")
        if problems:
            sys.exit("If that is intended: python3 tools/offline.py FOLDER --write")
    if not (arguments.check or arguments.predict):
        report(measured)


if __name__ == "__main__":
    main()

//! What a device can do at most: the ceilings of its roofline (Williams, Waterman and Patterson 2009), measured by
//! kernels of their own, `wgsl/ceilings/`, whose results are checked: what a compiler drops has not been measured.

use serde::{Deserialize, Serialize};

use super::samples::Samples;
use super::single_kernel::{EFFORT, NoWeights, SingleKernel, time};
use super::timing::time_wall;
use crate::caps::{Caps, MatrixElement};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuSession};
use crate::kernel::{Kernel, KernelKey};
use crate::ops::{Const, Cost, Param};
use crate::plan::Launch;
use crate::tensor::{DType, HostTensor};

/// Something that a device did over and over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Floating-point operations or bytes of each run.
    pub work: u64,
    /// Seconds of each run.
    pub seconds: Samples,
}

impl Ceiling {
    /// Operations or bytes in a second: those of the fastest run, since disturbances only ever add time.
    pub fn rate(&self) -> f64 {
        self.work as f64 / self.seconds.least()
    }
}

/// A shape of cooperative matrices, and their ceiling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixCeiling {
    /// `16x16x16 f16`
    pub shape: String,
    /// Floating-point operations.
    pub ceiling: Ceiling,
}

/// What launches cost that do next to nothing, seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DispatchCost {
    /// How many launches went into one submission.
    pub launches: usize,
    /// One submission with that many, and the wait for it.
    pub many: Samples,
    /// One submission with one, and the wait for it.
    pub one: Samples,
}

impl DispatchCost {
    /// Seconds that one more launch adds to a submission.
    pub fn each(&self) -> f64 {
        (self.many.median() - self.one.median()).max(0.0) / (self.launches - 1) as f64
    }
}

/// The ceilings of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Floating-point operations in f32, multiply-adds that count as two.
    pub fma_f32: Ceiling,
    /// The same in f16, where kernels can calculate in it.
    pub fma_f16: Option<Ceiling>,
    /// Cooperative matrices with sums in f32, where the device lists such a shape.
    pub matrices: Vec<MatrixCeiling>,
    /// Bytes that a copy from one buffer to another reads and writes.
    pub copy: Ceiling,
    /// What a launch costs.
    pub dispatch: DispatchCost,
}

/// How a kernel calculates, for the ceiling that it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Single numbers in f32.
    F32,
    /// Single numbers in f16, or a mixture.
    F16,
    /// Cooperative matrices.
    Matrix,
}

impl Arithmetic {
    /// That of a kernel, by its text.
    pub fn of(kernel: &Kernel) -> Self {
        if kernel.wgsl.contains("coopMultiplyAdd") {
            Self::Matrix
        } else if kernel.wgsl.contains("enable f16;") {
            Self::F16
        } else {
            Self::F32
        }
    }
}

impl Ceilings {
    /// Measures them: about two seconds.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`] if a kernel does not compile here or does not do its work; [`crate::Error::Limits`] if
    /// the device has no room for the buffers of a copy.
    pub fn measure(gpu: &GpuDevice) -> Result<Self> {
        let fma_f16 = gpu.caps().f16.then(|| fma(gpu, "ceilings/fma_f16")).transpose()?;
        Ok(Self {
            fma_f32: fma(gpu, "ceilings/fma_f32")?,
            fma_f16,
            matrices: matrices(gpu.caps()).into_iter().map(|m| m.measure(gpu)).collect::<Result<_>>()?,
            copy: copy(gpu)?,
            dispatch: dispatch(gpu)?,
        })
    }

    /// The higher ones of two measurements: while one was made, something else may have kept the device busy.
    #[must_use]
    pub fn or_higher(self, other: Self) -> Self {
        let higher = |a: Ceiling, b: Ceiling| if b.rate() > a.rate() { b } else { a };
        let matrix = |(a, b): (MatrixCeiling, MatrixCeiling)| MatrixCeiling {
            ceiling: higher(a.ceiling, b.ceiling),
            shape: a.shape,
        };
        let cheaper = other.dispatch.each() < self.dispatch.each();
        Self {
            fma_f32: higher(self.fma_f32, other.fma_f32),
            fma_f16: self.fma_f16.zip(other.fma_f16).map(|(a, b)| higher(a, b)),
            matrices: self.matrices.into_iter().zip(other.matrices).map(matrix).collect(),
            copy: higher(self.copy, other.copy),
            dispatch: if cheaper { other.dispatch } else { self.dispatch },
        }
    }

    /// The most floating-point operations a second that kernels which calculate so can reach.
    pub fn flops(&self, arithmetic: Arithmetic) -> f64 {
        let single = self.fma_f32.rate();
        let half = self.fma_f16.iter().map(Ceiling::rate).fold(single, f64::max);
        match arithmetic {
            Arithmetic::F32 => single,
            Arithmetic::F16 => half,
            Arithmetic::Matrix => self.matrices.iter().map(|m| m.ceiling.rate()).fold(half, f64::max),
        }
    }

    /// The least seconds that this work can take.
    pub fn least_seconds(&self, cost: Cost, arithmetic: Arithmetic) -> f64 {
        (cost.flops as f64 / self.flops(arithmetic)).max(cost.bytes as f64 / self.copy.rate())
    }
}

/// Keys of all kernels below `wgsl/ceilings/`, in every setting that is measured: for tests of their texts.
pub fn kernel_keys() -> Vec<KernelKey> {
    let key = |name, constants| KernelKey { name, constants, storage: Vec::new(), textures: Vec::new() };
    let number = |name, value| vec![(name, Const::U32(value))];
    let chains = ["ceilings/fma_f32", "ceilings/fma_f16"].map(|name| CHAINS.map(|n| key(name, number("CHAINS", n))));
    let copies = VECTORS.map(|n| key("ceilings/copy", number("VECTORS", n)));
    let matrices = MATRICES.map(|m| key(m.kernel, number("LANES", 32)));
    let plain = ["ceilings/fill", "ceilings/mark"].map(|name| key(name, Vec::new()));
    chains.into_iter().flatten().chain(copies).chain(matrices).chain(plain).collect()
}

/// Independent vectors of an invocation in `fma_*`: few registers, or more work between dependent steps.
const CHAINS: [u32; 2] = [2, 4];

/// Vectors that an invocation of `copy` moves.
const VECTORS: [u32; 2] = [1, 4];

/// Rounds of the loop of `fma_*`: 2 are added in each, and f16 must hold the sum exactly.
const FMA_ROUNDS: u32 = 512;

/// As in wgsl/include/fma_chains.wgsl.
const FMA_SLOTS: usize = 256;

fn fma(gpu: &GpuDevice, name: &'static str) -> Result<Ceiling> {
    best(CHAINS.iter().map(|chains| {
        let key = KernelKey {
            name,
            constants: vec![("CHAINS", Const::U32(*chains))],
            storage: Vec::new(),
            textures: Vec::new(),
        };
        let mut bench = SingleKernel::new(Kernel::build(&key)?);
        bench.output(4 * FMA_SLOTS, DType::F32);
        let params = [("rounds", Param::U32(FMA_ROUNDS)), ("factor", Param::F32(1.0)), ("up", Param::F32(1.0))];
        bench.params(&[&params[..], &[("down", Param::F32(-1.0))]].concat())?;
        let flops_of_workgroup = 256 * u64::from(FMA_ROUNDS) * 16 * u64::from(*chains) * 4 * 2;
        let ceiling = bench.saturate(gpu, flops_of_workgroup)?;
        let first = |i: usize| *chains as usize * (i / 4 + 2 * FMA_ROUNDS as usize);
        let spread = (chains * (chains - 1) / 2) as usize;
        bench.check(gpu, &|i| (first(i) + spread) as f32)?;
        Ok(ceiling)
    }))
}

/// A shape that kernels exist for.
#[derive(Clone, Copy)]
struct Matrix {
    kernel: &'static str,
    side: u32,
    factors: MatrixElement,
}

const MATRICES: [Matrix; 3] = [
    Matrix { kernel: "ceilings/matrix_16_f16", side: 16, factors: MatrixElement::F16 },
    Matrix { kernel: "ceilings/matrix_8_f16", side: 8, factors: MatrixElement::F16 },
    Matrix { kernel: "ceilings/matrix_8_f32", side: 8, factors: MatrixElement::F32 },
];

/// As in wgsl/include/matrix_chains.wgsl.
const MATRIX_SLOTS: u32 = 64;

/// The shapes that a device lists. Their kernels need to know the subgroup size.
fn matrices(caps: &Caps) -> Vec<Matrix> {
    let listed = |matrix: &Matrix| {
        caps.cooperative_matrices.iter().any(|m| {
            let factors = m.factors == matrix.factors && m.sums == MatrixElement::F32;
            factors && [m.m, m.n, m.k] == [matrix.side; 3]
        })
    };
    let known = caps.subgroup_size().is_some();
    MATRICES.into_iter().filter(|matrix| known && listed(matrix)).collect()
}

impl Matrix {
    fn measure(self, gpu: &GpuDevice) -> Result<MatrixCeiling> {
        const ROUNDS: u32 = 512;
        let lanes = gpu.caps().subgroup_size().expect("`matrices` asked");
        let key = KernelKey {
            name: self.kernel,
            constants: vec![("LANES", Const::U32(lanes))],
            storage: Vec::new(),
            textures: Vec::new(),
        };
        let mut bench = SingleKernel::new(Kernel::build(&key)?);
        let dtype = if self.factors == MatrixElement::F16 { DType::F16 } else { DType::F32 };
        let elements = (self.side * self.side) as usize;
        bench.input("a", HostTensor { shape: vec![elements], data: vec![1.0; elements] }, dtype);
        bench.input("b", HostTensor { shape: vec![elements], data: vec![1.0 / self.side as f32; elements] }, dtype);
        bench.output(elements * MATRIX_SLOTS as usize, DType::F32);
        bench.params(&[("rounds", Param::U32(ROUNDS))])?;
        let flops = 4 * u64::from(ROUNDS) * 2 * u64::from(self.side).pow(3);
        // Every slot must be written.
        bench.workgroups = [MATRIX_SLOTS, 1, 1];
        let ceiling = bench.saturate(gpu, flops)?;
        bench.check(gpu, &|_| 4.0 * ROUNDS as f32)?;
        let (side, dtype) = (self.side, dtype.name());
        Ok(MatrixCeiling { shape: format!("{side}x{side}x{side} {dtype}"), ceiling })
    }
}

/// Larger than what devices keep in caches, but no more than a binding holds and memory spares.
const COPY_BYTES: u64 = 128 << 20;

/// The same for CPU drivers, which are slower, and share their memory.
const COPY_BYTES_OF_CPU: u64 = 64 << 20;

fn copy(gpu: &GpuDevice) -> Result<Ceiling> {
    let caps = gpu.caps();
    let wanted = if caps.is_cpu { COPY_BYTES_OF_CPU } else { COPY_BYTES };
    let room = caps.memory_bytes.map_or(wanted, |bytes| bytes / 16).min(wanted);
    let bytes = room.min(caps.max_binding_bytes).min(caps.max_buffer_bytes).max(1 << 20) >> 20 << 20;
    let elements = (bytes / 4) as usize;
    best(VECTORS.iter().map(|vectors| {
        let key = |name, constants| KernelKey { name, constants, storage: Vec::new(), textures: Vec::new() };
        let fill = Kernel::build(&key("ceilings/fill", Vec::new()))?;
        let mut bench =
            SingleKernel::new(Kernel::build(&key("ceilings/copy", vec![("VECTORS", Const::U32(*vectors))]))?);
        let x = bench.buffer(bytes);
        bench.output(elements, DType::U32);
        bench.bindings.insert("x".into(), x);
        bench.before(fill, &[("vectors", Param::U32((elements / 4) as u32))], fold(elements / 1024))?;
        bench.workgroups = fold(elements / 1024 / *vectors as usize);
        let mut session = bench.session(gpu)?;
        let seconds = time(gpu, &mut session, &EFFORT)?;
        let number = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32;
        bench.check_session(&mut session, &number)?;
        Ok(Ceiling { work: 2 * bytes, seconds })
    }))
}

/// A number of workgroups in rows that a dispatch may have, without a remainder: they are powers of two here.
fn fold(workgroups: usize) -> [u32; 3] {
    let rows = workgroups.div_ceil(65_535).next_power_of_two();
    [workgroups.div_ceil(rows) as u32, rows as u32, 1]
}

fn dispatch(gpu: &GpuDevice) -> Result<DispatchCost> {
    const LAUNCHES: usize = 512;
    let key = KernelKey { name: "ceilings/mark", constants: Vec::new(), storage: Vec::new(), textures: Vec::new() };
    let submission = |launches: usize| -> Result<Samples> {
        let mut bench = SingleKernel::new(Kernel::build(&key)?);
        bench.output(launches, DType::U32);
        bench.params(&[("place", Param::U32(0))])?;
        let mut program = bench.program();
        for place in 1..launches {
            bench.params(&[("place", Param::U32(place as u32))])?;
            program.step.push(Launch { params: bench.params.clone(), ..program.step[0].clone() });
        }
        let mut session = GpuSession::new(gpu, program, &NoWeights::new())?;
        bench.check_session(&mut session, &|place| (place + 1) as f32)?;
        time_wall(&mut session, &EFFORT)
    };
    Ok(DispatchCost { launches: LAUNCHES, many: submission(LAUNCHES)?, one: submission(1)? })
}

/// The highest of several ways to reach a ceiling.
fn best(ways: impl Iterator<Item = Result<Ceiling>>) -> Result<Ceiling> {
    let ways = ways.collect::<Result<Vec<_>>>()?;
    Ok(ways.into_iter().max_by(|a, b| a.rate().total_cmp(&b.rate())).expect("there are several"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_ceiling_bounds_the_time() {
        let ceiling = |work| Ceiling { work, seconds: Samples::new(vec![2.0, 1.0]) };
        let dispatch = DispatchCost { launches: 11, many: Samples::new(vec![3.0]), one: Samples::new(vec![1.0]) };
        let mut ceilings =
            Ceilings { fma_f32: ceiling(100), fma_f16: None, matrices: Vec::new(), copy: ceiling(10), dispatch };
        let seconds =
            |ceilings: &Ceilings, flops, bytes, arithmetic| ceilings.least_seconds(Cost { flops, bytes }, arithmetic);
        assert_eq!(seconds(&ceilings, 1000, 10, Arithmetic::F32), 10.0);
        assert_eq!(seconds(&ceilings, 100, 40, Arithmetic::F32), 4.0);
        assert_eq!(seconds(&ceilings, 1000, 10, Arithmetic::Matrix), 10.0, "without matrices as with f32");
        ceilings.fma_f16 = Some(ceiling(200));
        ceilings.matrices.push(MatrixCeiling { shape: "8x8x8 f16".into(), ceiling: ceiling(1000) });
        assert_eq!(seconds(&ceilings, 1000, 10, Arithmetic::F16), 5.0);
        assert_eq!(seconds(&ceilings, 1000, 10, Arithmetic::Matrix), 1.0);
        assert_eq!(ceilings.dispatch.each(), 0.2);
        let busy = Ceilings { fma_f32: ceiling(50), copy: ceiling(20), ..ceilings.clone() };
        let both = busy.or_higher(ceilings);
        assert_eq!([both.fma_f32.rate(), both.copy.rate()], [100.0, 20.0]);
    }

    #[test]
    fn rows_of_workgroups_cover_without_a_remainder() {
        for workgroups in [1, 256, 32_768, 65_536, 131_072] {
            let [x, y, z] = fold(workgroups);
            assert_eq!((x * y * z) as usize, workgroups);
            assert!(x <= 65_535);
        }
    }
}

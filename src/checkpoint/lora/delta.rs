//! What an adapter adds to a weight, from its formula, in f64.
//!
//! Sources: LoRA: Hu et al. 2021, arXiv:2106.09685. LoCon, LoHa and LoKr: Yeh et al. 2023 (LyCORIS), arXiv:2309.14859;
//! Hadamard products as FedPara, Hyeon-Woo et al. 2021, arXiv:2108.06098. DoRA: Liu et al. 2024, arXiv:2402.09353.

use std::collections::BTreeMap;

use super::names::Role;
use crate::checkpoint::weights::check_finite;
use crate::checkpoint::{Tensors, quoted};
use crate::error::{Error, Result};
use crate::parallel::*;
use crate::tensor::HostTensor;

/// The tensors of one layer: their roles, and their names in the file.
pub(super) type Parts = BTreeMap<Role, String>;

/// How the change of a weight is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `up · down`, with a core between them for a convolution's kernel where there is a `mid`.
    LowRank,
    /// `(w1_a · w1_b) ∘ (w2_a · w2_b)`
    Hadamard,
    /// `w1 ⊗ w2`
    Kronecker,
    /// The change itself.
    Full,
}

impl Form {
    /// The form that these parts make, if they make one.
    pub fn of(parts: &Parts) -> Option<Self> {
        let has = |roles: &[Role]| roles.iter().all(|role| parts.contains_key(role));
        let either = |whole, factors: [Role; 2]| has(&[whole]) || has(&factors);
        use Role::*;
        if has(&[Down, Up]) {
            Some(Self::LowRank)
        } else if has(&[HadaW1A, HadaW1B, HadaW2A, HadaW2B]) {
            Some(Self::Hadamard)
        } else if either(LokrW1, [LokrW1A, LokrW1B]) && either(LokrW2, [LokrW2A, LokrW2B]) {
            Some(Self::Kronecker)
        } else if has(&[Diff]) {
            Some(Self::Full)
        } else {
            None
        }
    }

    /// The rank that alpha is divided by; `None` where it does not count.
    pub fn rank(self, file: &Tensors, parts: &Parts) -> Option<usize> {
        let rows = |role| file.info(parts.get(&role)?)?.shape.first().copied();
        match self {
            Self::LowRank => rows(Role::Down),
            Self::Hadamard => rows(Role::HadaW1B),
            // With both factors whole LyCORIS leaves alpha out.
            Self::Kronecker => rows(Role::LokrW2B).or_else(|| rows(Role::LokrW1B)),
            Self::Full => None,
        }
    }
}

/// A matrix in f64: rows, columns, values.
struct Matrix {
    rows: usize,
    columns: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// A tensor as a matrix: its first dimension against all others.
    fn of(tensor: &HostTensor) -> Self {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let data = tensor.data.iter().map(|v| f64::from(*v)).collect();
        Self { rows, columns: tensor.len() / rows.max(1), data }
    }

    /// The product; `None` if the sizes do not agree, or the result has more than `most` values: a damaged file can ask
    /// for any.
    fn times(&self, other: &Self, most: usize) -> Option<Self> {
        if self.columns != other.rows || self.rows.saturating_mul(other.columns) > most {
            return None;
        }
        let columns = other.columns;
        let mut data = vec![0.0; self.rows * columns];
        data.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, out)| {
            let factors = &self.data[row * self.columns..(row + 1) * self.columns];
            for (factor, values) in factors.iter().zip(other.data.chunks_exact(columns.max(1))) {
                out.iter_mut().zip(values).for_each(|(out, value)| *out += factor * value);
            }
        });
        Some(Self { rows: self.rows, columns, data })
    }

    fn transposed(&self) -> Self {
        let data = (0..self.data.len()).map(|i| self.data[i % self.rows * self.columns + i / self.rows]).collect();
        Self { rows: self.columns, columns: self.rows, data }
    }
}

/// The change of a weight of this shape, before any factor: as many values as the weight has.
///
/// # Errors
/// [`Error::Checkpoint`] if the parts do not make a weight of this shape, or hold NaN or infinity.
pub(super) fn delta(file: &Tensors, form: Form, parts: &Parts, shape: &[usize]) -> Result<Vec<f64>> {
    let read = |role: Role| -> Result<HostTensor> {
        let name = &parts[&role];
        let tensor = file.read_f32(name)?;
        check_finite(&file.path().display().to_string(), name, &tensor)?;
        Ok(tensor)
    };
    let matrix = |role| read(role).map(|tensor| Matrix::of(&tensor));
    let most: usize = shape.iter().product();
    let has = |role| parts.contains_key(&role);
    let misfit = || {
        let (_, name) = parts.iter().next().expect("a layer has parts");
        Error::Checkpoint(format!(
            "{}: {} and what belongs to it do not make a weight of shape {shape:?}",
            file.path().display(),
            quoted(name)
        ))
    };
    // A core [i, j, kernel] between a left matrix [i, O] and a right one [j, I]: W[o, c, k] = Σ_ij core[i, j, k] ·
    // left[i, o] · right[j, c].
    let tucker = |core: &HostTensor, left: &Matrix, right: &Matrix| -> Option<Matrix> {
        let [i, j, ..] = core.shape[..] else { return None };
        let kernel = core.len() / (i * j).max(1);
        // [O, i] · [i, j·k] = [O, j, k]
        let half = left.transposed().times(&Matrix::of(core), 16 * most)?;
        if right.rows != j || left.rows != i || left.columns.saturating_mul(right.columns) * kernel > most {
            return None;
        }
        let mut data = vec![0.0; left.columns * right.columns * kernel];
        data.par_chunks_mut((right.columns * kernel).max(1)).enumerate().for_each(|(o, out)| {
            for (j, row) in right.data.chunks_exact(right.columns.max(1)).enumerate() {
                let core = &half.data[(o * right.rows + j) * kernel..][..kernel];
                for (c, factor) in row.iter().enumerate() {
                    out[c * kernel..(c + 1) * kernel].iter_mut().zip(core).for_each(|(out, v)| *out += factor * v);
                }
            }
        });
        Some(Matrix { rows: left.columns, columns: right.columns * kernel, data })
    };
    let product = |a: Role, b: Role, core: Role| -> Result<Matrix> {
        let (left, right) = (matrix(a)?, matrix(b)?);
        let found = if has(core) { tucker(&read(core)?, &left, &right) } else { left.times(&right, most) };
        found.ok_or_else(misfit)
    };
    let change = match form {
        Form::Full => matrix(Role::Diff)?,
        Form::LowRank if has(Role::Mid) => {
            let (up, down) = (matrix(Role::Up)?, matrix(Role::Down)?);
            tucker(&read(Role::Mid)?, &up.transposed(), &down).ok_or_else(misfit)?
        }
        Form::LowRank => matrix(Role::Up)?.times(&matrix(Role::Down)?, most).ok_or_else(misfit)?,
        Form::Hadamard => {
            let mut first = product(Role::HadaW1A, Role::HadaW1B, Role::HadaT1)?;
            let second = product(Role::HadaW2A, Role::HadaW2B, Role::HadaT2)?;
            if first.data.len() != second.data.len() {
                return Err(misfit());
            }
            first.data.iter_mut().zip(second.data).for_each(|(a, b)| *a *= b);
            first
        }
        Form::Kronecker => {
            let first = if has(Role::LokrW1) {
                matrix(Role::LokrW1)?
            } else {
                matrix(Role::LokrW1A)?.times(&matrix(Role::LokrW1B)?, most).ok_or_else(misfit)?
            };
            let second = if has(Role::LokrW2) {
                matrix(Role::LokrW2)?
            } else {
                product(Role::LokrW2A, Role::LokrW2B, Role::LokrT2)?
            };
            kronecker(&first, &second, shape).ok_or_else(misfit)?
        }
    };
    if change.rows != shape[0] || change.data.len() != most {
        return Err(misfit());
    }
    Ok(change.data)
}

/// `w1 [a, b] ⊗ w2 [c, d, kernel]` as a weight `[a·c, b·d, kernel]`.
fn kronecker(w1: &Matrix, w2: &Matrix, shape: &[usize]) -> Option<Matrix> {
    let kernel: usize = shape[2..].iter().product();
    let (c, d) = (w2.rows, w2.columns / kernel.max(1));
    let (rows, inputs) = (w1.rows * c, w1.columns * d);
    if [rows, inputs] != shape[..2] || d * kernel != w2.columns {
        return None;
    }
    let value = |i: usize| {
        let (row, input, tap) = (i / (inputs * kernel), i / kernel % inputs, i % kernel);
        w1.data[row / c * w1.columns + input / d] * w2.data[row % c * w2.columns + input % d * kernel + tap]
    };
    Some(Matrix { rows, columns: inputs * kernel, data: (0..rows * inputs * kernel).map(value).collect() })
}

/// DoRA: the changed weight `changed` with its rows (or, of LyCORIS' first version, its columns) brought to the learnt
/// magnitudes. The norm is that of the changed weight, as in the paper, PEFT and LyCORIS; ComfyUI since October 2025
/// takes the unchanged weight's.
///
/// # Errors
/// [`Error::Checkpoint`] if the magnitudes do not fit the weight.
pub(super) fn to_magnitudes(
    changed: &mut [f64],
    magnitudes: &HostTensor,
    by_output: bool,
    shape: &[usize],
    name: &str,
) -> Result<()> {
    let (outputs, inputs) = (shape[0], shape.get(1).copied().unwrap_or(1));
    let kernel = shape.iter().skip(2).product::<usize>();
    let rows = by_output || magnitudes.shape.first() == Some(&outputs);
    let (count, group): (usize, fn(usize, usize, usize) -> usize) =
        if rows { (outputs, |i, inputs, kernel| i / (inputs * kernel)) } else { (inputs, |i, n, k| i / k % n) };
    if magnitudes.len() != count {
        return Err(Error::Checkpoint(format!(
            "{}: {} magnitudes do not fit a weight of shape {shape:?}",
            quoted(name),
            magnitudes.len()
        )));
    }
    let mut squares = vec![0.0; count];
    changed.iter().enumerate().for_each(|(i, v)| squares[group(i, inputs, kernel)] += v * v);
    let factor: Vec<f64> = squares
        .iter()
        .zip(&magnitudes.data)
        .map(|(square, magnitude)| f64::from(*magnitude) / (square.sqrt() + f64::from(f32::EPSILON)))
        .collect();
    changed.iter_mut().enumerate().for_each(|(i, v)| *v *= factor[group(i, inputs, kernel)]);
    Ok(())
}

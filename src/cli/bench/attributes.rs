//! An operation by its name, shapes and attributes, as a person types them: `conv2d`, `1x64x64x320,320x3x3x320`,
//! `stride=2,padding=1`.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::graph::{Rate, TensorDesc};
use crate::measure::Instance;
use crate::ops::activation::{Activation, ActivationKind};
use crate::ops::attention::{Attention, Packing};
use crate::ops::contraction::{Contraction, Epilogue, Gather, WindowAxis, Windows};
use crate::ops::gated::Gated;
use crate::ops::norm::{Norm, NormKind};
use crate::ops::{Case, Info, Op, Size, registry};
use crate::tensor::DType;

/// What the registry knows of the operation with this name or alias.
///
/// # Errors
/// [`Error::Usage`] listing the names.
pub fn info(name: &str) -> Result<Info> {
    let mut registry = registry();
    let found = registry.iter().position(|info| info.name == name || info.aliases.contains(&name));
    found.map(|index| registry.swap_remove(index)).ok_or_else(|| {
        let known: Vec<&str> = crate::ops::registry().iter().flat_map(|i| [&[i.name], i.aliases].concat()).collect();
        Error::Usage(format!("--kernel {name}: there is no such operation; there are {}", known.join(", ")))
    })
}

/// The operation with the smallest of its shapes in real models, or else the largest small case.
///
/// # Errors
/// [`Error::Usage`] if there is no such operation.
pub fn usual(name: &str, precision: DType) -> Result<Instance> {
    let info = info(name)?;
    let called = |case: &&Case| case.op.is_called(name);
    let elements = |case: &&Case| case.inputs.iter().flatten().map(|input| input.desc.elements()).sum::<usize>();
    let real = info.cases_of(Size::Perf).filter(called).min_by_key(elements);
    let case = real.or_else(|| info.cases_of(Size::Small).filter(called).max_by_key(elements));
    of_case(case.expect("every operation has small cases of all its kinds"), precision)
}

fn of_case(case: &Case, precision: DType) -> Result<Instance> {
    let shapes = case.inputs.iter().map(|input| {
        let input = input.as_ref()?;
        let dtype = if input.always_f32 { input.desc.dtype } else { precision };
        Some(TensorDesc { shape: input.desc.shape.clone(), dtype })
    });
    instance(case.op.clone(), shapes.collect(), case.label)
}

/// The operation `name` on inputs of these shapes, with these attributes.
///
/// # Errors
/// [`Error::Usage`] for what cannot be read, [`Error::Shape`] if the shapes do not go together.
pub fn parse(name: &str, shapes: &str, attributes: &str, precision: DType) -> Result<Instance> {
    let info = info(name)?;
    let shapes = parse_shapes(shapes, info.inputs)?;
    let attributes = &mut Attributes::parse(attributes)?;
    let op = operation(name, &info, &shapes, attributes)?;
    attributes.finish(name)?;
    // Element types as in the cases: what stays f32 in every model, and indices.
    let case = info.cases.iter().find(|case| {
        let present = |i: usize| case.inputs.get(i).is_some_and(Option::is_some);
        case.op.is_called(name) && shapes.iter().enumerate().all(|(i, shape)| shape.is_none() || present(i))
    });
    let inputs = shapes.iter().enumerate().map(|(i, shape)| {
        let like = case.and_then(|case| case.inputs[i].as_ref());
        let dtype = match like {
            Some(input) if input.always_f32 => input.desc.dtype,
            _ => precision,
        };
        shape.as_ref().map(|shape| TensorDesc { shape: shape.clone(), dtype })
    });
    instance(op, inputs.collect(), "y")
}

/// Shapes by position or as `bias=320`; `-` for an input that is absent.
fn parse_shapes(text: &str, names: &[&str]) -> Result<Vec<Option<Vec<usize>>>> {
    let wrong = |part: &str| {
        Error::Usage(format!(
            "--shape: expected a shape such as 1x64x64x320, NAME=SHAPE, or - for none, found {part}; the inputs are {}",
            names.join(", ")
        ))
    };
    let mut shapes = vec![None; names.len()];
    for (position, part) in text.split(',').map(str::trim).enumerate() {
        let (position, shape) = match part.split_once('=') {
            Some((name, shape)) => (names.iter().position(|n| *n == name).ok_or_else(|| wrong(part))?, shape),
            None => (position, part),
        };
        let slot = shapes.get_mut(position).ok_or_else(|| wrong(part))?;
        if shape != "-" {
            let dims: std::result::Result<Vec<usize>, _> = shape.split('x').map(str::parse).collect();
            *slot = Some(dims.ok().filter(|dims| dims.iter().all(|d| *d > 0)).ok_or_else(|| wrong(part))?);
        }
    }
    Ok(shapes)
}

/// Parameters stay parameters, so that what is prepared from them alone does not count.
fn instance(op: Op, descs: Vec<Option<TensorDesc>>, label: &str) -> Result<Instance> {
    let of_weights: &[&str] = match op {
        Op::Contraction(_) => &["weight", "bias"],
        Op::Norm(_) => &["gamma", "beta"],
        Op::Embedding(_) => &["table"],
        _ => &[],
    };
    let output = op.infer(&descs.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    let rate = |name: &&str| if of_weights.contains(name) { Rate::Once } else { Rate::Step };
    let inputs = descs.into_iter().zip(op.input_names()).map(|(desc, name)| Some((desc?, rate(name)))).collect();
    Ok(Instance { op, inputs, output, nodes: vec![label.into()] })
}

/// `NAME=VALUE,…`, each to be taken once.
struct Attributes {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Attributes {
    fn parse(text: &str) -> Result<Self> {
        let pair = |part: &str| {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| Error::Usage(format!("--attributes: expected NAME=VALUE, found {part}")))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        };
        let left = text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect::<Result<_>>()?;
        Ok(Self { left, known: Vec::new() })
    }

    fn take(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let index = self.left.iter().position(|(n, _)| n == name)?;
        Some(self.left.remove(index).1)
    }

    fn number<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let wrong = || Error::Usage(format!("--attributes {name}={text}: expected a number"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// `2`, or a number for each axis, `2:1`.
    fn numbers(&mut self, name: &'static str) -> Result<Option<Vec<usize>>> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let wrong = || Error::Usage(format!("--attributes {name}={text}: expected numbers, as 2 or 2:1"));
        text.split(':').map(|n| n.parse().map_err(|_| wrong())).collect::<Result<_>>().map(Some)
    }

    fn activation(&mut self, name: &'static str) -> Result<Option<ActivationKind>> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let kind = ActivationKind::ALL.into_iter().find(|kind| kind.name() == text);
        let known = || ActivationKind::ALL.map(ActivationKind::name).join(", ");
        kind.map(Some).ok_or_else(|| Error::Usage(format!("--attributes {name}={text}: there are {}", known())))
    }

    /// Refuses what nothing took.
    fn finish(&self, operation: &str) -> Result<()> {
        let Some((name, _)) = self.left.first() else { return Ok(()) };
        Err(Error::Usage(match self.known.as_slice() {
            [] => format!(
                "--attributes {name}: {operation} takes none here, but --node NAME takes an operation from a model \
                with its attributes"
            ),
            known => format!("--attributes {name}: {operation} has {}", known.join(", ")),
        }))
    }
}

/// The operation itself.
fn operation(name: &str, info: &Info, shapes: &[Option<Vec<usize>>], given: &mut Attributes) -> Result<Op> {
    let given_shapes = shapes.iter().flatten().count();
    let windows = name == "conv2d" || shapes.get(1).and_then(Option::as_ref).is_some_and(|w| w.len() > 2);
    Ok(match info.name {
        "contraction" => {
            let gather = if windows { Gather::Windows(axes(shapes, given)?) } else { Gather::Rows };
            Contraction { gather, epilogue: epilogue(given)? }.into()
        }
        "attention" => {
            let packing = match (given.take("packing").as_deref(), given_shapes) {
                (Some("separate"), _) => Packing::Separate,
                (Some("qkv"), _) | (None, 1) => Packing::Qkv,
                (Some("kv"), _) | (None, 2) => Packing::Kv,
                (None, _) => Packing::Separate,
                (Some(other), _) => {
                    return Err(Error::Usage(format!("--attributes packing={other}: there are separate, qkv, kv")));
                }
            };
            Attention {
                heads: given.number("heads")?.unwrap_or(8),
                kv_heads: given.number("kv_heads")?,
                causal: given.number("causal")?.unwrap_or(false),
                scale: given.number("scale")?,
                packing,
            }
            .into()
        }
        "norm" => {
            let default = if name == "layer_norm" { "layer" } else { "group" };
            let kind = match given.take("kind").as_deref().unwrap_or(default) {
                "group" => NormKind::Group { groups: given.number("groups")?.unwrap_or(32) },
                "layer" => NormKind::Layer,
                "rms" => NormKind::Rms,
                other => return Err(Error::Usage(format!("--attributes kind={other}: there are group, layer, rms"))),
            };
            let activation = given.activation("activation")?;
            Norm { activation, ..Norm::new(kind, given.number("eps")?.unwrap_or(1e-5)) }.into()
        }
        "activation" => Activation { kind: given.activation("kind")?.unwrap_or(ActivationKind::Silu) }.into(),
        "gated" => Gated { activation: given.activation("activation")?.unwrap_or(ActivationKind::Gelu) }.into(),
        _ => {
            // As in the first case that these shapes fit.
            let descs: Vec<Option<TensorDesc>> = shapes.iter().map(|s| s.clone().map(TensorDesc::f32)).collect();
            let descs: Vec<Option<&TensorDesc>> = descs.iter().map(Option::as_ref).collect();
            let fits = |case: &&Case| case.op.is_called(name) && case.op.infer(&descs).is_ok();
            let case = info.cases.iter().find(fits).ok_or_else(|| {
                Error::Usage(format!(
                    "--kernel {name}: no known use of it fits these shapes; --node NAME takes an operation from a \
                    model, and without --shape it is one that is known"
                ))
            })?;
            case.op.clone()
        }
    })
}

/// Stride 1 and as much padding as keeps the size, unless given otherwise.
fn axes(shapes: &[Option<Vec<usize>>], given: &mut Attributes) -> Result<Windows> {
    let weight = shapes.get(1).and_then(Option::as_ref).map_or(&[][..], Vec::as_slice);
    let taps = weight.get(1..weight.len().saturating_sub(1)).unwrap_or_default();
    let [stride, padding, dilation] = [given.numbers("stride")?, given.numbers("padding")?, given.numbers("dilation")?];
    let of_axis = |numbers: &Option<Vec<usize>>, axis: usize, default: usize| {
        numbers.as_ref().map_or(default, |n| n.get(axis).or(n.last()).copied().unwrap_or(default))
    };
    let axes = taps.iter().enumerate().map(|(axis, taps)| {
        let dilation = of_axis(&dilation, axis, 1);
        let padding = of_axis(&padding, axis, taps.saturating_sub(1) * dilation / 2);
        WindowAxis { stride: of_axis(&stride, axis, 1), padding: [padding; 2], dilation }
    });
    let [groups, upsample] = [given.number("groups")?, given.number("upsample")?].map(|number| number.unwrap_or(1));
    Ok(Windows { axes: axes.collect(), groups, upsample })
}

fn epilogue(given: &mut Attributes) -> Result<Epilogue> {
    let gate = given.activation("gate")?;
    let activation = given.activation("activation")?;
    let (scale, summand_first) = (given.number("scale")?.unwrap_or(1.0), given.number("summand_first")?.unwrap_or(0));
    Ok(Epilogue { activation: gate.or(activation), gate: gate.is_some(), scale, summand_first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_as_they_are_typed() {
        let conv = parse("conv2d", "1x64x64x320,320x3x3x320,bias=320", "stride=2", DType::F16).expect("well-formed");
        assert_eq!(conv.label(), "conv2d[windows stride=2,2 padding=1,1,1,1]");
        assert_eq!(
            conv.shapes(),
            "f16 [1, 64, 64, 320], f16 [320, 3, 3, 320], f32 [320], -, - -> f16 [1, 32, 32, 320]"
        );
        assert_eq!(conv.inputs[1].as_ref().expect("given").1, Rate::Once);
        let gate = parse("linear", "4x8,16x8,-,-,4x8", "gate=gelu,scale=0.5", DType::F32).expect("well-formed");
        assert_eq!(gate.label(), "linear[rows gate=gelu scale=0.5]");
        assert_eq!(gate.output.shape, [4, 8]);
        let attention = parse("attention", "1x77x320,1x77x640", "heads=5", DType::F32).expect("keys with values");
        assert!(attention.label().contains("heads=5"), "{}", attention.label());
        let norm = parse("group_norm", "2x8x8x64,64,64", "activation=silu", DType::F16).expect("well-formed");
        assert_eq!(norm.inputs[1].as_ref().expect("given").0.dtype, DType::F32);
        let concat = parse("concat", "1x4x4x8,1x4x4x4", "", DType::F32).expect("as some case");
        assert_eq!(concat.output.shape, [1, 4, 4, 12]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let fails = |name: &str, shapes: &str, attributes: &str, part: &str| {
            let error = parse(name, shapes, attributes, DType::F32).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        };
        fails("conv", "1", "", "conv2d");
        fails("conv2d", "1x8x8y4", "", "1x8x8y4");
        fails("conv2d", "1x8x8x4,filter=4x3x3x4", "", "weight, bias");
        fails("conv2d", "1x8x8x4,4x3x3x0", "", "4x3x3x0");
        fails("conv2d", "1x8x8x4,4x3x3x8", "", "8 input channels");
        fails("conv2d", "1x8x8x4", "", "weight");
        fails("conv2d", "1x8x8x4,4x3x3x4", "strides=2", "stride, padding");
        fails("conv2d", "1x8x8x4,4x3x3x4", "stride=two", "stride=two");
        fails("linear", "4x8,16x8", "activation=swishy", "silu");
        fails("slice", "4x8", "start=2", "--node");
        fails("linear", "4x8,16x8,16,4x16,4x16,4", "", "found 4");
    }

    #[test]
    fn every_operation_has_usual_shapes() {
        for info in registry() {
            for name in [&[info.name], info.aliases].concat() {
                let instance = usual(name, DType::F16).unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(instance.op.is_called(name), "{name}");
            }
        }
    }
}

//! What naga says about a kernel: its bindings, the fields of its parameters, its workgroup size. WGSL is the only
//! place that declares them.

use naga::proc::{GlobalCtx, Layouter};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{
    AddressSpace, Handle, ImageClass, Module, Scalar, ScalarKind, StorageAccess, StorageFormat, Type, TypeInner,
    VectorSize,
};

use serde::{Deserialize, Serialize};

use super::template::Expanded;
use crate::error::{Error, Result};
use crate::tensor::DType;

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Access {
    /// `var<storage, read>`, or a texture's `read`
    Read,
    /// `var<storage, read_write>`, or a texture's `write`
    ReadWrite,
    /// `var<uniform>`: the kernel's parameters.
    Uniform,
}

/// One `@group(0) @binding(n)` variable.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Binding {
    /// Binding number.
    pub index: u32,
    /// Variable name.
    pub name: String,
    /// How it is used.
    pub access: Access,
    /// The type of the elements that an array holds: f32 for `f32` and `vec4<f32>`, f16 for `vec2<u32>` (four of them,
    /// packed) and `vec4<f16>`, u32 for `u32`. `None` for the uniform and for arrays of any other type.
    pub dtype: Option<DType>,
    /// Whether it is a storage texture, `texture_storage_2d` of a float format.
    #[serde(default)]
    pub texture: bool,
}

/// Scalar type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ParamType {
    /// `u32`
    U32,
    /// `i32`
    I32,
    /// `f32`
    F32,
}

/// One field of the uniform struct.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ParamField {
    /// Field name.
    pub name: String,
    /// Byte offset.
    pub offset: u32,
    /// Scalar type.
    pub ty: ParamType,
}

/// A kernel's interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reflection {
    /// Bindings in order of their number.
    pub bindings: Vec<Binding>,
    /// Fields of the uniform struct, in order.
    pub params: Vec<ParamField>,
    /// Size of the uniform struct in bytes; 0 if there is none.
    pub params_size: u32,
    /// Invocations per workgroup in x, y, z.
    pub workgroup_size: [u32; 3],
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Whether it uses subgroup built-ins.
    pub uses_subgroups: bool,
}

/// Parses and validates `wgsl` and describes its entry point `main`.
///
/// # Errors
/// [`Error::Kernel`] with naga's message and the kernel's file name.
pub fn reflect(kernel: &str, wgsl: &str) -> Result<Reflection> {
    let file = super::sources::file_name(kernel);
    describe(wgsl, &|problem: Problem| match problem.diagnosis {
        Some((_, text)) => Error::Kernel(format!("{file} {}:\n{}", problem.what, text(&file))),
        None => Error::Kernel(format!("{file}: {}", problem.what)),
    })
}

/// As [`reflect`], for the text of `file` after its expansion: messages name file and line as they were before it.
///
/// # Errors
/// As [`reflect`].
pub(super) fn reflect_expanded(file: &str, expanded: &Expanded) -> Result<Reflection> {
    describe(&expanded.wgsl, &|problem: Problem| {
        let Some((line, text)) = problem.diagnosis else { return Error::Kernel(format!("{file}: {}", problem.what)) };
        let origin = line.and_then(|line| expanded.origins.get(line as usize - 1));
        let place = origin.map_or_else(|| file.to_owned(), |(file, line)| format!("{file}:{line}"));
        Error::Kernel(format!("{place}: {file} {}:\n{}", problem.what, text(&format!("{file}, expanded"))))
    })
}

/// What is wrong with a text.
struct Problem<'a> {
    what: String,
    /// The line, from 1, where it is known, and naga's message for a file name.
    diagnosis: Option<(Option<u32>, Emit<'a>)>,
}

type Emit<'a> = &'a dyn Fn(&str) -> String;

fn describe(wgsl: &str, error: &dyn Fn(Problem<'_>) -> Error) -> Result<Reflection> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| {
        let line = e.location(wgsl).map(|at| at.line_number);
        let text = |file: &str| e.emit_to_string_with_path(wgsl, file);
        error(Problem { what: "does not parse".into(), diagnosis: Some((line, &text)) })
    })?;
    let capabilities = Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_FLOAT16
        | Capabilities::COOPERATIVE_MATRIX;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    validator.validate(&module).map_err(|e| {
        let line = e.location(wgsl).map(|at| at.line_number);
        let text = |file: &str| e.emit_to_string_with_path(wgsl, file);
        error(Problem { what: "is not valid".into(), diagnosis: Some((line, &text)) })
    })?;
    let bad = |message: String| error(Problem { what: message, diagnosis: None });

    let entry =
        module.entry_points.iter().find(|e| e.name == "main").ok_or_else(|| bad("no entry point `main`".into()))?;
    let mut layouter = Layouter::default();
    layouter
        .update(GlobalCtx {
            types: &module.types,
            constants: &module.constants,
            overrides: &module.overrides,
            global_expressions: &module.global_expressions,
        })
        .map_err(|e| bad(format!("layout: {e}")))?;

    let mut reflection = Reflection {
        bindings: Vec::new(),
        params: Vec::new(),
        params_size: 0,
        workgroup_size: entry.workgroup_size,
        workgroup_memory: 0,
        uses_subgroups: wgsl.contains("subgroup"),
    };
    for (_, variable) in module.global_variables.iter() {
        if variable.space == AddressSpace::WorkGroup {
            reflection.workgroup_memory += layouter[variable.ty].size;
        }
        let Some(binding) = &variable.binding else { continue };
        let name = variable.name.clone().ok_or_else(|| bad("a binding has no name".into()))?;
        if binding.group != 0 {
            return Err(bad(format!("binding {name} is in group {}, all belong in group 0", binding.group)));
        }
        let access = match variable.space {
            AddressSpace::Uniform => Access::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => Access::ReadWrite,
            AddressSpace::Storage { .. } => Access::Read,
            AddressSpace::Handle => match module.types[variable.ty].inner {
                TypeInner::Image { class: ImageClass::Storage { access, .. }, .. }
                    if access == StorageAccess::STORE =>
                {
                    Access::ReadWrite
                }
                _ => Access::Read,
            },
            other => return Err(bad(format!("binding {name} is in address space {other:?}"))),
        };
        if access == Access::Uniform {
            let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
                return Err(bad(format!("uniform {name} must be a struct")));
            };
            reflection.params_size = *span;
            for member in members {
                let field = member.name.clone().unwrap_or_default();
                let ty = match module.types[member.ty].inner {
                    TypeInner::Scalar(s) if s.width == 4 => match s.kind {
                        ScalarKind::Uint => ParamType::U32,
                        ScalarKind::Sint => ParamType::I32,
                        ScalarKind::Float => ParamType::F32,
                        _ => return Err(bad(format!("parameter {field} must be u32, i32 or f32"))),
                    },
                    _ => return Err(bad(format!("parameter {field} must be a scalar"))),
                };
                reflection.params.push(ParamField { name: field, offset: member.offset, ty });
            }
        }
        let dtype = element_type(&module, variable.ty);
        let texture = variable.space == AddressSpace::Handle;
        reflection.bindings.push(Binding { index: binding.binding, name, access, dtype, texture });
    }
    reflection.bindings.sort_by_key(|b| b.index);
    Ok(reflection)
}

/// See [`Binding::dtype`].
fn element_type(module: &Module, binding: Handle<Type>) -> Option<DType> {
    let base = match module.types[binding].inner {
        TypeInner::Array { base, .. } => base,
        TypeInner::Image { class: ImageClass::Storage { format, .. }, .. } => {
            return [(StorageFormat::Rgba32Float, DType::F32), (StorageFormat::Rgba16Float, DType::F16)]
                .into_iter()
                .find_map(|(known, dtype)| (known == format).then_some(dtype));
        }
        _ => return None,
    };
    match module.types[base].inner {
        TypeInner::Scalar(Scalar::F32) | TypeInner::Vector { size: VectorSize::Quad, scalar: Scalar::F32 } => {
            Some(DType::F32)
        }
        TypeInner::Vector { size: VectorSize::Bi, scalar: Scalar::U32 }
        | TypeInner::Vector { size: VectorSize::Quad, scalar: Scalar::F16 } => Some(DType::F16),
        TypeInner::Scalar(Scalar::U32) => Some(DType::U32),
        _ => None,
    }
}

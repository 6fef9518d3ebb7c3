//! How numbers are stored in memory, as kernels see it. A format belongs to an operand: the same kernel reads f32
//! activations and f16 weights. Arithmetic is f32 whatever the format.

use std::fmt::Write as _;

use crate::tensor::DType;

/// Texels in each row of a texture. WebGPU guarantees 8192 in both directions.
pub const TEXTURE_WIDTH: u32 = 1024;

/// How a kernel declares a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Whether it is written.
    pub written: bool,
    /// Whether this instance binds a texture there.
    pub texture: bool,
}

/// A way to store the four numbers of a vector.
///
/// This is the door for others: bf16 is one more entry with its own two expressions; a block format, whose numbers
/// share a scale, is one whose `Format::load` reads the scale too, since the contraction, which reads the large
/// weights, asks for vectors and elements by their position and never indexes a binding itself; what it loads long
/// before it needs it, it asks for as stored (`fetch`) and decodes later. A format without `Format::encode` is for
/// reading only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Four 32-bit floats.
    F32,
    /// Four 16-bit floats, packed in pairs: needs no device feature, unlike WGSL's own `f16`.
    F16,
    /// The same, as WGSL's own `f16`: for kernels that enable it.
    NativeF16,
}

/// Where vector `i` is in a texture.
const TEXEL: &str = "vec2<u32>(i % 1024u, i / 1024u)";

impl Format {
    /// The format of floats of this type; `None` for whole numbers, which kernels declare as `array<u32>`.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::U32 => None,
        }
    }

    /// The WGSL type of four numbers.
    fn vector(self) -> &'static str {
        match self {
            Self::F32 => "vec4<f32>",
            Self::F16 => "vec2<u32>",
            Self::NativeF16 => "vec4<f16>",
        }
    }

    /// `vec4<f32>` from `v`, a stored vector.
    fn decode(self) -> &'static str {
        match self {
            Self::F32 => "v",
            Self::F16 => "vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y))",
            Self::NativeF16 => "vec4<f32>(v)",
        }
    }

    /// A stored vector from `v`, a `vec4<f32>`; `None` if kernels cannot write the format.
    fn encode(self) -> Option<&'static str> {
        match self {
            Self::F32 => Some("v"),
            Self::F16 => Some("vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw))"),
            Self::NativeF16 => Some("vec4<f16>(v)"),
        }
    }

    /// The format of texels of four numbers, in WGSL's words.
    pub fn texel(self) -> &'static str {
        match self {
            Self::F32 => "rgba32float",
            Self::F16 | Self::NativeF16 => "rgba16float",
        }
    }

    /// Bytes of a texel.
    pub fn texel_bytes(self) -> u64 {
        match self {
            Self::F32 => 16,
            Self::F16 | Self::NativeF16 => 8,
        }
    }

    /// The vector at position `i` of a binding.
    fn load(self, binding: &str, texture: bool) -> String {
        if texture { format!("textureLoad({binding}, {TEXEL})") } else { format!("decode_{binding}({binding}[i])") }
    }

    /// The statement that stores `value` there.
    fn store(self, binding: &str, texture: bool) -> String {
        if texture {
            format!("textureStore({binding}, {TEXEL}, value);")
        } else {
            format!("{binding}[i] = encode_{binding}(value);")
        }
    }

    /// What `//!storage BINDING` stands for: the type `BINDING_vec4`, `decode_BINDING` and `encode_BINDING` between
    /// that and `vec4<f32>`, `fetch_BINDING(i)`, the i-th vector of the binding as a buffer stores it,
    /// `load_BINDING(i)`, the same decoded, and `BINDING_element(i)`, its i-th number; for a binding that is written
    /// `store_BINDING(i, value)` in place of these three.
    pub fn declaration(self, binding: &str, Declaration { written, texture }: Declaration) -> String {
        let (vector, decode, load) = (self.vector(), self.decode(), self.load(binding, texture));
        let mut text = format!("alias {binding}_vec4 = {vector};\n");
        let mut line = |function: String| writeln!(text, "fn {function}").expect("writing to a String cannot fail");
        line(format!("decode_{binding}(v: {binding}_vec4) -> vec4<f32> {{ return {decode}; }}"));
        if let Some(encode) = self.encode() {
            line(format!("encode_{binding}(v: vec4<f32>) -> {binding}_vec4 {{ return {encode}; }}"));
        }
        if written {
            let store = self.store(binding, texture);
            line(format!("store_{binding}(i: u32, value: vec4<f32>) {{ {store} }}"));
        } else {
            if !texture {
                line(format!("fetch_{binding}(i: u32) -> {binding}_vec4 {{ return {binding}[i]; }}"));
            }
            line(format!("load_{binding}(i: u32) -> vec4<f32> {{ return {load}; }}"));
            line(format!("{binding}_element(i: u32) -> f32 {{ return load_{binding}(i / 4u)[i % 4u]; }}"));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

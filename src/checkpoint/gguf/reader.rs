//! The values of a GGUF header, one after the other. Nothing is allocated by a length that the file has not got.

use crate::checkpoint::quoted;

type Result<T> = std::result::Result<T, String>;

/// A value of the metadata.
pub(super) enum Value<'a> {
    Text(&'a str),
    U32(u32),
    /// Any other number, or a flag, as text.
    Number(String),
    /// A short list of integers that are not negative.
    Integers(Vec<usize>),
    /// A longer list, or one of something else.
    Other,
}

/// Longest list of integers that is kept: shapes are shorter, a tokenizer's lists longer.
const KEPT: u64 = 8;

pub(super) struct Reader<'a> {
    file: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a [u8]) -> Self {
        Self { file, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The next bytes; `what` they are, for the message.
    pub fn take(&mut self, length: u64, what: &str) -> Result<&'a [u8]> {
        let rest = &self.file[self.position..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
            format!(
                "the header ends within {what}: {length} bytes should follow byte {}, {} do; the file is truncated or \
                 damaged, fetch it again",
                self.position,
                rest.len()
            )
        })?;
        self.position += taken.len();
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self, what: &str) -> Result<[u8; BYTES]> {
        Ok(self.take(BYTES as u64, what)?.try_into().expect("so many were taken"))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    pub fn string(&mut self, what: &str) -> Result<&'a str> {
        let length = self.u64(what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes)
            .map_err(|e| format!("{what} is not UTF-8 ({e}); the file is damaged, fetch it again"))
    }

    /// The value that belongs to `key`, with its type before it.
    pub fn value(&mut self, key: &str) -> Result<Value<'a>> {
        let what = format!("the value of {}", quoted(key));
        let kind = self.u32(&what)?;
        match kind {
            4 => self.u32(&what).map(Value::U32),
            8 => self.string(&what).map(Value::Text),
            9 => self.list(&what),
            _ => Ok(Value::Number(match self.scalar(kind, &what)? {
                Scalar::Integer(integer) => integer.to_string(),
                Scalar::Float(float) => float.to_string(),
            })),
        }
    }

    fn list(&mut self, what: &str) -> Result<Value<'a>> {
        let kind = self.u32(what)?;
        let length = self.u64(what)?;
        match kind {
            8 => {
                // Each takes eight bytes at least, so that this ends with the file.
                for _ in 0..length {
                    let length = self.u64(what)?;
                    self.take(length, what)?;
                }
                Ok(Value::Other)
            }
            9 => Err(format!("{what} is a list of lists, which GGUF does not allow")),
            _ if length <= KEPT => {
                let numbers = (0..length).map(|_| self.scalar(kind, what)).collect::<Result<Vec<_>>>()?;
                let whole = numbers.into_iter().map(|number| match number {
                    Scalar::Integer(integer) => usize::try_from(integer).ok(),
                    Scalar::Float(_) => None,
                });
                Ok(whole.collect::<Option<Vec<_>>>().map_or(Value::Other, Value::Integers))
            }
            _ => {
                let bytes = length.checked_mul(size(kind, what)?);
                self.take(bytes.unwrap_or(u64::MAX), what)?;
                Ok(Value::Other)
            }
        }
    }

    fn scalar(&mut self, kind: u32, what: &str) -> Result<Scalar> {
        Ok(Scalar::Integer(match kind {
            0 | 7 => u8::from_le_bytes(self.number(what)?).into(),
            1 => i8::from_le_bytes(self.number(what)?).into(),
            2 => u16::from_le_bytes(self.number(what)?).into(),
            3 => i16::from_le_bytes(self.number(what)?).into(),
            4 => self.u32(what)?.into(),
            5 => i32::from_le_bytes(self.number(what)?).into(),
            10 => self.u64(what)?.into(),
            11 => i64::from_le_bytes(self.number(what)?).into(),
            6 => return Ok(Scalar::Float(f32::from_le_bytes(self.number(what)?).into())),
            12 => return Ok(Scalar::Float(f64::from_le_bytes(self.number(what)?))),
            _ => return Err(no_type(kind, what)),
        }))
    }
}

enum Scalar {
    Integer(i128),
    Float(f64),
}

/// Bytes of a number or flag of this type.
fn size(kind: u32, what: &str) -> Result<u64> {
    Ok(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return Err(no_type(kind, what)),
    })
}

fn no_type(kind: u32, what: &str) -> String {
    format!("{what} is of type {kind}, which GGUF does not have; the file is damaged, fetch it again")
}

//! What cannot be done as asked, and what can be done instead, in terms of the fields of a
//! [`Request`](crate::request::Request): a command line then names its flags, a server its JSON.

use std::borrow::Cow;
use std::fmt::{self, Display};

/// A field's name as the user knows it: `--guidance-scale`, or `guidance_scale`.
pub type Naming<'a> = &'a dyn Fn(&str) -> String;

/// A field with a value that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The field at fault, a name in [`crate::request::Request`].
    pub field: &'static str,
    /// Its value, where that is short enough to be worth repeating.
    pub found: Option<String>,
    /// What was expected, or what stands in the way.
    pub why: String,
    /// What would help; any one of them.
    pub instead: Vec<Remedy>,
}

/// What is wrong, and what would help.
#[derive(Clone, Debug, PartialEq)]
pub struct Advised {
    /// What is wrong, by how much.
    pub why: String,
    /// What would help; any one of them.
    pub instead: Vec<Remedy>,
}

impl Advised {
    /// With something that helps.
    #[must_use]
    pub fn instead(mut self, remedy: Remedy) -> Self {
        self.instead.push(remedy);
        self
    }

    /// With less work, or a device that can do more: what helps wherever something is too large.
    #[must_use]
    pub fn or_less_work(self) -> Self {
        self.instead(Remedy::Lower(&["batch_size", "width", "height"])).instead(Remedy::Change("device"))
    }

    /// Of something that this went wrong for: `what: why`.
    #[must_use]
    pub fn of(mut self, what: impl Display) -> Self {
        self.why = format!("{what}: {}", self.why);
        self
    }

    /// It in a sentence, with fields named as `name` does.
    pub fn in_words(&self, name: Naming<'_>) -> String {
        format!("{}{}", self.why, advice(&self.instead, name))
    }
}

impl From<String> for Advised {
    /// Without any advice.
    fn from(why: String) -> Self {
        Self { why, instead: Vec::new() }
    }
}

impl From<&str> for Advised {
    /// Without any advice.
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&quoted))
    }
}

/// Something that helps, in terms of fields of a [`crate::request::Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Give all of these fields.
    Give(&'static [&'static str]),
    /// Give all of these fields in place of the one at fault.
    GiveInstead(&'static [&'static str]),
    /// Leave all of these fields out.
    LeaveOut(&'static [&'static str]),
    /// Take this value for a field.
    Set(&'static str, Cow<'static, str>),
    /// Take a smaller value for one of these fields.
    Lower(&'static [&'static str]),
    /// Take a larger value for one of these fields.
    Raise(&'static [&'static str]),
    /// Take another value for a field.
    Change(&'static str),
    /// Write this word in place of the one that is named.
    Write(&'static str),
}

impl Remedy {
    /// What is left of it where only some fields can be given.
    fn offered(self, can: &dyn Fn(&str) -> bool) -> Vec<Self> {
        let all = |fields: &[&str]| fields.iter().all(|field| can(field));
        let some = |fields: &'static [&'static str], remedy: fn(&'static [&'static str]) -> Self| {
            fields.split(|field| !can(field)).filter(|fields| !fields.is_empty()).map(remedy).collect::<Vec<_>>()
        };
        let possible = match &self {
            Self::Lower(fields) => return some(fields, Self::Lower),
            Self::Raise(fields) => return some(fields, Self::Raise),
            Self::Give(fields) | Self::GiveInstead(fields) | Self::LeaveOut(fields) => all(fields),
            Self::Set(field, _) | Self::Change(field) => can(field),
            Self::Write(_) => true,
        };
        if possible { vec![self] } else { vec![] }
    }
}

/// What is left of remedies where only some fields can be given: a command line has not every flag in every command.
pub fn offered(remedies: Vec<Remedy>, can: &dyn Fn(&str) -> bool) -> Vec<Remedy> {
    remedies.into_iter().flat_map(|remedy| remedy.offered(can)).collect()
}

impl Refusal {
    /// A refusal of `field`.
    pub fn of(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, found: None, why: why.into(), instead: Vec::new() }
    }

    /// A refusal of the value `found` of `field`.
    pub fn of_value(field: &'static str, found: impl Display, why: impl Into<String>) -> Self {
        Self { found: Some(found.to_string()), ..Self::of(field, why) }
    }

    /// With something that helps.
    #[must_use]
    pub fn instead(mut self, remedy: Remedy) -> Self {
        self.instead.push(remedy);
        self
    }

    /// The refusal in a sentence, with fields named as `name` does.
    pub fn in_words(&self, name: Naming<'_>) -> String {
        let found = self.found.as_ref().map(|found| format!(" {found}")).unwrap_or_default();
        format!("{}{found}: {}{}", name(self.field), self.why, advice(&self.instead, name))
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(&quoted))
    }
}

/// A field's name as the library writes it.
pub fn quoted(field: &str) -> String {
    format!("`{field}`")
}

/// Remedies as the end of a sentence, from the semicolon on; nothing if there are none.
pub fn advice(remedies: &[Remedy], name: Naming<'_>) -> String {
    let listed = |fields: &[&str], last: &str| joined(fields.iter().map(|field| name(field)).collect(), last);
    // What can be used is one list, however many remedies it comes from: "use X f16, a smaller Y, or another Z".
    let (mut used, mut others) = (Vec::new(), Vec::new());
    for remedy in remedies {
        match remedy {
            Remedy::Set(field, value) => used.push(format!("{} {value}", name(field))),
            Remedy::Lower(fields) => used.push(format!("a smaller {}", listed(fields, "or"))),
            Remedy::Raise(fields) => used.push(format!("a larger {}", listed(fields, "or"))),
            Remedy::Change(field) => used.push(format!("another {}", name(field))),
            Remedy::Give(fields) => others.push(format!("give {}", listed(fields, "and"))),
            Remedy::GiveInstead(fields) => others.push(format!("give {} instead", listed(fields, "and"))),
            Remedy::Write(word) => others.push(format!("write `{word}`")),
            Remedy::LeaveOut(fields) => others.push(format!("leave {} out", listed(fields, "and"))),
        }
    }
    if !used.is_empty() {
        // With a comma before the last, because there may be an "or" within.
        let used = match used.as_slice() {
            [first @ .., last] if !first.is_empty() => format!("{}, or {last}", first.join(", ")),
            _ => used.concat(),
        };
        others.insert(0, format!("use {used}"));
    }
    if others.is_empty() { String::new() } else { format!("; {}", others.join(", or ")) }
}

/// `a`, `a or b`, `a, b or c`.
fn joined(mut words: Vec<String>, last: &str) -> String {
    match words.pop() {
        None => String::new(),
        Some(only) if words.is_empty() => only,
        Some(end) => format!("{} {last} {end}", words.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_well_in_the_words_of_library_and_command_line() {
        let refusal = Refusal::of_value("steps", 0, "this model takes 1 to 1000").instead(Remedy::Raise(&["steps"]));
        assert_eq!(refusal.to_string(), "`steps` 0: this model takes 1 to 1000; use a larger `steps`");
        let flag = |field: &str| format!("--{field}");
        let remedies = [
            Remedy::Set("precision", "f16".into()),
            Remedy::Lower(&["width", "height", "batch_size"]),
            Remedy::Change("device"),
            Remedy::LeaveOut(&["image"]),
        ];
        assert_eq!(
            advice(&remedies, &flag),
            "; use --precision f16, a smaller --width, --height or --batch_size, or another --device, or leave --image \
            out"
        );
        assert_eq!(advice(&[], &flag), "");
        let left = offered(remedies.to_vec(), &|field| field == "precision" || field == "height");
        assert_eq!(left, [Remedy::Set("precision", "f16".into()), Remedy::Lower(&["height"])]);
        let instead = [Remedy::GiveInstead(&["class"]), Remedy::Write("and")];
        assert_eq!(advice(&instead, &flag), "; give --class instead, or write `and`");
        let both = Refusal::of("image", "this model paints into a picture").instead(Remedy::Give(&["image", "mask"]));
        assert_eq!(both.in_words(&flag), "--image: this model paints into a picture; give --image and --mask");
    }
}

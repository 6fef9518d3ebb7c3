//! Mutations of JSON that leave it JSON: other types, huge numbers, deep nesting, names given twice.

use serde_json::{Map, Value, json};

use crate::random::{Random, mutated_text};

/// `seed` changed in one to three places; now and then, as text.
pub fn mutated(seed: &Value, random: &mut Random) -> Vec<u8> {
    let mut value = seed.clone();
    for _ in 0..1 + random.below(3) {
        change(&mut value, random);
    }
    let mut text = value.to_string();
    match random.below(20) {
        0 => text = mutated_text(&text, random),
        1 => text = given_twice(&value, random).unwrap_or(text),
        2 => text = format!("{}{text}{}", "[".repeat(1 << random.below(18)), "]".repeat(1 << random.below(18))),
        // Python's words, which stand bare in its JSON.
        3 => text = text.replace("\"Infinity\"", "-Infinity"),
        _ => {}
    }
    text.into_bytes()
}

/// Changes one place: this value, or one somewhere below it.
fn change(value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).expect("there are as many").clone();
            match random.below(8) {
                0 => drop(fields.remove(&name)),
                1 => drop(fields.insert(mutated_text(&name, random), strange(random))),
                2 => {
                    let moved = fields.remove(&name).expect("it was listed");
                    fields.insert(mutated_text(&name, random), moved);
                }
                3 => fields[&name] = strange(random),
                _ => change(&mut fields[&name], random),
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let at = random.below(items.len());
            match random.below(6) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, strange(random)),
                2 => {
                    let again = items[at].clone();
                    items.extend(std::iter::repeat_n(again, random.below(100)));
                }
                _ => change(&mut items[at], random),
            }
        }
        Value::Number(_) if random.one_in(2) => *value = random.number().into(),
        Value::String(text) if random.one_in(2) => *text = mutated_text(text, random),
        other => *other = strange(random),
    }
}

/// Values that no field should hold, and some that one may.
fn strange(random: &mut Random) -> Value {
    let deep = |depth: usize| (0..depth).fold(json!(1), |value, _| json!([value]));
    match random.below(32) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(1),
        5 => json!(3),
        6 => json!(7),
        7 => json!(64),
        8 => json!(16_777_216),
        9 => json!(u64::MAX),
        10 => json!(i64::MIN),
        11 => json!(0.5),
        12 => json!(-1e300),
        13 => json!(1e-320),
        14 => json!("silu"),
        15 => json!("Infinity"),
        16 => json!("NaN"),
        17 => json!(""),
        18 => json!("\u{0}é"),
        19 => json!("../../etc/passwd"),
        20 => json!("x".repeat(1 << random.below(14))),
        21 => json!([]),
        22 => json!([1, 2, 3]),
        23 => json!([0, 0]),
        24 => json!(["DownBlock2D", "AttnDownBlock2D"]),
        25 => json!({}),
        26 => json!({"a": {"b": [1, {"c": null}]}}),
        27 => json!(vec![1; 100]),
        28 => json!(vec![8; 40]),
        29 => deep(random.below(100)),
        30 => json!([[1, 2], [3]]),
        _ => json!(random.number()),
    }
}

/// The object with one field repeated, as text: a map cannot hold that.
fn given_twice(value: &Value, random: &mut Random) -> Option<String> {
    let fields: &Map<String, Value> = value.as_object().filter(|fields| !fields.is_empty())?;
    let (name, again) = fields.iter().nth(random.below(fields.len()))?;
    let text = value.to_string();
    let again = if random.one_in(2) { again.clone() } else { strange(random) };
    Some(format!("{{{}:{again},{}", Value::from(name.as_str()), &text[1..]))
}

//! The description of the API says what there is.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use unmist::request::Request;

use super::{Running, ask, options};

/// Paths and methods in the server's source.
fn routes() -> BTreeSet<(String, String)> {
    let source = include_str!("../../../src/serve/api/mod.rs");
    let mut found = BTreeSet::new();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, rest) = line.split_once('"').expect("a path ends");
        for method in ["get", "post", "delete"] {
            if rest.contains(&format!("{method}(")) {
                found.insert((path.replace("{*", "{"), method.to_owned()));
            }
        }
    }
    assert!(found.len() > 35, "only {} routes were found: the search misses some", found.len());
    found
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let server = Running::new(options());
    let described = server.get("/openapi.json").good().json();
    let mut found = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            found.insert((path.clone(), method.clone()));
            assert!(operation["summary"].as_str().is_some_and(|text| text.len() > 5), "{method} {path}");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
        }
    }
    assert_eq!(found, routes());
    for (path, method) in &found {
        let path =
            path.replace("{id}", "none").replace("{index}", "0").replace("{file}", "page.css").replace("{path}", "x");
        let answer = ask(server.address, &method.to_uppercase(), &path, &[], b"");
        let lost = answer.status == 405 || (answer.status == 404 && answer.text().contains("\"not_found\""));
        assert!(!lost, "{method} {path}: {}", answer.status);
    }
}

#[test]
fn every_field_is_described() {
    let described = Running::new(options()).get("/openapi.json").good().json();
    let schema = &described["components"]["schemas"]["Request"];
    let properties = schema["properties"].as_object().expect("properties");
    for field in Request::fields() {
        let known = properties.contains_key(&field);
        let device = described["components"]["schemas"]["DeviceRequest"]["properties"].get(&field).is_some();
        assert!(known || device, "{field}");
    }
    assert!(schema["properties"]["steps"]["description"].as_str().is_some_and(|text| text.contains("denoise")));
    // No reference leads nowhere.
    fn check(described: &Value, value: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(place)) = fields.get("$ref") {
                    assert!(described.pointer(place.trim_start_matches('#')).is_some(), "{place}");
                }
                fields.values().for_each(|value| check(described, value));
            }
            Value::Array(values) => values.iter().for_each(|value| check(described, value)),
            _ => {}
        }
    }
    check(&described, &described);
    assert_eq!(described["openapi"], json!("3.1.0"));
}

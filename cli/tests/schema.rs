//! `xfi inject --output json` keeps to the committed schema.

use serde_json::{Value, json};

fn schema(name: &str) -> Value {
    let path = format!("{}/../docs/schema/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_recorded_injection_is_valid_and_a_maimed_one_is_not() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/inject-fired.json");
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema("inject")).unwrap();
    assert!(validator.is_valid(&recorded));
    assert_eq!(recorded["before"].as_object().unwrap().len(), 24);
    assert_eq!(recorded["changed"], json!({ "rbx": [21] }));

    let mut maimed = recorded;
    maimed["before"] = json!("rbx");
    assert!(!validator.is_valid(&maimed));
}

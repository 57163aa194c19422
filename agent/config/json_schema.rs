//! The configuration's JSON Schema (draft 2020-12), generated from [`schema`], for completion and checks in editors.
//!
//! The schema accepts everything that the agent accepts, and cannot express all of the agent's checks, such as whether an
//! account exists or two volumes share a mount path. It does not fit the override, which may omit anything.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{self, Key, Kind, Literal, Presence, Shape, Table};

/// The schema.
pub fn document() -> Value {
    let root = &schema::root::TABLE;
    let below = schema::TABLES.iter().map(|table| (table.name.to_owned(), below(table)));
    let required: Vec<_> =
        schema::TABLES.iter().filter(|table| table.shape == Shape::Required).map(|table| table.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "node-agent's configuration",
        "type": "object",
        "properties": properties(root).into_iter().chain(below).collect::<Map<_, _>>(),
        "additionalProperties": false,
        // A file that points to the user data has no other keys.
        "if": { "required": [schema::root::SOURCE.name] },
        "then": { "maxProperties": 1 },
        "else": { "required": required },
        "dependentRequired": { schema::lifecycle::TABLE.name: [schema::hooks::TABLE.name] },
    })
}

/// The schema of a table below the top level.
fn below(table: &Table) -> Value {
    let mut object = json!({
        "type": "object",
        "description": table.doc(),
        "properties": properties(table),
        "additionalProperties": false,
    });
    let required = table.keys.iter().filter(|key| key.presence == Presence::Required);
    let required: Vec<_> = required.map(|key| key.name).collect();
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    if !table.one_of.is_empty() {
        object["oneOf"] = json!(alternatives(table));
    }
    match table.shape {
        Shape::Each { .. } => json!({ "type": "array", "description": table.doc(), "items": object }),
        Shape::Root | Shape::Required | Shape::Optional => object,
    }
}

/// The alternatives, exactly one of which must match; two keys that may be combined form one alternative.
fn alternatives(table: &Table) -> Vec<Value> {
    let required = |name: &str| json!({ "required": [name] });
    let pair = table.pair.unwrap_or_default();
    let alone = table.one_of.iter().filter(|name| !pair.contains(name)).map(|name| required(name));
    alone.chain(table.pair.map(|pair| json!({ "anyOf": pair.map(required) }))).collect()
}

fn properties(table: &Table) -> Map<String, Value> {
    table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect()
}

fn property(key: &Key) -> Value {
    let mut property = values(key.kind);
    property["description"] = json!(key.doc());
    if let Presence::Default(literal) = key.presence {
        property["default"] = match literal {
            Literal::Text(text) => json!(text),
            Literal::Flag(flag) => json!(flag),
            Literal::EmptyList => json!([]),
        };
    }
    if let Some(example) = example(key) {
        property["examples"] = json!([example]);
    }
    property
}

/// The declared example, unless it is a placeholder.
fn example(key: &Key) -> Option<Value> {
    if matches!(key.kind, Kind::Secret | Kind::Sha256) {
        return None;
    }
    let table: BTreeMap<String, Value> = toml::from_str(&format!("example = {}", key.example)).ok()?;
    table.into_values().next()
}

/// The control characters, for a pattern's brackets.
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";

/// humantime's units of time.
const UNITS: &str = "nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|\
weeks?|wks?|w|months?|M|years?|yrs?|y";

/// The schema of a kind's values. The patterns have the same meaning in ECMA-262 and in Rust's regex crate.
fn values(kind: Kind) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    match kind {
        Kind::Text => text(&format!(r"^[^{CONTROL}]*[^\s{CONTROL}][^{CONTROL}]*$")),
        Kind::Secret => json!({ "type": "string" }),
        Kind::VolumeId => text("^vol-([0-9a-f]{8}|[0-9a-f]{17})$"),
        Kind::DeviceName => text("^/dev/(sd|xvd|hd)[a-z]{1,2}[0-9]{0,2}$"),
        Kind::Function => text("^[A-Za-z_][A-Za-z0-9_.:-]*$"),
        Kind::Duration => text(&format!(r"^\s*([0-9][0-9\s]*(\.[0-9\s]+)?({UNITS})\s*)+$")),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::FlagOr(words) => json!({ "anyOf": [{ "type": "boolean" }, { "enum": words }] }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::List => json!({ "type": "array", "items": text(&format!(r#"^[^\s,"'\\{CONTROL}]+$"#)) }),
        Kind::Names => json!({ "type": "array", "minItems": 1, "items": values(Kind::Text) }),
        // The key and the value: at most 128 and 256 characters (EC2 user guide, "Tag restrictions").
        Kind::Tag => text(&format!("^[^={CONTROL}]{{1,128}}=[^{CONTROL}]{{0,256}}$")),
        // chown(2) reads the highest number as "leave unchanged".
        Kind::Account => json!({ "anyOf": [
            text(&format!(r"^[^\s:/{CONTROL}]+$")),
            { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 },
        ] }),
        Kind::Mode => text("^0*[0-7]{1,4}$"),
        Kind::Sha256 => text("^[0-9A-Fa-f]{64}$"),
        // No component is empty, "." or "..".
        Kind::Path => {
            let rest = format!("[^/{CONTROL}]");
            text(&format!(r"^(/([^./{CONTROL}]{rest}*|\.[^./{CONTROL}]{rest}*|\.\.{rest}+))+/*$"))
        }
        // Not all validators check "format", so there is a pattern as well.
        Kind::Ip => json!({
            "type": "string",
            "pattern": r"^[0-9A-Fa-f:.]+$",
            "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }],
        }),
        Kind::Url => text(&format!("^(s3|https|file)://[^{CONTROL}]+$")),
    }
}

//! The JSON Schema accepts what the agent accepts, and refuses structural mistakes.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::{Value, json};

use super::settings::EVERYTHING;
use super::*;
use crate::config::json_schema::document;
use crate::config::wants_user_data;

/// Checks formats, as some editors do.
static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let mut compiler = Compiler::new();
    compiler.set_default_draft(Draft::V2020_12);
    compiler.enable_format_assertions();
    compiler.add_resource("config.json", document()).unwrap();
    let mut schemas = Schemas::new();
    // Compiling checks the document against the draft's own schema.
    let index = compiler.compile("config.json", &mut schemas).unwrap();
    (schemas, index)
});

/// Validates a configuration against the schema.
pub(super) fn validate(toml: &str) -> Result<(), String> {
    let value: Value = toml::from_str(toml).map_err(|error| error.to_string())?;
    let (schemas, index) = &*SCHEMA;
    schemas.validate(&value, *index).map_err(|error| format!("{toml}\n{error}"))
}

#[test]
fn the_schema_accepts_what_the_agent_accepts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut accepted = 0;
    for folder in ["fuzz/seeds/config", "fuzz/corpus/config"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let input = fs::read(entry.unwrap().path()).unwrap();
            // An override follows the byte.
            let toml = String::from_utf8_lossy(input.split(|byte| *byte == 0xff).next().unwrap()).into_owned();
            if wants_user_data(&toml) || offline(&toml).is_ok() {
                validate(&toml).unwrap();
                accepted += 1;
            }
        }
    }
    assert!(accepted >= 5, "{accepted}");
    let page = fs::read_to_string(root.join("docs/configuration.md")).unwrap();
    let shown: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!shown.is_empty());
    for toml in shown {
        validate(toml).unwrap();
    }
    validate(EVERYTHING).unwrap();
}

/// Wrong configurations, and the schema's messages.
const WRONG: &[(&str, &str)] = &[
    ("", "missing properties 'node'"),
    ("[node]\nid = \"00\"\n", "missing properties 'ip'"),
    ("NODEcolour = 1\n", "additionalProperties 'colour'"),
    ("source = \"s3\"\n", "value must be 'imds'"),
    ("source = \"imds\"\nNODE", "maximum 1 properties"),
    ("NODE[volumes]\n", "additionalProperties 'volumes'"),
    ("NODE[volume]\nid = \"vol-01234567\"\n", "want array"),
    ("[[node]]\nid = \"00\"\nip = \"::1\"\n", "want object"),
    ("NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\n", "missing properties 'file_system'"),
    ("VOLUMEfile_systems = \"xfs\"\n", "additionalProperties 'file_systems'"),
    ("VOLUMErecursive = \"true\"\n", "anyOf"),
    ("VOLUMEmount_options = \"ro\"\n", "want array"),
    ("VOLUMEmount_options = [\"ro,noatime\"]\n", "does not match pattern"),
    ("VOLUMEformat = \"yes\"\n", "value must be one of"),
    ("VOLUMEowner = -1\n", "anyOf"),
    ("VOLUMEowner = 4294967295\n", "anyOf"),
    ("VOLUMEgroup = \"a:b\"\n", "anyOf"),
    ("VOLUMEdevice_name = \"/dev/nvme1n1\"\n", "does not match pattern"),
    ("NODE[[volume]]\nid = \"vol-1\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n", "does not match pattern"),
    ("NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a/../b\"\nfile_system = \"xfs\"\n", "not match pattern"),
    ("NODE[[volume]]\nid = \"vol-01234567\"\nmount_path = \"a\"\nfile_system = \"xfs\"\n", "does not match pattern"),
    ("FILEcontents = \"x\"\nsource = \"s3://bucket/key\"\n", "oneOf"),
    ("FILE", "oneOf"),
    ("FILEcontents = 5\n", "want string"),
    ("FILEsource = \"http://h/x\"\n", "does not match pattern"),
    ("FILEcontents = \"\"\nmode = 644\n", "want string"),
    ("FILEcontents = \"\"\nmode = \"u=rw\"\n", "does not match pattern"),
    ("FILEcontents = \"\"\nsha256 = \"abc\"\n", "does not match pattern"),
    ("NODE[lifecycle]\nasg_name = \"a\"\nhook_name = \"h\"\n", "properties 'hooks' required"),
    ("NODE[hooks]\n", "oneOf"),
    ("NODE[hooks]\nscript = \"/h.sh\"\nscript_base64 = \"eDsK\"\n", "oneOf"),
    ("NODE[hooks]\nscript = \"/h.sh\"\nscript_source = \"s3://bucket/key\"\n", "oneOf"),
    ("NODE[hooks]\nscript = \"/h.sh\"\ndrain = \"my func\"\n", "does not match pattern"),
    ("NODE[timeouts]\naws = 300\n", "want string"),
    ("NODE[timeouts]\naws = \"300\"\n", "does not match pattern"),
    ("NODE[timeouts]\naws = \"two days\"\n", "does not match pattern"),
    ("[node]\nid = \" \"\nip = \"::1\"\n", "does not match pattern"),
    ("[node]\nid = \"00\"\nip = \"10.0.1.10/24\"\n", "does not match pattern"),
    ("[node]\nid = \"00\"\nip = \"10.0.1.300\"\n", "anyOf"),
];

#[test]
fn the_schema_refuses_structural_mistakes() {
    let volume = format!("{NODE}[[volume]]\nid = \"vol-01234567\"\nmount_path = \"/a\"\nfile_system = \"xfs\"\n");
    let file = format!("{NODE}[[file]]\ndestination = \"/a\"\n");
    for (toml, expected) in WRONG {
        let toml = toml.replace("NODE", NODE).replace("VOLUME", &volume).replace("FILE", &file);
        let said = validate(&toml).expect_err(&toml);
        assert!(said.contains(expected), "{said}\nlacks {expected}");
        assert!(offline(&toml).is_err(), "{toml}");
    }
}

#[test]
fn every_declared_default_and_example_is_valid() {
    let document = document();
    for table in crate::config::schema::TABLES {
        let below = &document["properties"][table.name];
        let properties = below.get("properties").unwrap_or_else(|| &below["items"]["properties"]);
        for key in table.keys {
            let property = &properties[key.name];
            assert_eq!(property["description"], key.doc());
            let mut compiler = Compiler::new();
            compiler.add_resource("key.json", property.clone()).unwrap();
            let mut schemas = Schemas::new();
            let index = compiler.compile("key.json", &mut schemas).unwrap();
            let examples = property["examples"].as_array().cloned().unwrap_or_default();
            let is_placeholder = key.example.contains(['…', '<']);
            assert_eq!(examples.is_empty(), is_placeholder, "{}", key.name);
            for value in examples.iter().chain(property.get("default")) {
                schemas.validate(value, index).map_err(|error| error.to_string()).unwrap();
            }
        }
    }
    assert_eq!(document["dependentRequired"], json!({ "lifecycle": ["hooks"] }));
}

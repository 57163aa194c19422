//! The check of a text alone.

use super::*;
use crate::config::{UnknownKeys, check_offline};

fn check(toml: &str, unknown_keys: UnknownKeys) -> (Vec<String>, Vec<String>) {
    let report = check_offline(text("c", toml), unknown_keys);
    assert_eq!(report.summary.is_some(), report.errors.is_empty());
    (lines(&report.errors), lines(&report.warnings))
}

#[test]
fn an_unknown_key_is_a_mistake_or_a_warning_as_asked() {
    let toml = format!("{NODE}colour = 1\n[sidecar]\nx = 1\n");
    let (errors, warnings) = check(&toml, UnknownKeys::Mistakes);
    assert_eq!((errors.len(), warnings.len()), (2, 0), "{errors:?} {warnings:?}");
    let (errors, warnings) = check(&toml, UnknownKeys::Warnings);
    assert_eq!(errors, [""; 0]);
    let newer = "a newer agent may know it; if none does: ";
    assert!(
        warnings
            .iter()
            .any(|line| line.starts_with(&format!("c:4:1: [node]: unknown key \"colour\"; {newer}remove it")))
    );
    assert!(
        warnings.iter().any(|line| line.starts_with(&format!("c:5:2: unknown table \"sidecar\"; {newer}remove it")))
    );
}

#[test]
fn a_required_key_is_missing_even_beside_an_unknown_one_like_it() {
    for (toml, wanted) in [
        ("[node]\nid = \"0\"\nipp = \"10.0.1.10\"\n", "[node] ip: missing"),
        ("[nod]\nid = \"0\"\n", "[node]: missing"),
        ("NODE[lifecycle]\nasg_name = \"a\"\nhook_name = \"b\"\n[hook]\n", "[hooks]: missing"),
        ("NODE[[file]]\ndestination = \"/a\"\ncontentz = \"b\"\n", "[[file]]: has none of contents"),
    ] {
        let (errors, warnings) = check(&toml.replace("NODE", NODE), UnknownKeys::Warnings);
        assert_eq!((errors.len(), warnings.len()), (1, 1), "{errors:?} {warnings:?}");
        assert!(errors[0].contains(wanted), "{}", errors[0]);
    }
}

#[test]
fn a_text_that_points_at_the_user_data_has_no_settings() {
    let (errors, _) = check("source = \"imds\"\n", UnknownKeys::Warnings);
    assert!(errors[0].contains("there are no settings here"), "{errors:?}");
}

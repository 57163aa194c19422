//! Loading any text yields settings, or mistakes whose positions are in the text.

use proptest::prelude::*;

use super::settings::EVERYTHING;
use super::*;
use crate::config::script::{self, Definition};

/// Asserts that loading yields settings, or mistakes whose positions are in their text.
fn ends_well(main: &str, over: Option<&str>) {
    let loaded = load(text("main", main), over.map(|over| text("over", over)), Scope::Offline);
    let Err(mistakes) = loaded else {
        if over.is_none() {
            json_schema::validate(main).unwrap();
        }
        return;
    };
    assert!(!mistakes.is_empty());
    for mistake in &mistakes {
        let source = if mistake.source == "main" { main } else { over.unwrap_or_default() };
        let line = source.split('\n').nth(mistake.line - 1);
        let line = line.unwrap_or_else(|| panic!("no such line: {mistake}\n{source}"));
        assert!((1..=line.chars().count() + 1).contains(&mistake.column), "no such column: {mistake}\n{source}");
        assert!(!mistake.what.is_empty() && !mistake.instead.is_empty() && !mistake.to_string().contains('\n'));
    }
}

/// A configuration's words in random order.
fn words() -> impl Strategy<Value = String> {
    let visible = "[ ] [[ ]] { } = , . \" \"\"\" ' ''' \\ # é node volume file hooks id ip mount_path contents true 0644 5m 1.5 \
        s3:// 2024-01-01 - x _";
    let words: Vec<_> = visible.split(' ').chain(["\n", "\r\n", " ", "\u{0}", "\u{feff}"]).collect();
    prop::collection::vec(prop::sample::select(words), 0..60).prop_map(|words| words.concat())
}

/// The full configuration with pieces removed, inserted or moved.
fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0_usize..12, words(), any::<prop::sample::Index>());
    prop::collection::vec(change, 1..5).prop_map(|changes| {
        let mut chars: Vec<char> = EVERYTHING.chars().collect();
        for (at, length, put, from) in changes {
            let at = at.index(chars.len());
            let gone = at..(at + length).min(chars.len());
            let moved: Vec<char> = chars[from.index(chars.len())..].iter().copied().take(length).collect();
            let put: Vec<char> = put.chars().take(length).collect();
            chars.splice(gone, moved.into_iter().chain(put));
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_ends_well(main in any::<String>(), over in any::<String>()) {
        ends_well(&main, Some(&over));
    }

    #[test]
    fn any_words_end_well(main in words(), over in words()) {
        ends_well(&main, Some(&over));
    }

    #[test]
    fn any_change_to_a_right_text_ends_well(main in mutated(), over in mutated()) {
        ends_well(&main, None);
        ends_well(EVERYTHING, Some(&over));
    }

    #[test]
    fn any_value_ends_well(table in 0..6_usize, key in any::<prop::sample::Index>(), value in "\\PC{0,20}") {
        let table = crate::config::schema::TABLES[table];
        let key = table.keys[key.index(table.keys.len())].name;
        ends_well(&format!("{}\n{key} = {value}\n", table.header()), None);
        ends_well(&format!("{NODE}{}\n{key} = '''{value}'''\n", table.header()), None);
    }

    #[test]
    fn any_script_can_be_read(script in any::<Vec<u8>>()) {
        script::defines(&script, "f");
    }

    #[test]
    fn any_shell_words_can_be_read(words in prop::collection::vec(prop::sample::select(
        vec!["$(", "$((", "((", ")", "${", "}", "\"", "'", "`", "\\", "<<E", "E", "\n", "f()", "function", "#", "case", "$'", ";"]
    ), 0..200)) {
        script::defines(words.concat().as_bytes(), "f");
    }

    /// A definition on its own lines is found after any lines with closed quotes.
    #[test]
    fn a_function_is_found_behind_commands(lines in prop::collection::vec("[a-z ]{0,9}('[a-z#\"]*'|\"[a-z#']*\"| #['\"a-z]*)?", 0..20)) {
        let script = format!("{}\nf() {{\n  :\n}}\n", lines.join("\n"));
        prop_assert_eq!(script::defines(script.as_bytes(), "f"), Definition::Yes);
    }
}

#[test]
fn the_reader_gives_up_on_endless_nesting() {
    for script in ["$(".repeat(100_000), "\"$(".repeat(100_000), "((".repeat(3_000), "${\"".repeat(100_000)] {
        script::defines(script.as_bytes(), "f");
    }
    ends_well(&"[".repeat(100_000), None);
    ends_well(&format!("a = {}", "[".repeat(100_000)), None);
    ends_well(&format!("a{} = 1", ".a".repeat(100_000)), None);
}

/// Found by the tests above.
#[test]
fn texts_of_several_lines_and_unseen_characters_end_well() {
    ends_well(&EVERYTHING.replace("owner = \"root\"", "owner = \"ro\u{feff}ot\""), None);
    ends_well(&EVERYTHING.replace("[\"noatime\"]", "\"\"\"noatime\nro \\\" x\"\"\""), None);
    ends_well(&EVERYTHING.replace("owner = \"kafka\"", "owner = \"\"\"kaf\nka:kafka\"\"\""), None);
}

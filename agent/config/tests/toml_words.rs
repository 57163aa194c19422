//! The words of the TOML parser's errors that `syntax` relies on. They are not part of that crate's interface: review this table
//! when upgrading the crate.

use toml::de::DeTable;

#[test]
fn the_parsers_errors_have_the_words_that_syntax_relies_on() {
    let cases = [
        ("a\n", "key with no value"),
        ("[a\nb = 1\n", "unclosed table"),
        ("[[a]\nb = 1\n", "unclosed array table"),
        ("a = 1\na = 2\n", "duplicate key"),
        ("a = [\"b\" \"c\"]\n", "missing comma"),
        ("a = b\n", "string values must be quoted"),
        ("a = \"b\" c\n", "unexpected key or value"),
        ("a = \"\\q\"\n", "missing escaped value"),
        ("a = 'b\n", "invalid literal string"),
        ("a = \"\"\"b\n", "invalid multi-line basic string"),
        ("a = '''b\n", "invalid multi-line literal string"),
        ("a = [1\n", "unclosed array"),
        ("a = { b = 1\n", "unclosed inline table"),
        ("a = \"b\n", "invalid basic string"),
        ("a = \"\u{1}\"\n", "visible characters"),
        ("a = truex\n", "invalid boolean"),
        ("a = 2026-13-01\n", "invalid date"),
    ];
    let missing: Vec<_> = cases
        .into_iter()
        .filter_map(|(text, words)| {
            let (_, errors) = DeTable::parse_recoverable(text);
            let said: Vec<_> = errors.iter().map(|error| error.message().to_owned()).collect();
            (!said.iter().any(|said| said.contains(words))).then(|| format!("{text:?}: {words:?} is not in {said:?}"))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

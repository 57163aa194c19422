//! The words of the TOML parser's errors that `syntax` goes by. They are no interface of that crate: a new version of it is taken
//! when this table has been looked through.

use toml::de::DeTable;

#[test]
fn the_parser_says_its_errors_in_the_words_that_are_told_from() {
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

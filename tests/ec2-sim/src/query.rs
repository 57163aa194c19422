//! The Query protocol, shared by EC2 and Auto Scaling: form parameters in, XML out.

use std::collections::BTreeMap;
use std::fmt;

use quick_xml::escape::partial_escape;

use crate::error::ApiError;
use crate::faults::glob;

/// The parameters of a call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// From a query string and a form body.
    pub(crate) fn parse(query: &str, body: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body));
        let pairs = pairs.map(|(key, value)| (key.into_owned(), value.into_owned()));
        Self(pairs.collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The values of `name.1`, `name.2`, … in the order of their numbers.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        self.numbers(name).into_iter().filter_map(|number| self.get(&format!("{name}.{number}"))).collect()
    }

    /// The prefixes `name.1`, `name.2`, … of a list of structures.
    pub(crate) fn structures(&self, name: &str) -> Vec<String> {
        self.numbers(name).into_iter().map(|number| format!("{name}.{number}")).collect()
    }

    fn numbers(&self, name: &str) -> Vec<u32> {
        let mut numbers: Vec<u32> = self
            .0
            .keys()
            .filter_map(|key| key.strip_prefix(name)?.strip_prefix('.')?.split('.').next()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// The first parameter that none of the patterns knows. Ignoring one would answer another question than the asked.
    pub(crate) fn unknown(&self, known: &[&str]) -> Option<&str> {
        let common = ["Action", "Version", "DryRun"];
        self.0.keys().find(|key| !common.iter().chain(known).any(|pattern| glob(pattern, key))).map(String::as_str)
    }

    /// What the event log keeps.
    pub(crate) fn for_log(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter(|(key, _)| *key != "Action" && *key != "Version")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// The wanted part of a paged answer, and the token for the next one.
    pub(crate) fn page<T>(&self, all: Vec<T>, size: &str) -> Result<(Vec<T>, Option<String>), ApiError> {
        self.page_within(all, size, usize::MAX, usize::MAX)
    }

    /// As [`Params::page`], of a service that has a size of its own where none is asked for, and a largest one.
    pub(crate) fn page_within<T>(
        &self,
        mut all: Vec<T>,
        size: &str,
        usual: usize,
        largest: usize,
    ) -> Result<(Vec<T>, Option<String>), ApiError> {
        let invalid = |what: &str| ApiError::client("InvalidParameterValue", format!("Invalid value for {what}"));
        let skip = self.get("NextToken").map_or(Ok(0), str::parse).map_err(|_| invalid("NextToken"))?;
        let most = self.get(size).map_or(Ok(usual), str::parse).map_err(|_| invalid(size))?;
        if most == 0 || most > largest {
            return Err(invalid(size));
        }
        let mut part = all.split_off(skip.min(all.len()));
        let next = (part.len() > most).then(|| (skip + most).to_string());
        part.truncate(most);
        Ok((part, next))
    }
}

/// An XML element.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    name: String,
    text: String,
    children: Vec<Node>,
}

impl Node {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), text: String::new(), children: Vec::new() }
    }

    /// An element with text.
    pub(crate) fn leaf(name: impl Into<String>, text: impl fmt::Display) -> Self {
        Self { name: name.into(), text: text.to_string(), children: Vec::new() }
    }

    /// With a child that has text.
    pub(crate) fn with(self, name: &str, text: impl fmt::Display) -> Self {
        self.child(Self::leaf(name, text))
    }

    pub(crate) fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// The document, with a namespace on its root.
    pub(crate) fn document(&self, namespace: Option<&str>) -> Vec<u8> {
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        self.write(&mut out, namespace);
        out.into_bytes()
    }

    fn write(&self, out: &mut String, namespace: Option<&str>) {
        out.push('<');
        out.push_str(&self.name);
        if let Some(namespace) = namespace {
            out.push_str(" xmlns=\"");
            out.push_str(namespace);
            out.push('"');
        }
        out.push('>');
        out.push_str(&partial_escape(&self.text));
        for child in &self.children {
            child.write(out, None);
        }
        out.push_str("</");
        out.push_str(&self.name);
        out.push('>');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_in_the_order_of_their_numbers() {
        let params = Params::parse("", b"VolumeId.10=j&VolumeId.2=b&VolumeId.1=a&Filter.1.Name=x&Filter.1.Value.1=y");
        assert_eq!(params.list("VolumeId"), ["a", "b", "j"]);
        assert_eq!(params.structures("Filter"), ["Filter.1"]);
        assert_eq!(params.list("Filter.1.Value"), ["y"]);
        assert_eq!(params.unknown(&["VolumeId.*"]), Some("Filter.1.Name"));
    }

    #[test]
    fn pages_end_without_a_token() {
        let first = Params::parse("MaxResults=2", b"");
        assert_eq!(first.page(vec![1, 2, 3], "MaxResults").expect("valid"), (vec![1, 2], Some("2".to_owned())));
        let second = Params::parse("MaxResults=2&NextToken=2", b"");
        assert_eq!(second.page(vec![1, 2, 3], "MaxResults").expect("valid"), (vec![3], None));
    }

    #[test]
    fn text_is_escaped() {
        let document = Node::new("a").with("b", "<&>").document(None);
        assert!(String::from_utf8(document).expect("UTF-8").ends_with("<a><b>&lt;&amp;&gt;</b></a>"));
    }
}

//! Words that only a newer version of the agent knows, where this one has a closed list. They are ignored, and kept where they
//! still have a meaning after the next upgrade.

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A word of a closed list, or one that only a newer version knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word<T> {
    /// One of the list.
    Known(T),
    /// Another one.
    Other(String),
}

impl<T: Copy> Word<T> {
    /// The word, if it is one of the list.
    pub fn known(&self) -> Option<T> {
        match self {
            Word::Known(word) => Some(*word),
            Word::Other(_) => None,
        }
    }
}

impl<T> From<T> for Word<T> {
    fn from(word: T) -> Self {
        Word::Known(word)
    }
}

/// The field's value, or its default if this version does not know the word.
pub fn known<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a> + Default>(field: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(field)?).unwrap_or_default())
}

/// Those entries of a list that this version can read.
pub fn known_among<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(list: D) -> Result<Vec<T>, D::Error> {
    let all = Vec::<Value>::deserialize(list)?;
    Ok(all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect())
}

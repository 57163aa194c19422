//! Words that a newer version of the agent has written where this one has a closed list: kept where they still mean something after
//! the agent is upgraded again, and passed over everywhere.

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

/// What can be read of a field, or its default.
pub fn known<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a> + Default>(field: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(field)?).unwrap_or_default())
}

/// Those of a list that can be read.
pub fn known_among<'de, D: Deserializer<'de>, T: for<'a> Deserialize<'a>>(list: D) -> Result<Vec<T>, D::Error> {
    let all = Vec::<Value>::deserialize(list)?;
    Ok(all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect())
}

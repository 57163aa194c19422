//! The identifiers EC2 hands out.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// A new random identifier in EC2's long form: the prefix and 17 hexadecimal digits.
            pub fn random() -> Self {
                Self(format!("{}{}", $prefix, random_hex(17)))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(id: &str) -> Self {
                Self(id.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(id: String) -> Self {
                Self(id)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A volume's identifier, `vol-` and 17 hexadecimal digits.
    VolumeId, "vol-"
}

id! {
    /// An instance's identifier, `i-` and 17 hexadecimal digits.
    InstanceId, "i-"
}

/// `digits` random hexadecimal digits.
pub(crate) fn random_hex(digits: usize) -> String {
    (0..digits).map(|_| fastrand::digit(16)).collect()
}

/// A random UUID, the form of request identifiers and lifecycle tokens.
pub(crate) fn random_uuid() -> String {
    [8, 4, 4, 4, 12].map(random_hex).join("-")
}

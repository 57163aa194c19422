//! Network interfaces that were made before the instances that use them.

use serde::Deserialize;

use crate::error::ApiError;

/// A network interface to make.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InterfaceSpec {
    /// The identifier, `eni-…`; random where absent.
    pub id: Option<String>,
    /// Its private addresses, the primary one first.
    pub private_ips: Vec<String>,
}

pub(crate) fn no_interface(id: &str) -> ApiError {
    ApiError::client("InvalidNetworkInterfaceID.NotFound", format!("The networkInterface ID '{id}' does not exist"))
}

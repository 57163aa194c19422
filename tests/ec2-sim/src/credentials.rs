//! The access keys the simulator has issued.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use time::OffsetDateTime;

use crate::ids::{InstanceId, random_hex};
use crate::lock;

/// Credentials for a client of the simulated services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: String,
    /// `AWS_SESSION_TOKEN`; none for static credentials.
    pub session_token: Option<String>,
}

/// Credentials with what the services know about them.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) credentials: Credentials,
    /// The instance whose role they are; none for static ones.
    pub(crate) instance: Option<InstanceId>,
    /// Who the event log calls the caller.
    pub(crate) name: String,
    /// Patterns of the actions that they do not permit; those of an instance's role are in its specification.
    pub(crate) denied: Vec<String>,
    pub(crate) since: OffsetDateTime,
    pub(crate) expires: Option<OffsetDateTime>,
}

/// Issues credentials and remembers them, also the replaced ones, which live until they expire.
pub(crate) struct Issuer {
    lifetime: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Issued>,
    /// Role and instance → their newest key.
    current: HashMap<(String, InstanceId), String>,
    fixed: Option<Credentials>,
    operators: u32,
}

impl State {
    fn issue_static(&mut self, name: String, denied: Vec<String>, now: OffsetDateTime) -> Credentials {
        let credentials = Credentials {
            access_key_id: format!("AKIA{}", random_hex(16).to_uppercase()),
            secret_access_key: random_hex(40),
            session_token: None,
        };
        let issued =
            Issued { credentials: credentials.clone(), instance: None, name, denied, since: now, expires: None };
        self.keys.insert(credentials.access_key_id.clone(), issued);
        credentials
    }
}

impl Issuer {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, state: Mutex::default() }
    }

    /// The credentials of an instance's role. As with the real service, new ones come some time before the old expire.
    pub(crate) fn role(&self, role: &str, instance: &InstanceId, now: OffsetDateTime) -> Issued {
        let mut state = lock(&self.state);
        let holder = (role.to_owned(), instance.clone());
        let margin = (self.lifetime / 2).min(Duration::from_mins(5));
        let current = state.current.get(&holder).and_then(|key| state.keys.get(key));
        if let Some(current) = current.filter(|issued| issued.expires.is_some_and(|end| end - margin > now)) {
            return current.clone();
        }
        let credentials = Credentials {
            access_key_id: format!("ASIA{}", random_hex(16).to_uppercase()),
            secret_access_key: random_hex(40),
            session_token: Some(random_hex(200)),
        };
        let key = credentials.access_key_id.clone();
        let issued = Issued {
            credentials,
            instance: Some(instance.clone()),
            name: instance.to_string(),
            denied: Vec::new(),
            since: now,
            expires: Some(now + self.lifetime),
        };
        state.keys.insert(key.clone(), issued.clone());
        state.current.insert(holder, key);
        issued
    }

    /// Credentials for clients outside an instance; always the same, never expiring.
    pub(crate) fn fixed(&self, now: OffsetDateTime) -> Credentials {
        let mut state = lock(&self.state);
        if let Some(fixed) = &state.fixed {
            return fixed.clone();
        }
        let credentials = state.issue_static("static".to_owned(), Vec::new(), now);
        state.fixed = Some(credentials.clone());
        credentials
    }

    /// Credentials for another client outside an instance, which permit everything but these patterns of actions.
    pub(crate) fn operator(&self, denied: Vec<String>, now: OffsetDateTime) -> Credentials {
        let mut state = lock(&self.state);
        state.operators += 1;
        let name = format!("operator-{}", state.operators);
        state.issue_static(name, denied, now)
    }

    /// The instance's keys are not accepted any more, as those of a role that was replaced; new ones are issued.
    pub(crate) fn revoke(&self, instance: &InstanceId) {
        let mut state = lock(&self.state);
        state.keys.retain(|_, issued| issued.instance.as_ref() != Some(instance));
        state.current.retain(|(_, holder), _| holder != instance);
    }

    pub(crate) fn find(&self, access_key_id: &str) -> Option<Issued> {
        lock(&self.state).keys.get(access_key_id).cloned()
    }
}

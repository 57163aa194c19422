//! A call under a fault: whether it takes effect, and what is sent on the wire.

use crate::faults::Fault;
use crate::wire::{Outcome, Response};

/// How a service words its refusals.
pub(crate) trait Words {
    /// The throttling answer.
    fn throttling(&self) -> Response;
    /// 500.
    fn server_error(&self) -> Response;
    /// An error of the scenario's choice.
    fn error(&self, http: u16, code: &str, message: &str) -> Response;
}

/// A call's end: what goes on the wire, and the answer the service had for it.
pub(crate) struct Handled {
    pub(crate) outcome: Outcome,
    pub(crate) http: Option<u16>,
}

/// Carries a call out, or not, as the fault has it. `act` gets how many changes back it is to look.
pub(crate) async fn under(fault: Option<&Fault>, words: &impl Words, act: impl FnOnce(usize) -> Response) -> Handled {
    let reply = |response: Response| {
        let http = Some(response.status);
        Handled { outcome: Outcome::Reply(response), http }
    };
    match fault {
        None => reply(act(0)),
        Some(Fault::Stale { back }) => reply(act(*back)),
        Some(Fault::Slow(wait)) => {
            tokio::time::sleep(*wait).await;
            reply(act(0))
        }
        Some(Fault::Error { http, code, message }) => reply(words.error(*http, code, message)),
        Some(Fault::Throttling) => reply(words.throttling()),
        Some(Fault::ServerError) => reply(words.server_error()),
        Some(Fault::Garbage) => reply(garbage()),
        Some(Fault::Reset) => Handled { outcome: Outcome::Reset, http: None },
        Some(Fault::Hang) => Handled { outcome: Outcome::Hang, http: None },
        Some(Fault::LostReply) => Handled { http: Some(act(0).status), outcome: Outcome::Reset },
        Some(Fault::GarbageReply) => Handled { http: Some(act(0).status), outcome: Outcome::Reply(garbage()) },
        Some(Fault::Truncated) => {
            let response = act(0);
            Handled { http: Some(response.status), outcome: Outcome::Truncated(response) }
        }
    }
}

/// What a captive portal or a broken proxy puts in the place of an answer.
fn garbage() -> Response {
    Response::new(200, "text/html", "<!DOCTYPE html><html><head><title>Welcome</title><body><p>Please log in & accept")
}

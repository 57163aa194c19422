//! `configure` and `health-check`: the user's functions, each once per instance.

use crate::config::Sha256Digest;
use crate::failure::Failure;
use crate::lifecycle::Launch;
use crate::node::steps::function::Call;
use crate::runner::{Acted, Header, Observed, Step};

/// Runs one function of the hook script, unless it was completed with the same inputs.
pub struct Hook<'a> {
    /// Whether this instance is still wanted.
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) call: Call<'a>,
    /// The digest of the preceding step's inputs: if that step is redone, so is this one.
    pub(crate) after: &'a str,
}

impl Step for Hook<'_> {
    /// The digest of all inputs, for the step that depends on it.
    type Output = String;

    fn header(&self) -> Header<'_> {
        Header {
            // The processes that the hook started end with it, and dropping a future would leave them running.
            keeps_own_deadline: true,
            ..Header::of(self.call.step, self.call.deadline)
        }
    }

    async fn observe(&self) -> Result<Observed<String>, Failure> {
        let inputs = self.inputs();
        if self.call.journal.once_done(self.call.step, &inputs) {
            return Ok(Observed::Done(inputs));
        }
        Ok(Observed::Todo(self.call.shown()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        self.launch.must_be_wanted().await?;
        self.call.make().await?;
        self.call.journal.record_once(self.call.step, &self.inputs())?;
        Ok(Acted::Changed)
    }
}

impl Hook<'_> {
    fn inputs(&self) -> String {
        let Call { script, function, arguments, environment, .. } = &self.call;
        let line = format!("{}\0{}\0{function}\0{arguments:?}\0{environment:?}", self.after, script.sha256);
        Sha256Digest::of(line.as_bytes()).to_string()
    }
}

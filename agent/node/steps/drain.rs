//! `drain`: the user's function that takes the node out of its cluster, where the script defines one.

use crate::failure::{Class, Failure};
use crate::node::steps::function::Call;
use crate::runner::{Acted, Header, Observed, Step};

/// Runs the drain function. Once it has ended it is not called again, whatever became of it.
pub struct Drain<'a> {
    pub(crate) call: Call<'a>,
}

impl Step for Drain<'_> {
    type Output = ();

    fn header(&self) -> Header<'_> {
        // As for the other hooks: the function is ended with all that it started.
        Header { keeps_own_deadline: true, ..Header::of(self.call.step, self.call.deadline) }
    }

    async fn observe(&self) -> Result<Observed<()>, Failure> {
        if self.call.journal.is_drained() {
            return Ok(Observed::Done(()));
        }
        Ok(Observed::Todo(self.call.shown()))
    }

    async fn act(&self) -> Result<Acted, Failure> {
        let made = self.call.make().await;
        if !made.as_ref().is_err_and(|failure| failure.class() == Class::Stopped) {
            self.call.journal.drained();
        }
        made?;
        Ok(Acted::Changed)
    }
}

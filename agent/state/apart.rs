//! What an earlier version cannot read is written apart.
//!
//! Version 0.1.0 has closed lists of phases and steps, and sets the whole journal aside for one word that is in none of them. So the
//! words of a departure are written under a key of their own, which 0.1.0 passes over.

use super::model::{Apart, Phase, State};
use crate::sequence::{Sequence, StepName};

impl State {
    /// As it is written.
    pub(super) fn split_for_file(&self) -> State {
        let mut file = self.clone();
        let leaves = |step: StepName| step.sequence() == Sequence::Departure;
        let mut apart = Apart::default();
        if matches!(file.phase, Phase::Leaving | Phase::Left) {
            apart.phase = Some(file.phase);
            // The nearest word that 0.1.0 knows.
            file.phase = Phase::Stopped;
        }
        (apart.warnings, file.warnings) = file.warnings.into_iter().partition(|warning| leaves(warning.step));
        (apart.output, file.output) = file.output.into_iter().partition(|(step, _)| step.known().is_some_and(leaves));
        file.apart = Some(apart).filter(|apart| *apart != Apart::default());
        file
    }

    /// As it was before it was written.
    pub(super) fn rejoined(mut self) -> State {
        if let Some(Apart { phase, warnings, output }) = self.apart.take() {
            self.phase = phase.unwrap_or(self.phase);
            self.warnings.extend(warnings);
            self.output.extend(output);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Warning;
    use super::*;

    #[test]
    fn the_file_has_no_word_of_a_departure_where_0_1_0_looks_and_loses_none() {
        let warning = |step, message: &str| Warning { step, subject: None, message: message.to_owned() };
        let lines = |text: &str| vec![text.to_owned()];
        let state = State {
            schema: 1,
            phase: Phase::Leaving,
            warnings: vec![warning(StepName::Mount, "a"), warning(StepName::Gate, "b")],
            output: [(StepName::Configure.into(), lines("c")), (StepName::Drain.into(), lines("d"))].into(),
            ..State::default()
        };
        let text = serde_json::to_vec(&state.split_for_file()).unwrap();
        let mut document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert!(document.as_object_mut().unwrap().remove("apart").is_some());
        let before = document.to_string();
        assert!(!["leaving", "gate", "drain"].iter().any(|word| before.contains(word)), "{before}");

        let again = serde_json::from_slice::<State>(&text).unwrap().rejoined();
        assert_eq!((again.phase, &again.warnings, &again.output), (state.phase, &state.warnings, &state.output));
        assert!(again.apart.is_none());
    }

    #[test]
    fn a_state_without_a_departure_is_written_as_it_is() {
        assert!(State { phase: Phase::Done, ..State::default() }.split_for_file().apart.is_none());
    }
}

//! Why a token would pass or not, told step by step: what a judgement that nobody is served by leaves behind.
//!
//! The judgement is that of the request path; see [`crate::witness`]. It leaves out what a request would leave behind: no
//! counter moves, no budget is charged, no token is remembered, no proof is used up. What an issuer must be asked for it is
//! asked as for a request, within the same bounds.

use std::sync::Arc;

use serde::Serialize;
use sluice_vocabulary::{Identity, Refusal};

use crate::proof::Proof;
use crate::witness::{Step, Witness};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// It is as it must be.
    Passed,
    /// It is not, and the request is refused for it.
    Failed,
    /// It was not looked at.
    Skipped,
}

/// A step, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedStep {
    /// Its stable name.
    pub step: &'static str,
    /// How it ended.
    pub outcome: StepOutcome,
    /// What was found, or why it was skipped; perhaps empty. Never a token.
    pub detail: String,
}

/// A judgement and how it came to be.
#[derive(Debug)]
pub struct Explanation {
    /// Every step there is, in order.
    pub steps: Vec<ExplainedStep>,
    /// What a request would get: who it is (nobody, where a token is optional and there is none), or a refusal to the
    /// letter. It is no [`Proof`]: nothing can be had for it.
    pub verdict: Result<Option<Arc<Identity>>, Refusal>,
}

/// The witness that remembers.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    told: [Option<(StepOutcome, String)>; Step::ALL.len()],
    current: Option<Step>,
    note: Option<String>,
    waited: bool,
}

impl Trail {
    /// Ends the step under way; `otherwise` is its detail where none was noted.
    fn end(&mut self, outcome: StepOutcome, otherwise: &str) {
        let note = self.note.take();
        let Some(step) = self.current.take() else { return };
        let mut detail = note.unwrap_or_else(|| otherwise.to_owned());
        if step == Step::Key && self.waited {
            detail.push_str(" (its issuer was asked)");
        }
        self.told[step as usize] = Some((outcome, detail));
    }

    /// What was remembered, once the judgement is over.
    pub(crate) fn finish(mut self, outcome: Result<Proof, Refusal>) -> Explanation {
        let verdict = outcome.map(|proof| proof.identity().cloned());
        let unseen = match &verdict {
            Ok(Some(_)) => "not needed",
            Ok(None) => "there is no token, and the route needs none",
            Err(_) => "not reached",
        };
        match &verdict {
            Ok(_) => self.end(StepOutcome::Passed, ""),
            Err(refusal) => {
                self.end(StepOutcome::Failed, refusal.internal.as_deref().unwrap_or(refusal.reason.title()));
            }
        }
        let steps = Step::ALL.iter().zip(self.told).map(|(step, told)| {
            let (outcome, detail) = told.unwrap_or_else(|| (StepOutcome::Skipped, unseen.to_owned()));
            ExplainedStep { step: step.slug(), outcome, detail }
        });
        Explanation { steps: steps.collect(), verdict }
    }
}

impl Witness for Trail {
    const SERVES: bool = false;

    fn begin(&mut self, step: Step) {
        self.end(StepOutcome::Passed, "");
        self.current = Some(step);
    }

    fn note(&mut self, detail: impl FnOnce() -> String) {
        // A step that was skipped has said why.
        if self.current.is_some() {
            self.note = Some(detail());
        }
    }

    fn skip(&mut self, steps: &[Step], why: &'static str) {
        if self.current.is_some_and(|current| steps.contains(&current)) {
            (self.current, self.note) = (None, None);
        }
        for step in steps {
            self.told[*step as usize] = Some((StepOutcome::Skipped, why.to_owned()));
        }
    }

    fn waive(&mut self, why: &'static str) {
        self.note = None;
        self.end(StepOutcome::Skipped, why);
    }

    fn waits(&mut self) {
        self.waited = true;
    }
}

//! What a token is worth to a request, and why, step by step, without serving it.
//!
//! The request takes the way of any other: fields that no client may send are taken off, the path is brought to its one
//! form, the table in force finds the route, and the route's policy judges the token, by the code that requests are judged
//! by. What a request would leave behind is left out; see [`sluice_auth::Handle::explain`]. What follows the token is
//! told of and not asked: the route's authorising service, the tenant's limits, plugins.

mod grounds;
mod question;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use sluice_auth::{ExplainedStep, Policy, StepOutcome, StrippedHeaders};
use sluice_downstream::BadTarget;
use sluice_routing::explain::Outcome;
use sluice_routing::{Decision, Table};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::unit::BoxFuture;
use sluice_vocabulary::{Identity, Reason, Refusal, ports};

use crate::compose::Units;
pub(crate) use grounds::FromFile;
use grounds::Running;
pub(crate) use question::TokenQuestion;

/// What a judgement goes by: the configuration in force, or one that was made ready for this alone.
pub(crate) trait Ground: Sync {
    fn auth(&self) -> &sluice_auth::Handle;
    fn table(&self) -> &Table;
    /// What no client may send.
    fn stripped(&self) -> &StrippedHeaders;
    /// The path in its one form.
    fn normalise(&self, path: &str) -> Result<String, BadTarget>;
    /// What the route at this place of the table asks for.
    fn terms(&self, index: usize) -> Terms<'_>;
}

/// What a route asks for before it lets a request on.
pub(crate) struct Terms<'g> {
    pub(crate) policy: Option<&'g Arc<Policy>>,
    pub(crate) asks_a_service: bool,
}

/// The operator's door to it.
pub(crate) struct Inspector(pub(crate) Arc<Units>);

impl ports::Judge for Inspector {
    fn judge(&self, question: Bytes) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            let question = TokenQuestion::read(&question)?;
            Ok(judge(&Running::new(&self.0), question).await)
        })
    }
}

/// Judges. The page is `{"route", "policy", "steps": [{"step", "outcome", "detail"}], "verdict": {"passes", "status", "reason",
/// "title", "cause", "headers": [{"name", "value"}], "identity"}}`; what does not apply is null.
pub(crate) async fn judge(ground: &impl Ground, question: TokenQuestion) -> Value {
    let mut page = Page::default();
    let verdict = page.follow(ground, question).await;
    json!({ "route": page.route, "policy": page.policy, "steps": page.steps, "verdict": verdict.told() })
}

/// What comes of it.
enum Verdict {
    /// The request goes on, as somebody or nobody.
    Passes(Option<Arc<Identity>>),
    /// The route answers by itself, whatever the token.
    Answered(u16),
    Refused(Refusal),
}

/// What is told, as far as it is known.
#[derive(Default)]
struct Page {
    route: Option<String>,
    policy: Option<Value>,
    steps: Vec<ExplainedStep>,
}

impl Page {
    async fn follow(&mut self, ground: &impl Ground, question: TokenQuestion) -> Verdict {
        let mut request = question.request;
        let spoofed: Vec<_> = request.headers.keys().filter(|name| ground.stripped().covers(name)).cloned().collect();
        spoofed.iter().for_each(|name| drop(request.headers.remove(name)));
        match ground.normalise(&request.path) {
            Ok(path) => request.path = path,
            Err(bad) => return self.refuse("route", Refusal::new(Reason::BadTarget).internal(bad.to_string())),
        }
        let view = request.view();
        let matched = match ground.table().lookup(&view) {
            Ok(matched) => matched,
            Err(refusal) => return self.refuse("route", refusal),
        };
        self.route = Some(matched.name().to_string());
        match matched.decide(&view) {
            Ok(Decision::Forward) => self.tell("route", StepOutcome::Passed, because(ground.table(), &view)),
            Ok(Decision::Direct(answer)) => {
                let kind = answer.kind.as_str();
                self.tell("route", StepOutcome::Passed, format!("answered by the gateway itself: {kind}"));
                self.tell("token", StepOutcome::Skipped, "such answers need none".to_owned());
                return Verdict::Answered(answer.status.as_u16());
            }
            Err(refusal) => return self.refuse("route", refusal),
        }
        let terms = ground.terms(matched.index());
        let verdict = match terms.policy {
            None => {
                self.tell("token", StepOutcome::Skipped, "the route asks for none: everybody may use it".to_owned());
                Verdict::Passes(None)
            }
            Some(policy) => {
                self.policy = Some(policy.inspect());
                let explanation = ground.auth().explain(policy, &view).await;
                self.steps.extend(explanation.steps);
                explanation.verdict.map_or_else(Verdict::Refused, Verdict::Passes)
            }
        };
        if terms.asks_a_service {
            let why = match verdict {
                Verdict::Refused(_) => "not reached",
                _ => "the route's service has the last word, and is not asked here",
            };
            self.tell("forward-auth", StepOutcome::Skipped, why.to_owned());
        }
        verdict
    }

    fn tell(&mut self, step: &'static str, outcome: StepOutcome, detail: String) {
        self.steps.push(ExplainedStep { step, outcome, detail });
    }

    fn refuse(&mut self, step: &'static str, refusal: Refusal) -> Verdict {
        let detail = refusal.internal.as_deref().unwrap_or(refusal.reason.title()).to_owned();
        self.tell(step, StepOutcome::Failed, detail);
        Verdict::Refused(refusal)
    }
}

/// Why the route is the one that it is.
fn because(table: &Table, view: &RequestView<'_>) -> String {
    match table.explain(view).outcome {
        Outcome::Route { because, .. } => because.join(", "),
        Outcome::Refused { .. } => String::new(),
    }
}

impl Verdict {
    fn told(&self) -> Value {
        let passes = !matches!(self, Self::Refused(_));
        let status = match self {
            Self::Passes(_) => None,
            Self::Answered(status) => Some(*status),
            Self::Refused(refusal) => Some(refusal.status().as_u16()),
        };
        let refusal = match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Passes(_) | Self::Answered(_) => None,
        };
        let identity = match self {
            Self::Passes(Some(identity)) => Some(
                json!({ "issuer": identity.issuer, "subject": identity.subject(), "expires_at": identity.expires_at }),
            ),
            _ => None,
        };
        let headers: Vec<_> = refusal
            .iter()
            .flat_map(|refusal| &refusal.headers)
            .map(|(name, value)| json!({ "name": name.as_str(), "value": String::from_utf8_lossy(value.as_bytes()) }))
            .collect();
        json!({
            "passes": passes,
            "status": status,
            "reason": refusal.map(|refusal| refusal.reason.slug()),
            "title": refusal.map(|refusal| refusal.reason.title()),
            "cause": refusal.and_then(|refusal| refusal.internal.as_deref()),
            "headers": headers,
            "identity": identity,
        })
    }
}

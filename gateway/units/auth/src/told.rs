//! A policy in the operator's words: what it asks for, and which part of that a token does not meet.

use serde_json::{Value, json};
use sluice_vocabulary::Identity;

use crate::config::Scopes;
use crate::policy::Policy;
use crate::scopes::{ScopeRules, Verdict};
use crate::witness::shown;

impl Policy {
    /// What it asks for: `{"issuers", "introspected", "optional", "scopes": {"all", "any", "none", "hierarchical"}, "claims",
    /// "step_up", "sender_constraint"}`. `introspected` is null where no issuer is asked; `claims` is the number of rules.
    pub fn inspect(&self) -> Value {
        let issuers: Vec<_> = self.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        let scopes = &self.wanted_scopes;
        json!({
            "issuers": issuers,
            "introspected": self.introspection.as_ref().map(|introspector| introspector.name.as_str()),
            "optional": self.is_optional(),
            "scopes": {
                "all": scopes.all,
                "any": scopes.any,
                "none": scopes.none,
                "hierarchical": scopes.hierarchical,
            },
            "claims": self.predicates.len(),
            "step_up": self.step_up.is_some(),
            "sender_constraint": self.sender_constraint,
        })
    }

    /// Which of the route's issuers a token's `iss` leads to.
    pub(crate) fn explain_issuer(&self, iss: &str) -> String {
        match self.issuers.iter().find(|issuer| issuer.config.issuer == iss) {
            Some(issuer) => format!("iss {} is issuer {}", shown(iss), issuer.name),
            None => {
                let known =
                    self.issuers.iter().map(|issuer| format!("{} of {}", shown(&issuer.config.issuer), issuer.name));
                format!("iss {} is none of the route's: {}", shown(iss), known.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// Whether any scope is asked for or forbidden.
    pub(crate) fn asks_for_scopes(&self) -> bool {
        let Scopes { all, any, none, .. } = &self.wanted_scopes;
        [all, any, none].into_iter().any(|list| !list.is_empty())
    }

    /// How a token's scopes are to the route's: what is missing, or is not to be there.
    pub(crate) fn explain_scopes(&self, identity: &Identity) -> String {
        let wanted = &self.wanted_scopes;
        // The judgement's own rules, asked about one scope at a time.
        let has = |scope: &String| {
            let only = Scopes { all: vec![scope.clone()], hierarchical: wanted.hierarchical, ..Scopes::default() };
            ScopeRules::new(&only).judge(identity.scopes()) == Verdict::Enough
        };
        let forbidden: Vec<_> = wanted.none.iter().filter(|scope| has(scope)).map(String::as_str).collect();
        if !forbidden.is_empty() {
            return format!("has what the route forbids: {}", forbidden.join(" "));
        }
        let missing: Vec<_> = wanted.all.iter().filter(|scope| !has(scope)).map(String::as_str).collect();
        if !missing.is_empty() {
            return format!("missing: {}", missing.join(" "));
        }
        if !wanted.any.is_empty() && !wanted.any.iter().any(has) {
            return format!("missing: one of {}", wanted.any.join(" "));
        }
        "all that the route asks for".to_owned()
    }
}

//! What a request has shown, as proof for the steps that follow.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use sluice_vocabulary::Identity;

use crate::policy::Policy;
use crate::verify::Verified;

/// The proof that a request has met its route's policy: what [`Handle::authenticate`](crate::Handle::authenticate) gives.
#[derive(Debug, Clone)]
pub enum Proof {
    /// It carries a token that the route accepts.
    Verified(Verified),
    /// It carries none, and the route is content with that.
    Anonymous(Anonymous),
}

impl Proof {
    /// Who it is, if that is known.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Verified(verified) => Some(verified.identity()),
            Self::Anonymous(_) => None,
        }
    }

    /// Fields for any answer to the request: see [`Verified::answer_fields`].
    pub fn answer_fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<'_> {
        let verified = match self {
            Self::Verified(verified) => Some(verified),
            Self::Anonymous(_) => None,
        };
        verified.into_iter().flat_map(Verified::answer_fields)
    }
}

/// The proof that a request without a token came to a route that needs none.
#[derive(Debug, Clone)]
pub struct Anonymous(());

impl Anonymous {
    /// The one origin: a policy whose token is optional.
    pub(crate) fn allowed_by(policy: &Policy) -> Option<Self> {
        policy.is_optional().then_some(Self(()))
    }
}

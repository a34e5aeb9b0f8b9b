//! A compiled route.

use std::cmp::Reverse;

use http::HeaderValue;
use sluice_vocabulary::RouteName;

use crate::addresses::AddressRules;
use crate::answer::{FixedAnswer, Redirect};
use crate::conditions::{Conditions, Methods};
use crate::cors::Cors;
use crate::edits::HeaderEdits;
use crate::host::{HostPattern, HostRank};
use crate::path::{PathPattern, PathRank};
use crate::template::Template;

/// One route, with everything that could be worked out before the first request.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) index: usize,
    pub(crate) name: RouteName,
    pub(crate) hosts: Box<[HostPattern]>,
    pub(crate) path: PathPattern,
    pub(crate) methods: Methods,
    pub(crate) conditions: Conditions,
    pub(crate) action: Action,
    pub(crate) rewrite_path: Option<Template>,
    pub(crate) rewrite_host: Option<HeaderValue>,
    pub(crate) request_edits: HeaderEdits,
    pub(crate) response_edits: HeaderEdits,
    pub(crate) cors: Option<Cors>,
    pub(crate) addresses: Option<AddressRules>,
}

/// What a route does with a request.
#[derive(Debug)]
pub(crate) enum Action {
    Forward,
    Redirect(Box<Redirect>),
    Fixed(Box<FixedAnswer>),
}

/// A route's place among those for the same request: the lesser wins. The fields' order is the documented one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precedence {
    pub(crate) host: HostRank,
    pub(crate) path: PathRank,
    pub(crate) place: Place,
}

/// The part of it that tells routes with the same host and path patterns apart.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) takes_any_method: bool,
    pub(crate) conditions: Reverse<usize>,
    pub(crate) index: usize,
}

impl Route {
    pub(crate) fn place(&self) -> Place {
        Place { takes_any_method: self.methods.any(), conditions: Reverse(self.conditions.count()), index: self.index }
    }

    pub(crate) fn precedence(&self, host: &HostPattern) -> Precedence {
        Precedence { host: host.rank(), path: self.path.rank(), place: self.place() }
    }

    /// The foremost of the route's host patterns that is for this host.
    pub(crate) fn host_for(&self, host: &str) -> Option<&HostPattern> {
        self.hosts.iter().filter(|pattern| pattern.is_for(host)).min_by_key(|pattern| pattern.rank())
    }
}

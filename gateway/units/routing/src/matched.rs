//! What a look-up yields: the proof that a request has a route, and what that route says of it.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderValue;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Reason, Refusal, RouteName};

use crate::answer::{Decision, DirectAnswer, Fields, preflight};
use crate::edits::HeaderEdits;
use crate::route::{Action, Route};
use crate::template::Captures;

/// A request's route. Only [`Table::lookup`](crate::Table::lookup) makes one.
///
/// It owns its route, so that a configuration which is replaced meanwhile does not matter, and remembers where in the path
/// the captures are: hand its methods the path, or the request, that was looked up.
#[derive(Debug, Clone)]
pub struct Matched {
    route: Arc<Route>,
    captures: Captures,
    preflight: bool,
}

impl Matched {
    pub(crate) fn new(route: &Arc<Route>, path: &str, preflight: bool) -> Self {
        Self { route: Arc::clone(route), captures: Captures::of(&route.path, path), preflight }
    }

    /// The route's position in the list the table was compiled from.
    pub fn index(&self) -> usize {
        self.route.index
    }

    /// The route's name.
    pub fn name(&self) -> &RouteName {
        &self.route.name
    }

    /// What the path's captures are, by name, from the left: pieces of `path`, not decoded. A final `*` is not among them.
    pub fn captures<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = self.route.path.capture_names().enumerate();
        names.map(move |(position, name)| (name, self.captures.get(position, path)))
    }

    /// Whether the request goes on to an upstream or is answered here.
    ///
    /// # Errors
    /// [`Reason::AddressDenied`] where the client's address may not use the route, before all else. A redirect that
    /// needs the request's host is [`Reason::BadHost`] where there is none.
    pub fn decide(&self, request: &RequestView<'_>) -> Result<Decision, Refusal> {
        if let Some(addresses) = &self.route.addresses
            && !addresses.admit(request.client)
        {
            let internal = format!("address {} may not use route {}", request.client, self.route.name);
            return Err(Refusal::new(Reason::AddressDenied).internal(internal));
        }
        if let (true, Some(cors)) = (self.preflight, &self.route.cors) {
            return Ok(direct(preflight(cors.preflight(request.headers))));
        }
        match &self.route.action {
            Action::Forward => Ok(Decision::Forward),
            Action::Redirect(redirect) => redirect.answer(request, &self.captures).map(direct),
            Action::Fixed(fixed) => Ok(direct(fixed.answer())),
        }
    }

    /// The path toward the upstream, where the route changes it. Without the query, which stays.
    pub fn rewrite_path<'a>(&'a self, path: &str) -> Option<Cow<'a, str>> {
        Some(self.route.rewrite_path.as_ref()?.fill(path, &self.captures))
    }

    /// The `Host` toward the upstream, where the route changes it.
    pub fn rewrite_host(&self) -> Option<&HeaderValue> {
        self.route.rewrite_host.as_ref()
    }

    /// Changes to the request's header.
    pub fn request_headers(&self) -> &HeaderEdits {
        &self.route.request_edits
    }

    /// Changes to the response's header; they are meant for what comes from an upstream and for what is answered here.
    pub fn response_headers(&self) -> &HeaderEdits {
        &self.route.response_edits
    }

    /// Whether pages of other origins are told anything at all. If so, [`Matched::cors_headers`] belongs to every answer,
    /// and an upstream's own `Access-Control-*` fields are to be taken away.
    pub fn has_cors(&self) -> bool {
        self.route.cors.is_some()
    }

    /// The CORS fields of any answer on this route, refusals included: without them a page could not even read why it was
    /// refused. To be *added*, since `Vary` may be there already. Empty for a preflight, whose answer has them already.
    pub fn cors_headers(&self, request: &RequestView<'_>) -> Fields {
        match &self.route.cors {
            Some(cors) if !self.preflight => cors.actual(request.headers),
            _ => Fields::new(),
        }
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    pub(crate) fn is_preflight(&self) -> bool {
        self.preflight
    }
}

fn direct(answer: DirectAnswer) -> Decision {
    Decision::Direct(answer.into())
}

//! The table as the admin's page shows it.

use serde_json::{Value, json};
use sluice_vocabulary::ports::Inspect;

use crate::conditions::{OnHeader, OnQuery};
use crate::edits::HeaderEdits;
use crate::route::{Action, Route};
use crate::table::Table;

impl Inspect for Table {
    /// The routes in the order of the configuration. Values that headers are set to are left out, since they may be
    /// secrets, and so are the values that conditions ask for.
    fn inspect(&self) -> Value {
        let warnings: Vec<_> = self.warnings.iter().map(ToString::to_string).collect();
        json!({ "routes": self.routes.iter().map(|route| of_route(route)).collect::<Vec<_>>(), "warnings": warnings })
    }
}

fn of_route(route: &Route) -> Value {
    let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
    let methods = if route.methods.any() { "any".to_owned() } else { route.methods.list() };
    json!({
        "name": route.name.as_str(),
        "hosts": hosts,
        "path": route.path.to_string(),
        "methods": methods,
        "scheme": route.conditions.scheme.map(|scheme| scheme.as_str()),
        "headers": route.conditions.headers.iter().map(|(name, on)| of_header(name.as_str(), on)).collect::<Vec<_>>(),
        "query": route.conditions.query.iter().map(|(name, on)| of_query(name, on)).collect::<Vec<_>>(),
        "does": does(route),
        "rewrite_path": route.rewrite_path.as_ref().map(|template| template.text()),
        "rewrite_host": route.rewrite_host.as_ref().and_then(|host| host.to_str().ok()),
        "request_headers": of_edits(&route.request_edits),
        "response_headers": of_edits(&route.response_edits),
        "cors": route.cors.is_some(),
        "address_rules": route.addresses.is_some(),
    })
}

/// What a route does with a request, in a few words.
pub(crate) fn does(route: &Route) -> String {
    match &route.action {
        Action::Forward => match &route.rewrite_path {
            Some(template) => format!("forward with the path {}", template.text()),
            None => "forward".into(),
        },
        Action::Redirect(redirect) => format!("redirect {}", redirect.describe()),
        Action::Fixed(fixed) => format!("answer {}", fixed.status.as_u16()),
    }
}

fn of_header(name: &str, on: &OnHeader) -> Value {
    let kind = match on {
        OnHeader::Exact(_) => "exact",
        OnHeader::Prefix(_) => "prefix",
        OnHeader::Present(true) => "present",
        OnHeader::Present(false) => "absent",
    };
    json!({ "name": name, "condition": kind })
}

fn of_query(name: &str, on: &OnQuery) -> Value {
    let kind = match on {
        OnQuery::Exact(_) => "exact",
        OnQuery::Present(true) => "present",
        OnQuery::Present(false) => "absent",
    };
    json!({ "name": name, "condition": kind })
}

fn of_edits(edits: &HeaderEdits) -> Value {
    if edits.is_empty() {
        return Value::Null;
    }
    let names = |fields: &[(http::HeaderName, http::HeaderValue)]| {
        fields.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    let removed: Vec<_> = edits.remove().iter().map(ToString::to_string).collect();
    json!({ "remove": removed, "set": names(edits.set()), "add": names(edits.add()) })
}

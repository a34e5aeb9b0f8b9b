//! From what an operator wrote to the table.

use foldhash::HashMap;
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue};
use std::collections::hash_map::Entry;
use std::sync::Arc;

use sluice_vocabulary::{Fault, Faults, Path, RouteName};

use crate::addresses::AddressRules;
use crate::answer::{FixedAnswer, Redirect};
use crate::conditions::{Conditions, Methods};
use crate::config;
use crate::cors::Cors;
use crate::edits::{HeaderEdits, Side};
use crate::host::{HostPattern, labels};
use crate::path::{PathPattern, Segment};
use crate::route::{Action, Route};
use crate::shadow;
use crate::table::{HostPart, NOWHERE, Node, Table, Under, UnderOwned};
use crate::template::Template;

/// One route as configured: the parts that routing knows, and what it must be told of the others.
#[derive(Debug)]
pub struct RouteSpec {
    /// Its name.
    pub name: RouteName,
    /// Where it stands in the configuration.
    pub at: Path,
    /// What it is for.
    pub r#match: config::Match,
    /// What is changed on the way to the upstream.
    pub rewrite: Option<config::Rewrite>,
    /// A redirect, in place of an upstream.
    pub redirect: Option<config::Redirect>,
    /// A fixed answer, in place of an upstream.
    pub answer: Option<config::Answer>,
    /// What pages of other origins may do.
    pub cors: Option<config::Cors>,
    /// Fields that others put into answers on this route and that such pages must be able to read too.
    pub exposed: Vec<HeaderName>,
    /// Who may use it.
    pub addresses: Option<config::Addresses>,
    /// Whether it names an upstream.
    pub has_upstream: bool,
    /// Whether it demands an identity. A redirect or fixed answer is given before anybody is asked for one, so that it
    /// would not be protected: the two together are a fault.
    pub protected: bool,
}

pub(crate) fn compile(specs: Vec<RouteSpec>) -> Result<Table, Vec<Fault>> {
    let mut faults = Faults::new();
    refuse_double_names(&specs, &mut faults);
    let places: Vec<Path> = specs.iter().map(|spec| spec.at.clone()).collect();
    let mut routes = Vec::with_capacity(specs.len());
    for (index, spec) in specs.into_iter().enumerate() {
        routes.extend(compile_route(index, spec, &mut faults));
    }
    if faults.has_errors() {
        return Err(faults.into_vec());
    }
    let mut table = Builder::default().build(routes);
    shadow::warn(&table, &places, &mut faults);
    table.warnings = faults.into_vec();
    Ok(table)
}

fn refuse_double_names(specs: &[RouteSpec], faults: &mut Faults) {
    let mut first: HashMap<&RouteName, &Path> = HashMap::default();
    for spec in specs {
        match first.entry(&spec.name) {
            Entry::Occupied(other) => {
                faults.error(
                    &spec.at.key("name"),
                    format!("{} has the name {:?} already", other.get(), spec.name.as_str()),
                );
            }
            Entry::Vacant(free) => {
                free.insert(&spec.at);
            }
        }
    }
}

/// `None` only where the pattern of the path is not usable, since the rest depends on it; its faults are in then.
fn compile_route(index: usize, spec: RouteSpec, faults: &mut Faults) -> Option<Route> {
    let at = &spec.at;
    let at_match = at.key("match");
    refuse_contradictions(&spec, faults);

    let hosts = compile_hosts(&spec.r#match.host, &at_match.key("host"), faults);
    let methods = Methods::compile(&spec.r#match.methods, &at_match.key("methods"), faults);
    let conditions = Conditions::compile(&spec.r#match, &at_match, faults);
    let cors = spec.cors.as_ref().and_then(|cors| {
        if !conditions.headers.is_empty() {
            faults.push(
                Fault::warning(
                    &at.key("cors"),
                    "a preflight does not carry the header fields that this route asks for",
                )
                .help("a route without header conditions must take it"),
            );
        }
        Cors::compile(cors, &spec.exposed, &spec.r#match.methods, &at.key("cors"), faults)
    });
    let addresses = spec.addresses.as_ref().map(|it| AddressRules::compile(it, &at.key("addresses"), faults));
    let fixed = spec.answer.as_ref().map(|answer| FixedAnswer::compile(answer, &at.key("answer"), faults));

    let rewrite = spec.rewrite.unwrap_or_default();
    let at_rewrite = at.key("rewrite");
    let edits = |edits, side, key, faults: &mut Faults| HeaderEdits::compile(edits, side, &at_rewrite.key(key), faults);
    let request_edits = edits(&rewrite.request_headers, Side::Request, "request_headers", faults);
    let response_edits = edits(&rewrite.response_headers, Side::Response, "response_headers", faults);
    let rewrite_host =
        rewrite.host.as_deref().and_then(|host| compile_authority(host, &at_rewrite.key("host"), faults));

    let path = match &spec.r#match.path {
        Some(path) => PathPattern::compile(path, &at_match.key("path"), faults)?,
        None => PathPattern::Any,
    };
    let rewrite_path =
        rewrite.path.as_deref().and_then(|text| Template::compile(text, &path, &at_rewrite.key("path"), faults));
    let redirect = spec.redirect.as_ref().and_then(|it| Redirect::compile(it, &path, &at.key("redirect"), faults));
    if let Some(scheme) = redirect.as_ref().and_then(Redirect::only_changes_scheme_to)
        && conditions.scheme.is_none_or(|from| from == scheme)
    {
        faults.push(
            Fault::warning(
                &at.key("redirect"),
                format!("a request that came by {} is sent to itself", scheme.as_str()),
            )
            .help("set match.scheme to the other scheme"),
        );
    }
    let action = match (redirect, fixed) {
        (Some(redirect), _) => Action::Redirect(redirect.into()),
        (None, Some(fixed)) => Action::Fixed(fixed.into()),
        (None, None) => Action::Forward,
    };
    Some(Route {
        index,
        name: spec.name,
        hosts,
        path,
        methods,
        conditions,
        action,
        rewrite_path,
        rewrite_host,
        request_edits,
        response_edits,
        cors,
        addresses,
    })
}

/// Keys that are each fine and do not go together.
fn refuse_contradictions(spec: &RouteSpec, faults: &mut Faults) {
    let given =
        [(spec.has_upstream, "upstream"), (spec.redirect.is_some(), "redirect"), (spec.answer.is_some(), "answer")];
    let given: Vec<_> = given.iter().filter(|(given, _)| *given).map(|(_, key)| *key).collect();
    match given.as_slice() {
        [] => faults.push(
            Fault::error(&spec.at, "the route does nothing: expected one of upstream, redirect, answer")
                .help("name the upstream that its requests go to"),
        ),
        [_] => {}
        several => faults.error(&spec.at, format!("the route has {}: expected one of them", several.join(" and "))),
    }
    if spec.protected && !spec.has_upstream && !given.is_empty() {
        let message = format!("a route with {} is answered before anybody is asked who they are", given.join(" and "));
        faults.push(Fault::error(&spec.at, message).help("take auth away, or serve the answer from an upstream"));
    }
    if let Some(rewrite) = &spec.rewrite
        && !spec.has_upstream
        && (rewrite.path.is_some() || rewrite.host.is_some() || rewrite.request_headers != Default::default())
    {
        let message = "there is no upstream that a rewritten request could go to";
        faults.push(Fault::error(&spec.at.key("rewrite"), message).help("only response_headers has an effect here"));
    }
}

fn compile_hosts(hosts: &config::Hosts, at: &Path, faults: &mut Faults) -> Box<[HostPattern]> {
    if hosts.0.is_empty() {
        return [HostPattern::Any].into();
    }
    let mut compiled = Vec::with_capacity(hosts.0.len());
    for (position, text) in hosts.0.iter().enumerate() {
        // A single host may be written without a list, and then has no index.
        let at = if hosts.0.len() == 1 { at.clone() } else { at.index(position) };
        match HostPattern::compile(text, &at, faults) {
            Some(pattern) if compiled.contains(&pattern) => {
                faults.warning(&at, format!("host {text:?} is in the list twice"))
            }
            Some(pattern) => compiled.push(pattern),
            None => {}
        }
    }
    compiled.into()
}

/// A host, perhaps with a port, as the value of `Host`.
fn compile_authority(text: &str, at: &Path, faults: &mut Faults) -> Option<HeaderValue> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if let Some(port) = port
        && port.parse::<u16>().is_err()
    {
        faults.error(at, format!("{text:?} has the port {port:?}: expected a number up to 65535"));
        return None;
    }
    match HostPattern::compile(host, at, faults)? {
        HostPattern::Exact(_) => HeaderValue::from_str(text).ok(),
        HostPattern::Below(_) | HostPattern::Any => {
            faults.error(at, format!("{text:?} has a wildcard: expected one host"));
            None
        }
    }
}

/// Puts routes into their places, then sorts each place.
#[derive(Default)]
struct Builder {
    parts_by_host: HashMap<HostPattern, u32>,
    parts: Vec<HostPart>,
    exact_paths: hashbrown::HashMap<UnderOwned, u32, RandomState>,
    edges: hashbrown::HashMap<UnderOwned, u32, RandomState>,
    nodes: Vec<Node>,
    slots: Vec<Vec<u32>>,
}

impl Builder {
    fn build(mut self, routes: Vec<Route>) -> Table {
        // The first of each is the one that is none.
        self.nodes.push(Node::default());
        self.slots.push(Vec::new());
        for route in &routes {
            for host in &route.hosts {
                let slot = self.slot_for(host, &route.path);
                // The table's indices are 32 bits wide: a configuration with more routes does not fit memory.
                self.slots[slot as usize].push(route.index as u32);
            }
        }
        let slots = self.slots.into_iter().map(|mut slot| {
            slot.sort_by_cached_key(|&index| routes[index as usize].place());
            slot.into_boxed_slice()
        });
        let mut table = Table {
            slots: slots.collect(),
            any_cors: routes.iter().any(|route| route.cors.is_some()),
            routes: routes.into_iter().map(Arc::new).collect(),
            warnings: Vec::new(),
            hosts: Default::default(),
            wildcards: Default::default(),
            longest_wildcard: 0,
            any_host: None,
            parts: self.parts,
            exact_paths: self.exact_paths,
            edges: self.edges,
            nodes: self.nodes,
        };
        for (host, part) in self.parts_by_host {
            match host {
                HostPattern::Exact(name) => {
                    table.hosts.insert(name, part);
                }
                HostPattern::Below(suffix) => {
                    table.longest_wildcard = table.longest_wildcard.max(labels(&suffix));
                    table.wildcards.insert(suffix, part);
                }
                HostPattern::Any => table.any_host = Some(part),
            }
        }
        table
    }

    fn slot_for(&mut self, host: &HostPattern, path: &PathPattern) -> u32 {
        let part = match self.parts_by_host.get(host) {
            Some(&part) => part,
            None => {
                let part = self.parts.len() as u32;
                self.parts.push(HostPart::default());
                self.parts_by_host.insert(host.clone(), part);
                part
            }
        };
        match path {
            PathPattern::Exact(text) => {
                let slots = &mut self.slots;
                *self.exact_paths.entry(UnderOwned(part, text.clone())).or_insert_with(|| new_slot(slots))
            }
            PathPattern::Template(segments) => {
                let root = self.root(part, |part| &mut part.templates);
                self.slot_along(root, segments)
            }
            PathPattern::Prefix(segments) => {
                let root = self.root(part, |part| &mut part.prefixes);
                self.slot_along(root, segments)
            }
            PathPattern::Any => {
                let slot = &mut self.parts[part as usize].any_path;
                if *slot == NOWHERE {
                    *slot = new_slot(&mut self.slots);
                }
                *slot
            }
        }
    }

    fn root(&mut self, part: u32, which: impl Fn(&mut HostPart) -> &mut u32) -> u32 {
        let root = which(&mut self.parts[part as usize]);
        if *root == NOWHERE {
            *root = new_node(&mut self.nodes);
        }
        *root
    }

    fn slot_along(&mut self, root: u32, segments: &[Segment]) -> u32 {
        let mut node = root;
        for segment in segments {
            node = match segment {
                Segment::Literal(text) => match self.edges.get(&Under(node, text)) {
                    Some(&next) => next,
                    None => {
                        let next = new_node(&mut self.nodes);
                        self.edges.insert(UnderOwned(node, text.clone()), next);
                        next
                    }
                },
                Segment::Capture(_) => {
                    if self.nodes[node as usize].capture == NOWHERE {
                        let next = new_node(&mut self.nodes);
                        self.nodes[node as usize].capture = next;
                    }
                    self.nodes[node as usize].capture
                }
            };
        }
        let slot = &mut self.nodes[node as usize].slot;
        if *slot == NOWHERE {
            *slot = new_slot(&mut self.slots);
        }
        *slot
    }
}

fn new_slot(slots: &mut Vec<Vec<u32>>) -> u32 {
    slots.push(Vec::new());
    slots.len() as u32 - 1
}

fn new_node(nodes: &mut Vec<Node>) -> u32 {
    nodes.push(Node::default());
    nodes.len() as u32 - 1
}

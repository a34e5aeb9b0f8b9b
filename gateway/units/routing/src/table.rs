//! The compiled table and the look-up.
//!
//! The table is immutable: a new configuration makes a new one. It is laid out so that a look-up follows the order of
//! precedence and may stop at the first route that takes the request:
//!
//! - *hosts*: a hash map of exact names, one of wildcard suffixes, and the part for any host;
//! - *exact paths*: one hash map for all hosts, by host and path;
//! - *templates and prefixes*: two trees for each host, whose edges for literal segments live in one hash map for the
//!   whole table, by node and segment. A walk tries the literal edge first, then the capture's, and for prefixes last the
//!   pattern that ends here, which is the order of precedence;
//! - *slots*: the routes that share host and path patterns, in their order of precedence.
//!
//! What a walk visits is bounded by the nodes that the path's segments fit. Going back from a dead end is needed only
//! where a literal and a capture lead on from the same node.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{Equivalent, HashMap};
use http::Method;
use memchr::{memchr, memchr_iter};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Fault, Reason, Refusal};

use crate::answer::allow;
use crate::compile::{self, RouteSpec};
use crate::conditions::Methods;
use crate::cors::preflight_method;
use crate::host::labels;
use crate::matched::Matched;
use crate::route::Route;

/// All routes of a configuration, compiled. Immutable; share it in an `Arc` and swap that.
#[derive(Debug)]
pub struct Table {
    pub(crate) routes: Box<[Arc<Route>]>,
    pub(crate) warnings: Vec<Fault>,
    pub(crate) hosts: HashMap<Box<str>, u32, RandomState>,
    pub(crate) wildcards: HashMap<Box<str>, u32, RandomState>,
    /// The most labels that a wildcard's suffix has: longer suffixes of a host need not be looked up, however many
    /// labels a client writes.
    pub(crate) longest_wildcard: usize,
    pub(crate) any_host: Option<u32>,
    pub(crate) parts: Vec<HostPart>,
    /// Slots by host part and exact path.
    pub(crate) exact_paths: HashMap<UnderOwned, u32, RandomState>,
    /// Nodes by parent and segment.
    pub(crate) edges: HashMap<UnderOwned, u32, RandomState>,
    pub(crate) nodes: Vec<Node>,
    /// Indices of routes; the first slot is the empty one.
    pub(crate) slots: Vec<Box<[u32]>>,
    pub(crate) any_cors: bool,
}

/// What there is for one host pattern.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostPart {
    /// Roots of trees; [`NOWHERE`] where there is none.
    pub(crate) templates: u32,
    pub(crate) prefixes: u32,
    /// Routes for any path.
    pub(crate) any_path: u32,
}

/// A place in a tree.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Node {
    /// Where a captured segment leads.
    pub(crate) capture: u32,
    /// The routes whose pattern ends here.
    pub(crate) slot: u32,
}

/// The node that is no node, and the slot that is empty.
pub(crate) const NOWHERE: u32 = 0;

/// A text under a number: a path of a host part, a segment of a node.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct UnderOwned(pub(crate) u32, pub(crate) Box<str>);

/// The same, borrowed for a look-up. Hashes alike, since both hash their fields in turn and a box as what it holds.
#[derive(Hash)]
pub(crate) struct Under<'t>(pub(crate) u32, pub(crate) &'t str);

impl Equivalent<UnderOwned> for Under<'_> {
    fn equivalent(&self, owned: &UnderOwned) -> bool {
        self.0 == owned.0 && *self.1 == *owned.1
    }
}

/// Counts what a look-up does, or does not count.
pub(crate) trait Count {
    fn step(&mut self);
}

impl Count for () {
    fn step(&mut self) {}
}

impl Count for u32 {
    fn step(&mut self) {
        *self = self.saturating_add(1);
    }
}

/// Which of the two kinds of tree is walked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// A pattern must end where the path does.
    Templates,
    /// A pattern may end anywhere.
    Prefixes,
}

impl Table {
    /// Compiles the routes, in the order of the configuration. Either all faults, warnings among them, or a table whose
    /// warnings are had from [`Table::warnings`].
    pub fn compile(specs: Vec<RouteSpec>) -> Result<Self, Vec<Fault>> {
        compile::compile(specs)
    }

    /// What is risky in these routes: a route that can never win because of another, and the like.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// The number of routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Finds the request's route.
    ///
    /// A CORS preflight finds the route of the request that it announces, if that route has CORS; else it is looked up as
    /// the OPTIONS request it is.
    ///
    /// # Errors
    /// [`Reason::MethodNotAllowed`], with `Allow`, where routes would take the request if only its method were another;
    /// else [`Reason::NoRoute`].
    pub fn lookup(&self, request: &RequestView<'_>) -> Result<Matched, Refusal> {
        self.lookup_counting(request, &mut ())
    }

    /// How many times a look-up of this request goes to the table's maps, nodes and routes: a measure of its cost that is
    /// the same on every machine.
    pub fn lookup_steps(&self, request: &RequestView<'_>) -> u32 {
        let mut steps = 0;
        // The cost is the same whether or not a route is found.
        let _ = self.lookup_counting(request, &mut steps);
        steps
    }

    fn lookup_counting(&self, request: &RequestView<'_>, count: &mut impl Count) -> Result<Matched, Refusal> {
        if self.any_cors
            && let Some(announced) = preflight_method(request)
            && let Ok(route) = self.find(request, &announced, count)
            && route.cors.is_some()
        {
            return Ok(Matched::new(route, request.path, true));
        }
        match self.find(request, request.method, count) {
            Ok(route) => Ok(Matched::new(route, request.path, false)),
            Err(NotFound { wrong_method: true }) => Err(self.method_not_allowed(request)),
            Err(NotFound { wrong_method: false }) => Err(Refusal::new(Reason::NoRoute)),
        }
    }

    /// The foremost route that takes the request, were `method` its method.
    fn find(
        &self,
        request: &RequestView<'_>,
        method: &Method,
        count: &mut impl Count,
    ) -> Result<&Arc<Route>, NotFound> {
        let mut found = None;
        let mut wrong_method = false;
        self.visit(request.host, request.path, count, &mut |route| {
            if route.methods.allow(method) {
                if route.conditions.hold(request) {
                    found = Some(route);
                    return Visit::Stop;
                }
            } else if !wrong_method {
                wrong_method = route.conditions.hold(request);
            }
            Visit::GoOn
        });
        found.ok_or(NotFound { wrong_method })
    }

    fn method_not_allowed(&self, request: &RequestView<'_>) -> Refusal {
        let mut methods = Methods::none();
        self.visit(request.host, request.path, &mut (), &mut |route| {
            if route.conditions.hold(request) {
                methods.add_all(&route.methods);
            }
            Visit::GoOn
        });
        let mut refusal = Refusal::new(Reason::MethodNotAllowed);
        refusal.headers.extend(allow(&methods.list()));
        refusal
    }

    /// Goes through the routes that are for this host and path, in their order of precedence.
    fn visit<'t>(
        &'t self,
        host: &str,
        path: &str,
        count: &mut impl Count,
        visitor: &mut impl FnMut(&'t Arc<Route>) -> Visit,
    ) -> Visit {
        count.step();
        if let Some(&part) = self.hosts.get(host)
            && self.visit_part(part, path, count, visitor) == Visit::Stop
        {
            return Visit::Stop;
        }
        if self.longest_wildcard > 0 {
            let mut left = labels(host);
            for dot in memchr_iter(b'.', host.as_bytes()) {
                left -= 1;
                if dot == 0 || left > self.longest_wildcard {
                    continue;
                }
                count.step();
                if let Some(&part) = self.wildcards.get(&host[dot + 1..])
                    && self.visit_part(part, path, count, visitor) == Visit::Stop
                {
                    return Visit::Stop;
                }
            }
        }
        self.any_host.map_or(Visit::GoOn, |part| self.visit_part(part, path, count, visitor))
    }

    fn visit_part<'t>(
        &'t self,
        part: u32,
        path: &str,
        count: &mut impl Count,
        visitor: &mut impl FnMut(&'t Arc<Route>) -> Visit,
    ) -> Visit {
        count.step();
        if let Some(&slot) = self.exact_paths.get(&Under(part, path))
            && self.visit_slot(slot, count, visitor) == Visit::Stop
        {
            return Visit::Stop;
        }
        let HostPart { templates, prefixes, any_path } = self.parts[part as usize];
        if let Some(segments) = path.strip_prefix('/') {
            for (root, tree) in [(templates, Tree::Templates), (prefixes, Tree::Prefixes)] {
                if root != NOWHERE && self.walk(tree, root, Some(segments), count, visitor) == Visit::Stop {
                    return Visit::Stop;
                }
            }
        }
        self.visit_slot(any_path, count, visitor)
    }

    /// Walks a tree from `node`, with the segments that are left; `None` when the path has ended, which an empty text
    /// (a trailing slash) has not. The depth is bounded by the longest pattern.
    fn walk<'t>(
        &'t self,
        tree: Tree,
        node: u32,
        left: Option<&str>,
        count: &mut impl Count,
        visitor: &mut impl FnMut(&'t Arc<Route>) -> Visit,
    ) -> Visit {
        let Node { capture, slot } = self.nodes[node as usize];
        if let Some(left) = left {
            let (segment, left) = match memchr(b'/', left.as_bytes()) {
                Some(slash) => (&left[..slash], Some(&left[slash + 1..])),
                None => (left, None),
            };
            count.step();
            if let Some(&next) = self.edges.get(&Under(node, segment))
                && self.walk(tree, next, left, count, visitor) == Visit::Stop
            {
                return Visit::Stop;
            }
            if capture != NOWHERE && !segment.is_empty() {
                count.step();
                if self.walk(tree, capture, left, count, visitor) == Visit::Stop {
                    return Visit::Stop;
                }
            }
            if tree == Tree::Templates {
                return Visit::GoOn;
            }
        }
        self.visit_slot(slot, count, visitor)
    }

    fn visit_slot<'t>(
        &'t self,
        slot: u32,
        count: &mut impl Count,
        visitor: &mut impl FnMut(&'t Arc<Route>) -> Visit,
    ) -> Visit {
        for &route in &self.slots[slot as usize] {
            count.step();
            if visitor(&self.routes[route as usize]) == Visit::Stop {
                return Visit::Stop;
            }
        }
        Visit::GoOn
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visit {
    GoOn,
    Stop,
}

struct NotFound {
    /// Whether a route would take the request if its method were another.
    wrong_method: bool,
}

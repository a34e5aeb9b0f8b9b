//! The conditions beside host and path: scheme, method, header, query.

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use sluice_vocabulary::request::{RequestView, Scheme};
use sluice_vocabulary::{Fault, Faults, Path};

use crate::config::{HeaderCondition, Match, QueryCondition, SchemeName};

/// The methods a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Methods {
    /// By bit, as [`STANDARD`] has them. HEAD is in wherever GET is.
    standard: u16,
    others: Box<[Method]>,
    any: bool,
}

/// The methods that have a bit, most used first.
const STANDARD: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];

impl Methods {
    pub(crate) fn compile(names: &[String], at: &Path, faults: &mut Faults) -> Self {
        let mut methods = Self { standard: 0, others: Box::default(), any: names.is_empty() };
        for (position, name) in names.iter().enumerate() {
            if let Some(method) = method(name, &at.index(position), faults) {
                methods.add(method);
            }
        }
        methods
    }

    pub(crate) fn none() -> Self {
        Self { standard: 0, others: Box::default(), any: false }
    }

    fn add(&mut self, method: Method) {
        match bit(&method) {
            Some(bit) => self.standard |= bit,
            None if self.others.contains(&method) => {}
            None => {
                let mut others = std::mem::take(&mut self.others).into_vec();
                others.push(method);
                self.others = others.into();
            }
        }
        if self.standard & 1 != 0 {
            self.standard |= 2;
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        self.any |= other.any;
        self.standard |= other.standard;
        for method in &other.others {
            self.add(method.clone());
        }
    }

    /// Whether any method will do, so that none is named.
    pub(crate) fn any(&self) -> bool {
        self.any
    }

    pub(crate) fn allow(&self, method: &Method) -> bool {
        self.any
            || match bit(method) {
                Some(bit) => self.standard & bit != 0,
                None => self.others.contains(method),
            }
    }

    /// Whether all that `other` allows is allowed here.
    pub(crate) fn cover(&self, other: &Self) -> bool {
        self.any
            || !other.any
                && self.standard & other.standard == other.standard
                && other.others.iter().all(|method| self.others.contains(method))
    }

    /// The methods named, as a list's text: the value of `Allow`.
    pub(crate) fn list(&self) -> String {
        let standard = STANDARD.iter().enumerate().filter(|(position, _)| self.standard & (1 << position) != 0);
        let names: Vec<_> = standard.map(|(_, method)| method).chain(&self.others).map(Method::as_str).collect();
        names.join(", ")
    }
}

fn bit(method: &Method) -> Option<u16> {
    STANDARD.iter().position(|standard| standard == method).map(|position| 1 << position)
}

/// Parses a method's name. One in lower case is most likely a slip, since methods are case-sensitive.
pub(crate) fn method(name: &str, at: &Path, faults: &mut Faults) -> Option<Method> {
    let upper = name.to_ascii_uppercase();
    match Method::from_bytes(name.as_bytes()) {
        Ok(method) if name == upper => Some(method),
        Ok(_) => {
            faults
                .push(Fault::error(at, format!("method {name:?} is not in upper case")).help(format!("write {upper}")));
            None
        }
        Err(_) => {
            faults.error(at, format!("{name:?} is not a method: expected a token such as GET"));
            None
        }
    }
}

/// Scheme, headers and query together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Conditions {
    pub(crate) scheme: Option<Scheme>,
    pub(crate) headers: Box<[(HeaderName, OnHeader)]>,
    pub(crate) query: Box<[(Box<str>, OnQuery)]>,
}

/// A condition on a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OnHeader {
    Exact(HeaderValue),
    Prefix(Box<str>),
    Present(bool),
}

/// A condition on a query parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OnQuery {
    Exact(Box<str>),
    Present(bool),
}

/// A condition that does not hold: for explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing<'c> {
    Scheme(Scheme),
    Header(&'c HeaderName, &'c OnHeader),
    Query(&'c str, &'c OnQuery),
}

impl Conditions {
    pub(crate) fn compile(r#match: &Match, at: &Path, faults: &mut Faults) -> Self {
        let scheme = r#match.scheme.map(|scheme| match scheme {
            SchemeName::Http => Scheme::Http,
            SchemeName::Https => Scheme::Https,
        });
        let mut headers = Vec::with_capacity(r#match.headers.len());
        let mut seen = Vec::new();
        for (name, condition) in &r#match.headers {
            let at = at.key("headers").key(name);
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                faults.error(&at, format!("{name:?} is not a header field's name"));
                continue;
            };
            if seen.contains(&name) {
                faults.error(&at, format!("header field {name} has two conditions that differ only in case"));
                continue;
            }
            seen.push(name.clone());
            if name == http::header::HOST {
                faults.push(Fault::error(&at, "the host is not a header condition").help("use match.host"));
                continue;
            }
            let condition = match condition {
                HeaderCondition::Exact(value) => match HeaderValue::from_str(value) {
                    Ok(value) => OnHeader::Exact(value),
                    Err(_) => {
                        faults.error(&at, format!("{value:?} cannot be a header field's value"));
                        continue;
                    }
                },
                HeaderCondition::Prefix(prefix) => OnHeader::Prefix(prefix.as_str().into()),
                HeaderCondition::Present(present) => OnHeader::Present(*present),
            };
            headers.push((name, condition));
        }
        let mut query = Vec::with_capacity(r#match.query.len());
        for (name, condition) in &r#match.query {
            let condition = match condition {
                QueryCondition::Exact(value) => OnQuery::Exact(value.as_str().into()),
                QueryCondition::Present(present) => OnQuery::Present(*present),
            };
            query.push((name.as_str().into(), condition));
        }
        Self { scheme, headers: headers.into(), query: query.into() }
    }

    pub(crate) fn count(&self) -> usize {
        usize::from(self.scheme.is_some()) + self.headers.len() + self.query.len()
    }

    pub(crate) fn hold(&self, request: &RequestView<'_>) -> bool {
        self.failing(request).next().is_none()
    }

    /// The conditions that do not hold.
    pub(crate) fn failing<'c>(&'c self, request: &RequestView<'_>) -> impl Iterator<Item = Failing<'c>> {
        let scheme = self.scheme.filter(|&scheme| scheme != request.scheme).map(Failing::Scheme);
        let headers = self.headers.iter().filter(|(name, condition)| !condition.holds(name, request.headers));
        let query = self.query.iter().filter(|(name, condition)| !condition.holds(name, request.query));
        scheme
            .into_iter()
            .chain(headers.map(|(name, condition)| Failing::Header(name, condition)))
            .chain(query.map(|(name, condition)| Failing::Query(name, condition)))
    }

    /// Whether these hold wherever `other` do: every condition here follows from one there.
    pub(crate) fn follow_from(&self, other: &Self) -> bool {
        let headers = |(name, condition): &(HeaderName, OnHeader)| {
            other.headers.iter().any(|(other_name, other)| name == other_name && condition.follows_from(other))
        };
        let query = |(name, condition): &(Box<str>, OnQuery)| {
            other.query.iter().any(|(other_name, other)| name == other_name && condition.follows_from(other))
        };
        (self.scheme.is_none() || self.scheme == other.scheme)
            && self.headers.iter().all(headers)
            && self.query.iter().all(query)
    }
}

impl OnHeader {
    fn holds(&self, name: &HeaderName, headers: &HeaderMap) -> bool {
        match self {
            Self::Exact(expected) => headers.get_all(name).iter().any(|value| value == expected),
            Self::Prefix(prefix) => headers.get_all(name).iter().any(|v| v.as_bytes().starts_with(prefix.as_bytes())),
            Self::Present(present) => headers.contains_key(name) == *present,
        }
    }

    fn follows_from(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present(true), Self::Exact(_) | Self::Prefix(_)) => true,
            (Self::Prefix(short), Self::Exact(whole)) => whole.as_bytes().starts_with(short.as_bytes()),
            (Self::Prefix(short), Self::Prefix(long)) => long.starts_with(&**short),
            _ => self == other,
        }
    }
}

impl OnQuery {
    fn holds(&self, name: &str, query: Option<&str>) -> bool {
        let mut named = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .filter(|(key, _)| decodes_to(key, name));
        match self {
            Self::Exact(expected) => named.any(|(_, value)| decodes_to(value, expected)),
            Self::Present(present) => named.next().is_some() == *present,
        }
    }

    fn follows_from(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Present(true), Self::Exact(_))) || self == other
    }
}

/// Whether a piece of a query is `plain` once decoded as a form is (`%41` and `+`), without building the decoded text.
/// A `%` without two digits stands for itself, as in the URL standard.
fn decodes_to(encoded: &str, plain: &str) -> bool {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (mut encoded, mut plain) = (encoded.as_bytes(), plain.as_bytes());
    while let Some((&first, rest)) = encoded.split_first() {
        let (decoded, rest) = match (first, hex(rest.first()), hex(rest.get(1))) {
            (b'%', Some(high), Some(low)) => ((high * 16 + low) as u8, &rest[2..]),
            (b'+', ..) => (b' ', rest),
            _ => (first, rest),
        };
        match plain.split_first() {
            Some((&expected, after)) if expected == decoded => plain = after,
            _ => return false,
        }
        encoded = rest;
    }
    plain.is_empty()
}

impl std::fmt::Display for Failing<'_> {
    /// As the rest of a sentence that begins with the route.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Scheme(scheme) => write!(f, "wants the scheme {}", scheme.as_str()),
            Self::Header(name, OnHeader::Exact(value)) => write!(f, "wants the header {name} to be {value:?}"),
            Self::Header(name, OnHeader::Prefix(prefix)) => {
                write!(f, "wants the header {name} to begin with {prefix:?}")
            }
            Self::Header(name, OnHeader::Present(true)) => write!(f, "wants a header {name}"),
            Self::Header(name, OnHeader::Present(false)) => write!(f, "wants no header {name}"),
            Self::Query(name, OnQuery::Exact(value)) => write!(f, "wants the query's {name} to be {value:?}"),
            Self::Query(name, OnQuery::Present(true)) => write!(f, "wants {name} in the query"),
            Self::Query(name, OnQuery::Present(false)) => write!(f, "wants no {name} in the query"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn methods(names: &[&str]) -> Methods {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut faults = Faults::new();
        let methods = Methods::compile(&names, &Path::root(), &mut faults);
        assert!(faults.is_empty());
        methods
    }

    #[test]
    fn get_includes_head_and_other_methods_are_kept() {
        let some = methods(&["PURGE", "GET"]);
        assert!(some.allow(&Method::HEAD) && some.allow(&Method::from_bytes(b"PURGE").unwrap()));
        assert!(!some.allow(&Method::POST) && !some.any());
        assert_eq!(some.list(), "GET, HEAD, PURGE");
        assert!(methods(&[]).cover(&some) && !some.cover(&methods(&[])) && some.cover(&methods(&["HEAD"])));
    }

    #[test]
    fn a_method_in_lower_case_is_a_fault_that_names_its_mend() {
        let mut faults = Faults::new();
        Methods::compile(&["get".into(), "a b".into()], &Path::root().key("methods"), &mut faults);
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults[0], "methods[0]: method \"get\" is not in upper case (write GET)");
        assert_eq!(faults.len(), 2);
    }

    #[test]
    fn a_query_is_compared_decoded() {
        let exact = |value: &str| OnQuery::Exact(value.into());
        assert!(exact("a b&").holds("ä", Some("x=1&%C3%A4=a+b%26")));
        assert!(exact("").holds("flag", Some("flag")) && exact("%").holds("p", Some("p=%")));
        assert!(!exact("1").holds("v", Some("v=12&w=1")) && !exact("1").holds("v", None));
        assert!(OnQuery::Present(false).holds("v", Some("w")) && !OnQuery::Present(true).holds("v", Some("&&")));
    }

    #[test]
    fn one_of_several_values_is_enough() {
        let name = HeaderName::from_static("x-v");
        let headers: HeaderMap =
            [(name.clone(), HeaderValue::from_static("1")), (name.clone(), HeaderValue::from_static("23"))]
                .into_iter()
                .collect();
        assert!(OnHeader::Exact(HeaderValue::from_static("23")).holds(&name, &headers));
        assert!(OnHeader::Prefix("2".into()).holds(&name, &headers));
        assert!(!OnHeader::Exact(HeaderValue::from_static("2")).holds(&name, &headers));
        assert!(!OnHeader::Present(false).holds(&name, &headers));
    }
}

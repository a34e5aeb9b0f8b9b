//! Templates of new paths, filled with what a route's path pattern captured.

use std::borrow::Cow;
use std::ops::Range;

use sluice_vocabulary::{Fault, Faults, Path};
use smallvec::SmallVec;

use crate::path::{PathPattern, is_capture_name, literal_fault};

/// What a pattern captured from one path: positions only, so that nothing is allocated for a handful.
#[derive(Debug, Clone, Default)]
pub(crate) struct Captures {
    ranges: SmallVec<[Range<u32>; 4]>,
    /// Where the part begins that a final `*` stands for.
    rest: usize,
}

impl Captures {
    /// Of a path that the pattern is for.
    pub(crate) fn of(pattern: &PathPattern, path: &str) -> Self {
        let mut ranges = SmallVec::new();
        // Paths are far shorter than 4 GiB: a whole header is.
        let rest = pattern.walk(path, |range| ranges.push(range.start as u32..range.end as u32));
        Self { ranges, rest: rest.unwrap_or(path.len()) }
    }

    /// The capture at `position`, from the left; nothing of a path that is shorter than the one it was captured from.
    pub(crate) fn get<'p>(&self, position: usize, path: &'p str) -> &'p str {
        let range = self.ranges.get(position);
        range.and_then(|range| path.get(range.start as usize..range.end as usize)).unwrap_or_default()
    }

    /// What the final `*` stands for: empty, or beginning with a slash.
    pub(crate) fn rest<'p>(&self, path: &'p str) -> &'p str {
        path.get(self.rest..).unwrap_or_default()
    }
}

/// A path to be made.
#[derive(Debug)]
pub(crate) struct Template {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    /// By its position in the pattern, from the left.
    Capture(usize),
    Rest,
}

impl Template {
    /// Compiles a template that is to be filled from `pattern`.
    pub(crate) fn compile(text: &str, pattern: &PathPattern, at: &Path, faults: &mut Faults) -> Option<Self> {
        let before = faults.iter().count();
        if !text.starts_with('/') {
            faults.error(at, format!("path {text:?} does not begin with a slash"));
        }
        let (mut left, rest) = match text.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (text, false),
        };
        if rest && !matches!(pattern, PathPattern::Prefix(_)) {
            faults.push(
                Fault::error(at, format!("{text:?} ends in *, and the route's path {pattern} does not"))
                    .help("end match.path in /* as well"),
            );
        }
        let mut parts = Vec::new();
        while let Some((literal, after)) = left.split_once('{') {
            push_literal(literal, text, &mut parts, at, faults);
            let Some((name, after)) = after.split_once('}').filter(|(name, _)| is_capture_name(name)) else {
                faults.error(at, format!("{text:?} has a brace that is no capture: expected the form {{name}}"));
                return None;
            };
            match pattern.capture_names().position(|known| known == name) {
                Some(position) => parts.push(Part::Capture(position)),
                None => faults.push(Fault::error(at, format!("the route's path captures no {name:?}")).help(
                    match pattern.capture_names().collect::<Vec<_>>().join(", ") {
                        names if names.is_empty() => format!("{pattern} captures nothing"),
                        names => format!("{pattern} captures {names}"),
                    },
                )),
            }
            left = after;
        }
        push_literal(left, text, &mut parts, at, faults);
        if rest {
            parts.push(Part::Rest);
        }
        (faults.iter().count() == before).then(|| Self { text: text.into(), parts: parts.into() })
    }

    /// The template as written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Fills it. Borrows where nothing is to be filled in. The result begins with exactly one slash, since two would make
    /// a host of what follows, wherever the path is read as a reference.
    pub(crate) fn fill(&self, path: &str, captures: &Captures) -> Cow<'_, str> {
        if let [Part::Text(whole)] = &*self.parts {
            return Cow::Borrowed(whole);
        }
        let mut filled = String::with_capacity(self.text.len() + path.len());
        for part in &self.parts {
            filled.push_str(match part {
                Part::Text(text) => text,
                Part::Capture(position) => captures.get(*position, path),
                Part::Rest => captures.rest(path),
            });
        }
        let slashes = filled.bytes().take_while(|&byte| byte == b'/').count();
        match slashes {
            0 => filled.insert(0, '/'),
            1 => {}
            _ => drop(filled.drain(1..slashes)),
        }
        Cow::Owned(filled)
    }
}

fn push_literal(literal: &str, whole: &str, parts: &mut Vec<Part>, at: &Path, faults: &mut Faults) {
    if let Some(wrong) = literal_fault(literal) {
        faults.error(at, format!("{whole:?} {wrong}"));
    } else if literal.starts_with("//") {
        faults.error(at, format!("{whole:?} begins with two slashes, which would name a host"));
    } else if literal.split('/').any(|segment| matches!(segment, "." | "..")) {
        faults.error(at, format!("{whole:?} has a dot segment"));
    } else if !literal.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn filled(template: &str, pattern: &str, path: &str) -> Result<String, Vec<String>> {
        let mut faults = Faults::new();
        let pattern = PathPattern::compile(pattern, &Path::root(), &mut faults).unwrap();
        let template = Template::compile(template, &pattern, &Path::root(), &mut faults);
        match template {
            Some(template) => Ok(template.fill(path, &Captures::of(&pattern, path)).into_owned()),
            None => Err(faults.iter().map(|fault| fault.message.clone()).collect()),
        }
    }

    #[test]
    fn captures_and_the_rest_are_filled_in() {
        assert_eq!(filled("/v2/{b}/of-{a}.json", "/{a}/x/{b}", "/1/x/2%2F").unwrap(), "/v2/2%2F/of-1.json");
        for (path, expected) in [("/v1", "/v2"), ("/v1/", "/v2/"), ("/v1/a/b", "/v2/a/b")] {
            assert_eq!(filled("/v2/*", "/v1/*", path).unwrap(), expected);
        }
        assert_eq!(filled("/*", "/v1/*", "/v1").unwrap(), "/");
        assert_eq!(filled("/fixed", "/v1/*", "/v1/a").unwrap(), "/fixed");
    }

    #[test]
    fn a_clients_slashes_cannot_name_a_host() {
        assert_eq!(filled("/*", "/old/*", "/old//evil.example/x").unwrap(), "/evil.example/x");
    }

    #[test]
    fn a_template_asks_only_for_what_its_route_captures() {
        for (template, pattern) in [
            ("/{b}", "/{a}"),
            ("/a/*", "/b"),
            ("x", "/b"),
            ("/{", "/b"),
            ("/}", "/b"),
            ("/a b", "/b"),
            ("/a?x", "/b"),
            ("//a", "/b"),
            ("/a/../b", "/b"),
            ("/*/a", "/b/*"),
        ] {
            assert_eq!(filled(template, pattern, "/b").unwrap_err().len(), 1, "{template}");
        }
    }
}

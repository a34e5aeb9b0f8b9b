//! What a phase asks for beside changes of a header: another upstream, tags. Takes hold when the phase succeeds.

use sluice_vocabulary::UpstreamName;
use smallvec::SmallVec;

use crate::host::is_metric_name;

/// Tags that one request may have.
pub(crate) const MOST_TAGS: usize = 8;
/// Bytes of a tag's value.
const LONGEST_TAG: usize = 128;

/// What the plugins that a request has passed asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    upstream: Option<UpstreamName>,
    tags: SmallVec<[(Box<str>, Box<str>); 1]>,
}

impl Effects {
    /// The upstream to go to in place of the route's own.
    pub const fn upstream(&self) -> Option<&UpstreamName> {
        self.upstream.as_ref()
    }

    /// Names and values for the request's access record; no name twice.
    pub fn tags(&self) -> &[(Box<str>, Box<str>)] {
        &self.tags
    }

    /// How many tags there are.
    pub(crate) fn tag_count(&self) -> usize {
        self.tags.len()
    }

    pub(crate) fn choose(&mut self, upstream: UpstreamName) {
        self.upstream = Some(upstream);
    }

    /// Puts a tag, where the request has `before` of them from other phases already.
    pub(crate) fn tag(&mut self, name: &str, value: &str, before: usize) -> bool {
        if !is_metric_name(name) || value.len() > LONGEST_TAG || value.chars().any(char::is_control) {
            return false;
        }
        let has_room = before + self.tags.len() < MOST_TAGS;
        match self.tags.iter_mut().find(|(known, _)| **known == *name) {
            Some((_, known)) => *known = value.into(),
            None if has_room => self.tags.push((name.into(), value.into())),
            None => return false,
        }
        true
    }

    /// What a later phase asked for counts over what an earlier one did.
    pub fn add(&mut self, later: Self) {
        if later.upstream.is_some() {
            self.upstream = later.upstream;
        }
        for (name, value) in later.tags {
            match self.tags.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None => self.tags.push((name, value)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_few_short_and_named_like_metrics() {
        let mut effects = Effects::default();
        assert!(effects.tag("plan", "gold", 0) && effects.tag("plan", "silver", 0));
        assert_eq!(effects.tags(), [("plan".into(), "silver".into())]);
        for (name, value) in [("", "v"), ("Plan", "v"), ("a-b", "v"), ("a", "x\ny"), ("a", &"v".repeat(129))] {
            assert!(!effects.tag(name, value, 0), "{name:?} {value:?}");
        }
        assert!((1..MOST_TAGS).all(|n| effects.tag(&format!("t{n}"), "v", 0)));
        assert!(!effects.tag("more", "v", 0) && effects.tag("plan", "bronze", 0));
        assert!(!Effects::default().tag("more", "v", MOST_TAGS));
    }

    #[test]
    fn the_last_choice_counts() {
        let choice = |name: &str| UpstreamName::new(name).ok();
        let mut first = Effects { upstream: choice("a"), ..Effects::default() };
        first.tag("k", "1", 0);
        let mut later = Effects::default();
        later.tag("k", "2", 0);
        first.add(later);
        assert_eq!((first.upstream(), first.tags()), (choice("a").as_ref(), &[("k".into(), "2".into())][..]));
        first.add(Effects { upstream: choice("b"), ..Effects::default() });
        assert_eq!(first.upstream(), choice("b").as_ref());
    }
}

//! The scopes that a route asks for, compiled once; a token's scopes are held against all of them in one walk.
//!
//! A scope is an opaque text, compared whole and by case (RFC 6749 section 3.3). On a route that says `hierarchical` it is
//! a path, its segments parted by colons, and a segment `*` is a wildcard, in what the route asks for and in what the token
//! was granted:
//!
//! ```text
//! tenant:prod:*      as the last segment: one or more segments
//! tenant:*:read      before: exactly one segment
//! tenant:pr*         anywhere else: the character
//! ```
//!
//! A scope with wildcards stands for all the scopes that it covers. A granted scope meets one that is asked for where some
//! scope is covered by both. So `tenant:prod:*` in a route means any scope below `tenant:prod`, and in a token every one.
//! A scope with an empty segment (`a::b`, `a:`) is no path: it is compared whole, and no wildcard covers it.
//!
//! The textbook's trie has a node for each prefix and, given wildcards, a walk that is in many nodes at once. Here the
//! nodes of one depth are one table, from a segment to the set of scopes that have it there, and a set of scopes is one
//! machine word. The walk keeps the scopes that agree so far: one look-up and a few bit operations for each segment,
//! however many scopes the route has, so that its cost is linear in the bytes of the token's scopes. It allocates nothing.
//!
//! Most walks are spared. Where neither side has a wildcard, two scopes meet if they are the same text, which one look-up
//! tells. So a granted scope without wildcards, as nearly all are, walks among the route's scopes with wildcards alone.

use sluice_vocabulary::{Fault, Faults, Path};

use crate::config::Scopes;
use crate::marks::mark;

/// The most scopes that one route may name, over all its lists: each is a bit.
const MOST: usize = 64;

/// The longest scope that a route may name, in bytes.
const LONGEST: usize = 256;

/// The most segments of a hierarchical scope that a route may name.
const DEEPEST: usize = 16;

/// What `all` and `any` may hold in bytes: a challenge names them, and header fields much longer are refused by clients.
const MOST_TOLD: usize = 4096;

/// Texts in a table that is not searched but looked through.
const FEW: usize = 8;

/// Scopes of a route, each a bit by its position.
type Set = u64;

/// Whether a token's scopes are what a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They are.
    Enough,
    /// One that is needed is not there.
    Missing,
    /// One that must not be there is.
    Forbidden,
}

/// A route's scopes, compiled.
#[derive(Debug, Default)]
pub(crate) struct ScopeRules {
    all: Set,
    any: Set,
    none: Set,
    /// A bit for each byte that what meets a scope may begin with, see [`begins_with`]: most scopes that are granted for
    /// other routes are told by it.
    begin: u64,
    /// All scopes, as whole texts.
    whole: Table,
    /// Scopes that are paths, by depth. Empty where the route is not hierarchical.
    paths: Box<[Level]>,
    /// Those of them that have wildcards.
    wild: Box<[Level]>,
}

/// From a text to the scopes that have it.
#[derive(Debug, Default)]
struct Table {
    /// A bit for each text, by [`mark`]: what has another is not here, which most texts are told by.
    marks: u64,
    /// By length and then by bytes.
    entries: Box<[(Box<str>, Set)]>,
}

/// The nodes of one depth.
#[derive(Debug, Default)]
struct Level {
    /// By what is not a wildcard.
    named: Table,
    /// Scopes with a wildcard here for exactly one segment.
    one: Set,
    /// Scopes that end here, with a wildcard for all that remains.
    rest: Set,
    /// Scopes that end here, with a name.
    end: Set,
    /// Scopes that have any segment here.
    here: Set,
}

impl ScopeRules {
    /// Compiles validated lists.
    pub(crate) fn new(scopes: &Scopes) -> Self {
        let mut rules = Self::default();
        let (mut whole, mut paths, mut wild) = (Vec::new(), Trie::new(), Trie::new());
        let lists = [(&scopes.all, &mut rules.all), (&scopes.any, &mut rules.any), (&scopes.none, &mut rules.none)];
        let mut bit: Set = 1;
        for (list, set) in lists {
            for scope in list {
                *set |= bit;
                rules.begin |= begins_with(scope);
                whole.push((scope.as_str(), bit));
                if scopes.hierarchical && Shape::of(scope).is_path {
                    add_path(&mut paths, scope, bit);
                    if scope.split(':').any(|segment| segment == "*") {
                        add_path(&mut wild, scope, bit);
                    }
                }
                bit = bit.wrapping_shl(1);
            }
        }
        let levels = |trie: Trie<'_>| {
            trie.into_iter().map(|(named, level)| Level { named: Table::new(named), ..level }).collect()
        };
        if paths.first().is_some_and(|(_, level)| level.one | level.rest != 0) {
            rules.begin = u64::MAX;
        } else if !paths.is_empty() {
            rules.begin |= begins_with("*");
        }
        rules.whole = Table::new(whole);
        rules.paths = levels(paths);
        rules.wild = levels(wild);
        rules
    }

    /// Judges the scopes granted.
    pub(crate) fn judge<'s>(&self, granted: impl IntoIterator<Item = &'s str>) -> Verdict {
        let mut met = 0;
        for scope in granted {
            // With nothing forbidden to look for, enough is enough.
            if self.none == 0 && self.is_enough(met) {
                return Verdict::Enough;
            }
            met |= self.met_by(scope);
            if met & self.none != 0 {
                return Verdict::Forbidden;
            }
        }
        if self.is_enough(met) { Verdict::Enough } else { Verdict::Missing }
    }

    fn is_enough(&self, met: Set) -> bool {
        met & self.all == self.all && (self.any == 0 || met & self.any != 0)
    }

    /// The scopes asked for that `granted` meets.
    fn met_by(&self, granted: &str) -> Set {
        if self.begin & begins_with(granted) == 0 {
            return 0;
        }
        let same = self.whole.find(granted);
        if self.paths.is_empty() {
            return same;
        }
        let shape = Shape::of(granted);
        if !shape.is_path {
            return same;
        }
        same | walk(if shape.may_be_wild { &self.paths } else { &self.wild }, granted)
    }
}

/// One bit of 64 by the first byte.
fn begins_with(text: &str) -> u64 {
    1 << (text.as_bytes().first().copied().unwrap_or(0) % 64)
}

/// What one look at a scope tells.
struct Shape {
    /// No segment is empty.
    is_path: bool,
    /// There is a `*` in it.
    may_be_wild: bool,
}

impl Shape {
    fn of(scope: &str) -> Self {
        // What stands before the first byte and after the last counts as a colon. Without an early end: most are short.
        let (mut after_colon, mut has_empty, mut has_star) = (true, false, false);
        for byte in scope.bytes() {
            let colon = byte == b':';
            has_empty |= colon & after_colon;
            has_star |= byte == b'*';
            after_colon = colon;
        }
        Self { is_path: !(has_empty | after_colon), may_be_wild: has_star }
    }
}

/// The scopes of `levels` that agree with `granted`, which is a path.
fn walk(levels: &[Level], granted: &str) -> Set {
    let (mut met, mut agreeing) = (0, Set::MAX);
    let mut rest = Some(granted);
    for level in levels {
        let Some(text) = rest else { break };
        let (segment, after) = split(text);
        rest = after;
        if segment == "*" && rest.is_none() {
            return met | agreeing & level.here;
        }
        met |= agreeing & level.rest;
        agreeing &= if segment == "*" { level.here & !level.rest } else { level.one | level.named.find(segment) };
        if rest.is_none() {
            return met | agreeing & level.end;
        }
        if agreeing == 0 {
            break;
        }
    }
    met
}

/// The first segment, and what follows its colon.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.bytes().position(|byte| byte == b':') {
        Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
        None => (text, None),
    }
}

/// Levels being made, each with the names that its table is made of.
type Trie<'s> = Vec<(Vec<(&'s str, Set)>, Level)>;

fn add_path<'s>(levels: &mut Trie<'s>, scope: &'s str, bit: Set) {
    let mut rest = Some(scope);
    let mut depth = 0;
    while let Some(text) = rest {
        let (segment, after) = split(text);
        rest = after;
        if levels.len() == depth {
            levels.push(Default::default());
        }
        let (named, level) = &mut levels[depth];
        level.here |= bit;
        match (segment, rest) {
            ("*", None) => level.rest |= bit,
            ("*", Some(_)) => level.one |= bit,
            (name, rest) => {
                named.push((name, bit));
                level.end |= if rest.is_none() { bit } else { 0 };
            }
        }
        depth += 1;
    }
}

impl Table {
    /// Sorts, and joins what is there twice.
    fn new(mut entries: Vec<(&str, Set)>) -> Self {
        entries.sort_by(|(a, _), (b, _)| by_length(a, b));
        entries.dedup_by(|(later, bits), (kept, all)| {
            let same = later == kept;
            *all |= if same { *bits } else { 0 };
            same
        });
        let marks = entries.iter().fold(0, |marks, (text, _)| marks | mark(text));
        Self { marks, entries: entries.into_iter().map(|(text, set)| (text.into(), set)).collect() }
    }

    fn find(&self, text: &str) -> Set {
        if self.marks & mark(text) == 0 {
            return 0;
        }
        // Few are looked through faster than searched, since most differ in length.
        if self.entries.len() <= FEW {
            return self.entries.iter().find(|(own, _)| **own == *text).map_or(0, |(_, set)| *set);
        }
        self.entries.binary_search_by(|(own, _)| by_length(own, text)).map_or(0, |at| self.entries[at].1)
    }
}

fn by_length(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Reports every fault of a route's scopes.
pub(crate) fn validate(scopes: &Scopes, at: &Path, faults: &mut Faults) {
    let lists = [("all", &scopes.all), ("any", &scopes.any), ("none", &scopes.none)];
    let before = faults.iter().count();
    for (name, list) in lists {
        for (index, scope) in list.iter().enumerate() {
            validate_scope(scope, scopes.hierarchical, &at.key(name).index(index), faults);
        }
    }
    let count: usize = lists.iter().map(|(_, list)| list.len()).sum();
    if count > MOST {
        faults.error(at, format!("{count} scopes: a route may name at most {MOST}"));
    }
    let told: usize = scopes.all.iter().chain(&scopes.any).map(String::len).sum();
    if told > MOST_TOLD {
        faults.error(at, format!("all and any hold {told} bytes: at most {MOST_TOLD} fit into a challenge"));
    }
    if scopes.hierarchical && count == 0 {
        faults.warning(&at.key("hierarchical"), "no scope is named: this has no effect");
    }
    if faults.iter().skip(before).any(|fault| fault.severity == sluice_vocabulary::Severity::Error) {
        return;
    }
    warn_of_contradictions(scopes, at, faults);
}

fn validate_scope(scope: &str, hierarchical: bool, at: &Path, faults: &mut Faults) {
    if !is_scope(scope) {
        return faults.error(
            at,
            format!("{scope:?} is not a scope: expected printable ASCII without space, \" and \\ (RFC 6749)"),
        );
    }
    if scope.len() > LONGEST {
        return faults.error(at, format!("a scope of {} bytes: at most {LONGEST} are taken", scope.len()));
    }
    let segments = || scope.split(':');
    let has_wildcard = segments().any(|segment| segment == "*");
    if !hierarchical {
        if has_wildcard {
            let warning = Fault::warning(at, format!("{scope} is compared as it stands: only that very text meets it"));
            faults.push(warning.help("set hierarchical: true to have * stand for other scopes"));
        }
        return;
    }
    if segments().count() > DEEPEST {
        faults.error(at, format!("{scope} has {} segments: at most {DEEPEST} are taken", segments().count()));
    }
    if has_wildcard && !Shape::of(scope).is_path {
        faults.error(at, format!("{scope} has a wildcard and an empty segment: no scope could meet it"));
    } else if segments().any(|segment| segment.len() > 1 && segment.contains('*')) {
        faults.warning(at, format!("a * within a longer segment of {scope} is a plain character, not a wildcard"));
    }
}

/// Scopes that can only be met by what is forbidden.
fn warn_of_contradictions(scopes: &Scopes, at: &Path, faults: &mut Faults) {
    let forbidden =
        ScopeRules::new(&Scopes { none: scopes.none.clone(), hierarchical: scopes.hierarchical, ..Scopes::default() });
    let stars = |scope: &str| scopes.hierarchical && scope.split(':').any(|segment| segment == "*");
    // What meets a scope without wildcards covers it, and so meets whatever forbids it. One with wildcards may be met by
    // a part of it that is not forbidden.
    let contradicts = |scope: &String| !stars(scope) && forbidden.judge([scope.as_str()]) == Verdict::Forbidden;
    for (index, scope) in scopes.all.iter().enumerate().filter(|(_, scope)| contradicts(scope)) {
        let here = at.key("all").index(index);
        faults.warning(&here, format!("{scope} is forbidden by none as well: no token can meet both"));
    }
    if !scopes.any.is_empty() && scopes.any.iter().all(contradicts) {
        faults.warning(&at.key("any"), "each of these is forbidden by none as well: no token can meet both");
    }
}

/// A scope-token of RFC 6749 section 3.3.
fn is_scope(scope: &str) -> bool {
    !scope.is_empty() && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn all(required: &str, hierarchical: bool) -> ScopeRules {
        ScopeRules::new(&Scopes { all: owned(&[required]), hierarchical, ..Scopes::default() })
    }

    /// The documented meaning, word by word.
    fn naive(required: &str, granted: &str) -> bool {
        fn agree(a: &[&str], b: &[&str]) -> bool {
            match (a, b) {
                ([], []) => true,
                ([], _) | (_, []) => false,
                (["*"], _) | (_, ["*"]) => true,
                ([a, rest @ ..], [b, others @ ..]) => (a == b || *a == "*" || *b == "*") && agree(rest, others),
            }
        }
        let (a, b): (Vec<_>, Vec<_>) = (required.split(':').collect(), granted.split(':').collect());
        if a.contains(&"") || b.contains(&"") { required == granted } else { agree(&a, &b) }
    }

    #[test]
    fn a_wildcard_covers_one_segment_in_the_middle_and_one_or_more_at_the_end() {
        for (required, granted, expected) in [
            ("tenant:prod:api:read", "tenant:prod:api:*", true),
            ("tenant:prod:api:read:own", "tenant:prod:api:*", true),
            ("tenant:prod:api", "tenant:prod:api:*", false),
            ("tenant:prod:api", "*", true),
            ("tenant:prod:api", "tenant:*:api", true),
            ("tenant:prod:eu:api", "tenant:*:api", false),
            ("tenant:prod:*", "tenant:prod:api", true),
            ("tenant:prod:*", "tenant:prod:api:read", true),
            ("tenant:prod:*", "tenant:prod", false),
            ("tenant:prod:*", "tenant:dev:api", false),
            ("tenant:*:read", "tenant:prod:*", true),
            ("tenant:*:read", "tenant:prod:write", false),
            ("tenant:prod", "tenant:pr*", false),
            ("tenant:pr*", "tenant:prod", false),
            ("tenant:*", "tenant:", false),
            ("tenant:*", "tenant:a:", false),
            ("tenant:*", "tenant::a", false),
            ("tenant::a", "tenant:*:a", false),
            ("tenant::a", "tenant::a", true),
            ("*", "anything", true),
            ("*", "", false),
        ] {
            let verdict = all(required, true).judge([granted]);
            assert_eq!(verdict == Verdict::Enough, expected, "{required} by {granted}");
            assert_eq!(naive(required, granted), expected, "{required} by {granted}, naively");
        }
    }

    #[test]
    fn without_hierarchy_a_wildcard_is_a_text_like_any_other() {
        for (required, granted, expected) in [
            ("orders:read", "orders:*", false),
            ("orders:read", "*", false),
            ("orders:*", "orders:read", false),
            ("orders:*", "orders:*", true),
        ] {
            assert_eq!(all(required, false).judge([granted]) == Verdict::Enough, expected, "{required} by {granted}");
        }
    }

    #[test]
    fn one_forbidden_scope_outweighs_all_others() {
        let rules = |hierarchical| {
            ScopeRules::new(&Scopes {
                all: owned(&["orders:read"]),
                any: owned(&["eu", "us"]),
                none: owned(&["orders:debug", "suspended"]),
                hierarchical,
            })
        };
        for hierarchical in [false, true] {
            let judge = |granted: &[&str]| rules(hierarchical).judge(granted.iter().copied());
            assert_eq!(judge(&["orders:read", "us"]), Verdict::Enough);
            assert_eq!(judge(&["orders:read", "us", "x", "suspended"]), Verdict::Forbidden);
            assert_eq!(judge(&["suspended"]), Verdict::Forbidden);
            assert_eq!(judge(&["orders:read"]), Verdict::Missing);
            assert_eq!(judge(&["us"]), Verdict::Missing);
            assert_eq!(judge(&[]), Verdict::Missing);
        }
        // Whoever is granted everything is granted what is forbidden.
        assert_eq!(rules(true).judge(["orders:*", "us"]), Verdict::Forbidden);
        assert_eq!(rules(false).judge(["orders:*", "us"]), Verdict::Missing);
    }

    #[test]
    fn the_same_scope_in_two_lists_counts_in_both() {
        let scopes = Scopes { all: owned(&["a", "b"]), any: owned(&["b", "c"]), ..Scopes::default() };
        for hierarchical in [false, true] {
            let rules = ScopeRules::new(&Scopes { hierarchical, ..scopes.clone() });
            assert_eq!(rules.judge(["a", "b"]), Verdict::Enough);
            assert_eq!(rules.judge(["b"]), Verdict::Missing);
        }
    }

    #[test]
    fn the_sixty_fourth_scope_counts_like_the_first() {
        let names: Vec<_> = (0..MOST).map(|number| format!("s:{number}")).collect();
        for hierarchical in [false, true] {
            let rules = ScopeRules::new(&Scopes { all: names.clone(), hierarchical, ..Scopes::default() });
            assert_eq!(rules.judge(names.iter().map(String::as_str)), Verdict::Enough);
            for left_out in 0..MOST {
                let most = names.iter().enumerate().filter(|(index, _)| *index != left_out);
                assert_eq!(rules.judge(most.map(|(_, name)| name.as_str())), Verdict::Missing, "{left_out}");
            }
        }
    }

    #[test]
    fn hostile_scopes_are_no_match_and_no_trouble() {
        let rules = ScopeRules::new(&Scopes {
            all: owned(&["a:*:c", "a:b", "x:*"]),
            none: owned(&["forbidden:*"]),
            hierarchical: true,
            ..Scopes::default()
        });
        let (colons, stars, long) = (":".repeat(60_000), "*:".repeat(30_000), "a".repeat(60_000));
        let (deep, nearly) = ("a:".repeat(30_000), format!("x:{}", "y:".repeat(30_000)));
        let many: Vec<_> = (0..30_000).map(|number| format!("{number}")).collect();
        let granted = [&colons, &stars, &long, &deep, &nearly].map(String::as_str);
        assert_eq!(rules.judge(granted.into_iter().chain(many.iter().map(String::as_str))), Verdict::Missing);
    }

    fn scope() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![3 => "[ab]", 1 => Just("ab".to_owned()), 2 => Just("*".to_owned()), 1 => Just(String::new())],
            1..6,
        )
        .prop_map(|segments| segments.join(":"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_compiled_rules_decide_as_a_naive_matcher_does(
            all in proptest::collection::vec(scope(), 0..4),
            any in proptest::collection::vec(scope(), 0..4),
            none in proptest::collection::vec(scope(), 0..3),
            granted in proptest::collection::vec(scope(), 0..6),
            hierarchical: bool,
        ) {
            let meets = |required: &String| granted.iter().any(|granted| match hierarchical {
                true => naive(required, granted),
                false => required == granted,
            });
            let expected = if none.iter().any(meets) {
                Verdict::Forbidden
            } else if all.iter().all(meets) && (any.is_empty() || any.iter().any(meets)) {
                Verdict::Enough
            } else {
                Verdict::Missing
            };
            let rules = ScopeRules::new(&Scopes { all, any, none, hierarchical });
            prop_assert_eq!(rules.judge(granted.iter().map(String::as_str)), expected);
        }

        #[test]
        fn no_granted_text_breaks_the_walk(required in scope(), granted in ".{0,40}|[a:*]{0,40}") {
            let expected = naive(&required, &granted);
            prop_assert_eq!(all(&required, true).judge([granted.as_str()]) == Verdict::Enough, expected);
        }
    }
}

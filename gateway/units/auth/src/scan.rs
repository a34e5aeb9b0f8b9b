//! Strict JSON read member by member, without a tree: the rules are those of [`strict_json`](crate::strict_json).
//!
//! It keeps nothing: a member is handed over as a piece of the text, and what stands within it is checked and not built,
//! since headers and claims come with every token. Escapes and numbers near the end of their range are rare, and are left
//! to serde_json. A naive reader takes exactly the same, which properties hold it to.

use std::borrow::Cow;
use std::collections::HashSet;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::marks::mark;
use crate::strict_json::{BadJson, MAX_DEPTH};

/// What is wrong, in words that quote nothing.
type Scanned<T> = Result<T, &'static str>;

/// A string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text<'t> {
    /// Where its content begins in the text that was read.
    pub(crate) at: usize,
    /// Its content; borrowed, so to be found at `at`, where it holds no escapes.
    pub(crate) content: Cow<'t, str>,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item<'t> {
    Text(Text<'t>),
    /// Anything but a string: where it begins, and its JSON.
    Other {
        at: usize,
        json: &'t str,
    },
}

/// Reads an object, whole, and hands over its members in their order. What `each` finds wrong is wrong with the object.
pub(crate) fn members<'t>(
    text: &'t str,
    mut each: impl FnMut(&Text<'t>, Item<'t>) -> Scanned<()>,
) -> Result<(), BadJson> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.whole(b'{', "expected an object", |scanner| scanner.object(MAX_DEPTH - 1, &mut each))
}

/// Reads an array, whole, and hands over its elements.
pub(crate) fn elements<'t>(text: &'t str, mut each: impl FnMut(Item<'t>)) -> Result<(), BadJson> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.whole(b'[', "expected an array", |scanner| scanner.array(MAX_DEPTH - 1, &mut each))
}

struct Scanner<'t> {
    text: &'t str,
    /// The next byte to read.
    at: usize,
}

impl<'t> Scanner<'t> {
    /// What begins with `open`, with nothing but white space around.
    fn whole(
        &mut self,
        open: u8,
        expected: &'static str,
        inner: impl FnOnce(&mut Self) -> Scanned<()>,
    ) -> Result<(), BadJson> {
        self.space();
        let read = if self.take(open) { inner(self) } else { Err(expected) };
        self.space();
        let ends = if self.at == self.text.len() { Ok(()) } else { Err("something after the end") };
        read.and(ends).map_err(|what| BadJson::at(what, self.at))
    }

    /// The rest of an object after its brace; `depth` more levels are allowed within.
    fn object(&mut self, depth: u8, each: &mut impl FnMut(&Text<'t>, Item<'t>) -> Scanned<()>) -> Scanned<()> {
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        let mut names = Names::default();
        loop {
            self.space();
            if !self.take(b'"') {
                return Err("expected a member's name");
            }
            let name = self.string()?;
            if names.has(&name.content) {
                return Err("duplicate member");
            }
            self.space();
            if !self.take(b':') {
                return Err("expected a colon");
            }
            self.space();
            let item = self.item(depth)?;
            each(&name, item)?;
            names.add(name.content);
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err("expected a comma or the object's end");
            }
        }
    }

    /// The rest of an array after its bracket.
    fn array(&mut self, depth: u8, each: &mut impl FnMut(Item<'t>)) -> Scanned<()> {
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.space();
            each(self.item(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(());
            }
            if !self.take(b',') {
                return Err("expected a comma or the array's end");
            }
        }
    }

    fn item(&mut self, depth: u8) -> Scanned<Item<'t>> {
        let at = self.at;
        let deeper = || depth.checked_sub(1).ok_or("nesting deeper than 16");
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                return Ok(Item::Text(self.string()?));
            }
            Some(b'{') => {
                self.at += 1;
                self.object(deeper()?, &mut |_, _| Ok(()))?;
            }
            Some(b'[') => {
                self.at += 1;
                self.array(deeper()?, &mut |_| {})?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => return Err("expected a value"),
        }
        let json = self.text.get(at..self.at).ok_or("expected a value")?;
        Ok(Item::Other { at, json })
    }

    /// The rest of a string after its quote.
    fn string(&mut self) -> Scanned<Text<'t>> {
        let at = self.at;
        match self.plain() {
            Some(b'"') => {
                let content = self.text.get(at..self.at).ok_or("a string that is cut")?;
                self.at += 1;
                Ok(Text { at, content: Cow::Borrowed(content) })
            }
            Some(b'\\') => self.escaped(at),
            Some(_) => Err("control character in a string"),
            None => Err("a string without an end"),
        }
    }

    /// The string that begins at `at` and holds an escape: found here, read by serde_json.
    fn escaped(&mut self, at: usize) -> Scanned<Text<'t>> {
        loop {
            match self.plain() {
                Some(b'"') => break,
                // Whatever is escaped, it does not end the string.
                Some(b'\\') => self.at += 2,
                Some(_) => return Err("control character in a string"),
                None => return Err("a string without an end"),
            }
        }
        self.at += 1;
        let quoted = self.text.get(at - 1..self.at).ok_or("a string that is cut")?;
        let content: String = serde_json::from_str(quoted).map_err(|_| "an escape that means nothing")?;
        Ok(Text { at, content: Cow::Owned(content) })
    }

    /// Goes to the next byte that means something in a string: a quote, a backslash, or a control character.
    fn plain(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(eight) = bytes.get(self.at..).and_then(<[u8]>::first_chunk::<8>) {
            let found = meaningful(u64::from_le_bytes(*eight));
            if found != 0 {
                self.at += found.trailing_zeros() as usize / 8;
                return self.peek();
            }
            self.at += 8;
        }
        while let Some(byte) = self.peek() {
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`, and within the range of a double.
    fn number(&mut self) -> Scanned<()> {
        const BAD: &str = "a number that is none";
        let at = self.at;
        self.take(b'-');
        if !self.take(b'0') && self.digits() == 0 {
            return Err(BAD);
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(BAD);
        }
        let has_exponent = self.take(b'e') || self.take(b'E');
        if has_exponent {
            let _ = self.take(b'+') || self.take(b'-');
            if self.digits() == 0 {
                return Err(BAD);
            }
        }
        // Doubles end beyond 10^308, which so short a number cannot reach by digits alone.
        if has_exponent || self.at - at > 300 {
            let json = self.text.get(at..self.at).ok_or(BAD)?;
            serde_json::from_str::<f64>(json).map_err(|_| "number out of range")?;
        }
        Ok(())
    }

    /// Goes past digits and says how many.
    fn digits(&mut self) -> usize {
        let at = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - at
    }

    fn word(&mut self, word: &str) -> Scanned<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// The high bit of each of eight bytes that is a quote, a backslash or a control character. Where several are, only the
/// lowest is certain, since a borrow may run on from there.
fn meaningful(eight: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let under = |bytes: u64, bound: u64| bytes.wrapping_sub(bound * EACH) & !bytes & HIGH;
    let is = |byte: u8| under(eight ^ (u64::from(byte) * EACH), 1);
    is(b'"') | is(b'\\') | under(eight, 0x20)
}

/// The names of an object so far.
#[derive(Default)]
struct Names<'t> {
    /// The mark of each name: one whose mark is not here is not among them.
    marks: u64,
    few: SmallVec<[Cow<'t, str>; 16]>,
    /// In place of `few` where they are more, so that no object takes quadratic time.
    many: Option<HashSet<Cow<'t, str>, RandomState>>,
}

impl<'t> Names<'t> {
    const FEW: usize = 32;

    fn has(&self, name: &str) -> bool {
        if self.marks & mark(name) == 0 {
            return false;
        }
        match &self.many {
            None => self.few.iter().any(|known| known == name),
            Some(many) => many.contains(name),
        }
    }

    fn add(&mut self, name: Cow<'t, str>) {
        self.marks |= mark(&name);
        match &mut self.many {
            Some(many) => {
                many.insert(name);
            }
            None if self.few.len() == Self::FEW => {
                self.many = Some(self.few.drain(..).chain([name]).collect());
            }
            None => self.few.push(name),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::{naive_json, strict_json};
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    fn object(text: &str) -> Result<Map<String, Value>, BadJson> {
        members(text, |name, item| {
            stands_in(text, name);
            if let Item::Text(content) = &item {
                stands_in(text, content);
            }
            if let Item::Other { at, json } = item {
                assert_eq!(text.get(at..at + json.len()), Some(json));
            }
            Ok(())
        })?;
        strict_json::object(text.as_bytes())
    }

    /// What is borrowed stands where it says.
    fn stands_in(text: &str, part: &Text<'_>) {
        if let Cow::Borrowed(content) = part.content {
            assert_eq!(text.get(part.at..part.at + content.len()), Some(content));
        }
    }

    fn nested(depth: usize) -> String {
        format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    #[test]
    fn duplicates_are_refused_wherever_they_stand_and_however_many_there_are() {
        let many = (0..200).map(|number| format!("\"{number}\":0")).collect::<Vec<_>>().join(",");
        for bad in [
            r#"{"a":1,"a":1}"#.to_owned(),
            r#"{"a":{"b":1,"b":2}}"#.to_owned(),
            r#"{"a":[{"b":1,"\u0062":2}]}"#.to_owned(),
            format!("{{{many},\"7\":0}}"),
            format!("{{{many},\"199\":0}}"),
        ] {
            assert!(object(&bad).unwrap_err().to_string().contains("duplicate member"), "{bad}");
        }
        assert!(object(r#"{"a":{"b":1},"c":{"b":1}}"#).is_ok());
        assert_eq!(object(&format!("{{{many}}}")).unwrap().len(), 200);
    }

    #[test]
    fn nesting_ends_at_sixteen() {
        assert!(object(&nested(16)).is_ok());
        assert!(object(&nested(17)).is_err());
        assert!(object(&nested(100_000)).is_err());
    }

    #[test]
    fn the_elements_of_an_array_are_handed_over_in_their_order() {
        let mut told = Vec::new();
        elements(r#" ["a", 1, ["b"], "\n", {}] "#, |item| {
            told.push(match item {
                Item::Text(text) => text.content.into_owned(),
                Item::Other { json, .. } => json.to_owned(),
            });
        })
        .unwrap();
        assert_eq!(told, ["a", "1", "[\"b\"]", "\n", "{}"]);
        for bad in ["", "[", "{}", "[1,]", "[1] 2", "[1 2]"] {
            assert!(elements(bad, |_| {}).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_byte_that_means_something_in_a_string_is_seen_wherever_it_stands() {
        for at in 0..24 {
            for byte in 0..=0x7f_u8 {
                let mut text = "x".repeat(24).into_bytes();
                text[at] = byte;
                let text = String::from_utf8(text).unwrap();
                let mut scanner = Scanner { text: &text, at: 0 };
                let means_something = byte < 0x20 || byte == b'"' || byte == b'\\';
                assert_eq!(scanner.plain(), means_something.then_some(byte), "{byte} at {at}");
                assert_eq!(scanner.at, if means_something { at } else { 24 });
            }
        }
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        assert!(strict_json::object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_error_tells_a_place_and_never_quotes_what_it_read() {
        for bad in
            ["\"secret\"", "{\"a\":secret}", "{\"secret\":1,\"secret\":2}", "[\"secret\"]", "{\"a\":\"secret\\x\"}"]
        {
            let told = object(bad).unwrap_err().to_string();
            assert!(told.contains(" at byte ") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn what_the_caller_finds_wrong_is_wrong() {
        assert!(members("{\"a\":1}", |_, _| Err("not this one")).unwrap_err().to_string().contains("not this one"));
    }

    /// Whether it is read; a naive reader reads the same, or neither does.
    fn alike(text: &str) -> bool {
        let (ours, naive) = (object(text), naive_json::object(text.as_bytes()));
        match (&ours, &naive) {
            (Ok(ours), Ok(naive)) => assert!(ours.iter().eq(naive.iter()), "{text}"),
            (Err(_), Err(_)) => {}
            _ => panic!("{text:?}: {ours:?} and naively {naive:?}"),
        }
        ours.is_ok()
    }

    #[test]
    fn oddities_have_no_meaning_and_what_is_only_unusual_has_one() {
        for bad in [
            "",
            " ",
            "{",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{} {}",
            "{}x",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"a\":1e999}",
            "{\"a\":01}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\u{0}\"}",
            "\u{feff}{}",
            "{\"a\":NaN}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":.1}",
            "{\"a\":1e}",
            "{\"a\":+1}",
            "{\"a\":tru}",
            "{\"a\":truee}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{,}",
            "{\"a\":\"\\é\"}",
            "{\"a\":\"\\",
            "{\"a\":\"\\\"",
            "{\"a\":\"\u{1f}\"}",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":[1,]}",
            "{\"a\":0x1}",
        ] {
            assert!(!alike(bad), "{bad}");
        }
        let digits = format!("{{\"a\":{}}}", "9".repeat(400));
        assert!(!alike(&digits), "out of range without an exponent");
        for good in [
            "{}",
            " {\t\n\r } ",
            "{\"a\":\"\\ud83d\\ude00\\n\\\"\"}",
            "{\"\\\"\":0}",
            "{\"a\":-0}",
            "{\"a\":1.7976931348623157e308}",
            "{\"a\":18446744073709551616}",
            "{\"a\":1E+2,\"b\":[true,false,null,{}]}",
            "{\"é\":\"日本\u{7f}\"}",
            "{\"a\":1e-999}",
        ] {
            assert!(alike(good), "{good}");
        }
        assert!(alike(&digits.replace(&"9".repeat(100), "9")), "301 digits are in range");
    }

    /// Any value, as text, with white space here and there.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_filter_map("finite", |number| serde_json::to_string(&number).ok()),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            "\"(\\\\[nrtbfu/\\\\\"0-9a-d]|[a-zé ]){0,6}\"",
        ];
        leaf.prop_recursive(4, 24, 6, |inner| {
            let name = prop_oneof!["\"[a-d]?\"", "\"(\\\\u006[1-4]|[a-d])\""];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[{}]", list.join(", "))),
                proptest::collection::vec((name, inner), 0..5).prop_map(|members| {
                    let members: Vec<_> = members.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
                    format!("{{ {}}}", members.join(" ,"))
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_naive_reader_reads_the_same(value in json(), spoil in proptest::option::weighted(0.5, (any::<prop::sample::Index>(), "[\\x20-~]"))) {
            let mut text = format!("{{\"x\":{value}}}");
            if let Some((place, with)) = spoil {
                let at = place.index(text.len());
                if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                    text.replace_range(at..=at, &with);
                }
            }
            alike(&text);
        }

        #[test]
        fn a_naive_reader_reads_the_same_of_what_is_hardly_json(text in r#"\{[\{\}\[\]:,"\\ a0-2eE.\-+u\n]{0,24}\}"#) {
            alike(&text);
        }

        #[test]
        fn hostile_text_never_panics(text in any::<String>()) {
            alike(&text);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            assert_eq!(strict_json::object(&bytes).ok(), naive_json::object(&bytes).ok());
        }
    }
}

//! Custom sections of a component, found without trusting a byte of it and without a look at anything else.
//!
//! Sections are an identifier, a length and as many bytes (Binary.md of the component model; core specification 5.5.2), so
//! they are stepped over by their lengths: this takes microseconds however large a component is. Custom sections are looked
//! for at the top and in the core modules that lie directly in the component, since that is where a linker leaves those of
//! a guest's object files. Whether the rest is well-formed is for the engine to say.

/// How a component begins, and how a core module does.
const COMPONENT: [u8; 4] = [b'\0', b'a', b's', b'm'];
const COMPONENT_LAYER: [u8; 2] = [1, 0];
const MODULE: [u8; 8] = [b'\0', b'a', b's', b'm', 1, 0, 0, 0];
/// Identifiers of sections.
const CUSTOM: u8 = 0;
const CORE_MODULE: u8 = 1;
/// Bytes of the longest LEB128 number of 32 bits.
const LONGEST_NUMBER: usize = 5;

/// Why no section can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSection {
    #[error("{what} at byte {at}")]
    Malformed { what: &'static str, at: usize },
    #[error("there is more than one")]
    Several,
}

/// The content of the one custom section of this name; `None` where there is none, or the bytes are no component at all.
pub(crate) fn custom<'a>(component: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, NoSection> {
    let is_component = component.starts_with(&COMPONENT) && component.get(6..8) == Some(&COMPONENT_LAYER);
    if !is_component {
        return Ok(None);
    }
    let mut found = None;
    for section in Sections::of(component, 8) {
        let section = section?;
        match section.id {
            CUSTOM => take(&mut found, section.named(name)?)?,
            CORE_MODULE => {
                if !section.content.starts_with(&MODULE) {
                    return Err(NoSection::Malformed { what: "no core module", at: section.at });
                }
                for inner in Sections::of(section.content, MODULE.len()).map(|inner| within(section.at, inner)) {
                    let inner = inner?;
                    if inner.id == CUSTOM {
                        take(&mut found, inner.named(name)?)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn take<'a>(found: &mut Option<&'a [u8]>, another: Option<&'a [u8]>) -> Result<(), NoSection> {
    match (&found, another) {
        (Some(_), Some(_)) => return Err(NoSection::Several),
        (None, Some(_)) => *found = another,
        (_, None) => {}
    }
    Ok(())
}

/// Places told from the start of the component.
fn within(start: usize, section: Result<Section<'_>, NoSection>) -> Result<Section<'_>, NoSection> {
    match section {
        Ok(section) => Ok(Section { at: start + section.at, ..section }),
        Err(NoSection::Malformed { what, at }) => Err(NoSection::Malformed { what, at: start + at }),
        Err(NoSection::Several) => Err(NoSection::Several),
    }
}

struct Section<'a> {
    id: u8,
    content: &'a [u8],
    /// Where its content begins.
    at: usize,
}

impl<'a> Section<'a> {
    /// What a custom section of that name holds.
    fn named(&self, name: &str) -> Result<Option<&'a [u8]>, NoSection> {
        let malformed = NoSection::Malformed { what: "a custom section without a name", at: self.at };
        let (length, taken) = number(self.content).ok_or(malformed)?;
        let (found, rest) = self.content[taken..].split_at_checked(length).ok_or(malformed)?;
        Ok((found == name.as_bytes()).then_some(rest))
    }
}

/// The sections of a binary, up to the first that is malformed.
struct Sections<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Sections<'a> {
    const fn of(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, NoSection>;

    fn next(&mut self) -> Option<Self::Item> {
        let (id, rest) = self.bytes.get(self.at..)?.split_first()?;
        let begin = self.at;
        // After what is malformed nothing can be found.
        self.at = self.bytes.len();
        let Some((length, taken)) = number(rest) else {
            return Some(Err(NoSection::Malformed { what: "a section without a length", at: begin }));
        };
        let at = begin + 1 + taken;
        let Some(content) = rest[taken..].get(..length) else {
            return Some(Err(NoSection::Malformed { what: "a section longer than what it is in", at: begin }));
        };
        self.at = at + length;
        Some(Ok(Section { id: *id, content, at }))
    }
}

/// An unsigned LEB128 number of 32 bits, and how many bytes it takes.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().take(LONGEST_NUMBER).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const START: [u8; 8] = [0, b'a', b's', b'm', 0x0d, 0, 1, 0];

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id, u8::try_from(content.len()).unwrap()][..], content].concat()
    }

    fn named(name: &str, content: &str) -> Vec<u8> {
        section(CUSTOM, &[&[u8::try_from(name.len()).unwrap()], name.as_bytes(), content.as_bytes()].concat())
    }

    fn component(sections: &[Vec<u8>]) -> Vec<u8> {
        [&START[..], &sections.concat()].concat()
    }

    fn module(sections: &[Vec<u8>]) -> Vec<u8> {
        section(CORE_MODULE, &[&MODULE[..], &sections.concat()].concat())
    }

    #[test]
    fn a_section_is_found_at_the_top_and_in_a_core_module_and_nowhere_else() {
        let wanted = named("x", "here");
        for bytes in [
            component(&[named("y", "no"), wanted.clone()]),
            component(&[section(7, b"\xff\xff"), wanted.clone(), section(9, b"")]),
            component(&[module(&[section(3, b"\0"), wanted.clone()]), named("xx", "no")]),
        ] {
            assert_eq!(custom(&bytes, "x"), Ok(Some(&b"here"[..])), "{bytes:?}");
        }
        // Another section may hold the same bytes: a nested component, a core module in a custom section.
        for bytes in [
            component(&[section(4, &component(std::slice::from_ref(&wanted)))]),
            component(&[named("y", "x")]),
            component(&[]),
            [&MODULE[..], &wanted].concat(),
            b"text".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(custom(&bytes, "x"), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn two_sections_of_one_name_are_refused_wherever_they_are() {
        let wanted = named("x", "here");
        let inside = module(std::slice::from_ref(&wanted));
        for sections in [[wanted.clone(), wanted.clone()], [wanted, inside.clone()], [inside.clone(), inside]] {
            assert_eq!(custom(&component(&sections), "x"), Err(NoSection::Several));
        }
    }

    #[test]
    fn numbers_may_be_padded_to_five_bytes_and_are_refused_where_cut_longer_or_larger() {
        for (bytes, expected) in [
            (&[0][..], Some((0, 1))),
            (&[0x80, 0x01], Some((128, 2))),
            (&[0x81, 0x80, 0x80, 0x80, 0x00], Some((1, 5))),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Some((u32::MAX as usize, 5))),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], None),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], None),
            (&[0x80, 0x80, 0x80], None),
            (&[0x80], None),
            (&[], None),
        ] {
            assert_eq!(number(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_cut_anywhere_but_between_two_sections_is_malformed() {
        let parts = [named("y", "no"), module(&[named("x", "here")]), named("z", "")];
        let whole = component(&parts);
        let ends: Vec<usize> = (0..=parts.len()).map(|count| component(&parts[..count]).len()).collect();
        for cut in START.len()..whole.len() {
            let found = custom(&whole[..cut], "x");
            assert_eq!(found.is_ok(), ends.contains(&cut), "cut at {cut}: {found:?}");
        }
    }

    #[test]
    fn lengths_that_lie_are_malformed_and_told_with_their_place() {
        for (bytes, what, at) in [
            (component(&[vec![CUSTOM, 0xff, 0xff, 0xff, 0xff, 0x0f]]), "a section longer than what it is in", 8),
            (component(&[section(5, b""), vec![CUSTOM, 0xff]]), "a section without a length", 10),
            (component(&[section(CUSTOM, &[9, b'x'])]), "a custom section without a name", 10),
            (component(&[section(CORE_MODULE, b"none")]), "no core module", 10),
            (component(&[module(&[vec![CUSTOM, 3, 1]])]), "a section longer than what it is in", 18),
        ] {
            assert_eq!(custom(&bytes, "x"), Err(NoSection::Malformed { what, at }), "{bytes:x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = custom(&[&START[..], &rest].concat(), "x");
            let _ = custom(&component(&[module(&[rest])]), "x");
        }
    }
}

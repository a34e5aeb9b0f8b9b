//! A reader of the kernel's type information (BTF), as far as finding where a member of a structure lies.
//!
//! The format is described in the kernel's `Documentation/bpf/btf.rst`: a header, a run of type records that refer to
//! each other by number, and a table of strings. Everything is checked against the bounds of the input, which is
//! normally `/sys/kernel/btf/vmlinux` but may be any bytes. Types are not built into a tree: a kernel has a hundred
//! thousand of them and we want nine members.

use thiserror::Error;

/// Why type information could not be read, or a member not be found.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BtfError {
    /// It does not begin like BTF of this byte order and version.
    #[error("not type information of version 1 in this machine's byte order: it begins with {0:#06x}")]
    NotBtf(u16),
    /// A part reaches over the end.
    #[error("type information ends within {0}")]
    Truncated(&'static str),
    /// A record of a kind that is not known, whose length is therefore not known either.
    #[error("type {id} has the unknown kind {kind}")]
    UnknownKind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// No structure has this name.
    #[error("there is no structure {0}")]
    NoStructure(String),
    /// The structure has no such member.
    #[error("structure {structure} has no member {path}")]
    NoMember {
        /// Name of the structure.
        structure: String,
        /// The member that was looked for, with dots between the levels.
        path: String,
    },
    /// The member is a bit field.
    #[error("member {path} of {structure} is a bit field")]
    BitField {
        /// Name of the structure.
        structure: String,
        /// The member.
        path: String,
    },
    /// The member is not as large as whoever reads it expects.
    #[error("member {path} of {structure} has {seen} bytes, expected {expected}")]
    Size {
        /// Name of the structure.
        structure: String,
        /// The member.
        path: String,
        /// Its size.
        seen: u32,
        /// The size expected.
        expected: u32,
    },
    /// Types refer to each other without end.
    #[error("types refer to each other in a circle")]
    Circle,
}

/// Kinds of types (`include/uapi/linux/btf.h`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

const MAGIC: u16 = 0xeb9f;
const RECORD: usize = 12;
const MEMBER: usize = 12;

/// How many steps a look-up may take through typedefs, qualifiers and nested structures.
const MAX_DEPTH: u32 = 32;

/// Type information, indexed by type number.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type's record begins in `types`; type 0 is void and has none, so number `n` is at `n - 1`.
    starts: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Record {
    name: u32,
    info: u32,
    size_or_type: u32,
    /// Where what follows the record begins.
    rest: usize,
}

impl Record {
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn has_bit_fields(self) -> bool {
        self.info >> 31 != 0
    }
}

/// Where a member lies and how large it is.
#[derive(Clone, Copy)]
struct Place {
    bits: u32,
    type_id: u32,
    is_bit_field: bool,
}

impl<'a> Btf<'a> {
    /// Reads the header and finds where each type begins.
    ///
    /// # Errors
    /// Where the input is not type information or is cut short.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = u16_at(bytes, 0).ok_or(BtfError::Truncated("the header"))?;
        let version = *bytes.get(2).ok_or(BtfError::Truncated("the header"))?;
        if magic != MAGIC || version != 1 {
            return Err(BtfError::NotBtf(magic));
        }
        let field = |at| u32_at(bytes, at).ok_or(BtfError::Truncated("the header"));
        let header = field(4)? as usize;
        let section = |offset: u32, length: u32, name| {
            let start = header.checked_add(offset as usize).ok_or(BtfError::Truncated(name))?;
            let end = start.checked_add(length as usize).ok_or(BtfError::Truncated(name))?;
            bytes.get(start..end).ok_or(BtfError::Truncated(name))
        };
        let types = section(field(8)?, field(12)?, "the types")?;
        let strings = section(field(16)?, field(20)?, "the strings")?;
        let mut btf = Self { types, strings, starts: Vec::with_capacity(types.len() / 24) };
        let mut at = 0;
        while at < types.len() {
            let id = u32::try_from(btf.starts.len() + 1).map_err(|_| BtfError::Truncated("the types"))?;
            let record = btf.record_at(at)?;
            let rest = match record.kind() {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => record.count() * 12,
                kind::ENUM | kind::FUNC_PROTO => record.count() * 8,
                kind::PTR
                | kind::FWD
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FLOAT
                | kind::TYPE_TAG => 0,
                kind => return Err(BtfError::UnknownKind { id, kind }),
            };
            btf.starts.push(u32::try_from(at).map_err(|_| BtfError::Truncated("the types"))?);
            at = record.rest + rest;
            if at > types.len() {
                return Err(BtfError::Truncated("a type"));
            }
        }
        Ok(btf)
    }

    /// How many bytes from the start of `structure` its member lies. `path` names it through nested structures with
    /// dots; anonymous structures and unions are looked through, and of an array the first element is meant.
    ///
    /// # Errors
    /// Where there is no such member, it is a bit field, or it does not have `size` bytes.
    pub fn offset_of(&self, structure: &str, path: &str, size: u32) -> Result<u32, BtfError> {
        let no_member = || BtfError::NoMember { structure: structure.to_owned(), path: path.to_owned() };
        let mut place = Place { bits: 0, type_id: self.structure(structure)?, is_bit_field: false };
        for name in path.split('.') {
            let id = self.first_element(place.type_id)?;
            let inner = self.member(id, name, MAX_DEPTH)?.ok_or_else(no_member)?;
            place = Place { bits: place.bits.checked_add(inner.bits).ok_or_else(no_member)?, ..inner };
        }
        if place.is_bit_field || !place.bits.is_multiple_of(8) {
            return Err(BtfError::BitField { structure: structure.to_owned(), path: path.to_owned() });
        }
        let seen = self.size_of(place.type_id)?;
        if seen != size {
            let (structure, path) = (structure.to_owned(), path.to_owned());
            return Err(BtfError::Size { structure, path, seen, expected: size });
        }
        Ok(place.bits / 8)
    }

    /// The number of the structure called `name`. A forward declaration is another kind, so it is not found instead.
    fn structure(&self, name: &str) -> Result<u32, BtfError> {
        for (index, start) in self.starts.iter().enumerate() {
            let record = self.record_at(*start as usize)?;
            if record.kind() == kind::STRUCT && self.name_is(record.name, name) {
                return u32::try_from(index + 1).map_err(|_| BtfError::Truncated("the types"));
            }
        }
        Err(BtfError::NoStructure(name.to_owned()))
    }

    /// The member `name` of the structure or union `id`, also where it stands in an anonymous one inside.
    fn member(&self, id: u32, name: &str, depth: u32) -> Result<Option<Place>, BtfError> {
        if depth == 0 {
            return Err(BtfError::Circle);
        }
        let record = self.record(id)?;
        if !matches!(record.kind(), kind::STRUCT | kind::UNION) {
            return Ok(None);
        }
        for index in 0..record.count() {
            let at = record.rest + index * MEMBER;
            let word = |offset| u32_at(self.types, at + offset).ok_or(BtfError::Truncated("a member"));
            let (member_name, type_id, offset) = (word(0)?, word(4)?, word(8)?);
            let (bits, is_bit_field) =
                if record.has_bit_fields() { (offset & 0x00ff_ffff, offset >> 24 != 0) } else { (offset, false) };
            if member_name == 0 {
                if let Some(inner) = self.member(self.unqualified(type_id)?, name, depth - 1)? {
                    let bits = bits.checked_add(inner.bits).ok_or(BtfError::Truncated("a member"))?;
                    return Ok(Some(Place { bits, ..inner }));
                }
            } else if self.name_is(member_name, name) {
                return Ok(Some(Place { bits, type_id, is_bit_field }));
            }
        }
        Ok(None)
    }

    /// Looks through typedefs and qualifiers.
    fn unqualified(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MAX_DEPTH {
            let record = self.record(id)?;
            match record.kind() {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = record.size_or_type;
                }
                _ => return Ok(id),
            }
        }
        Err(BtfError::Circle)
    }

    /// Looks through typedefs, qualifiers and arrays.
    fn first_element(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MAX_DEPTH {
            id = self.unqualified(id)?;
            let record = self.record(id)?;
            if record.kind() != kind::ARRAY {
                return Ok(id);
            }
            id = u32_at(self.types, record.rest).ok_or(BtfError::Truncated("an array"))?;
        }
        Err(BtfError::Circle)
    }

    fn size_of(&self, id: u32) -> Result<u32, BtfError> {
        let record = self.record(self.unqualified(id)?)?;
        match record.kind() {
            kind::INT | kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::FLOAT => Ok(record.size_or_type),
            kind::PTR => Ok(8),
            // Nothing that we look for is anything else; no size matches zero.
            _ => Ok(0),
        }
    }

    fn record(&self, id: u32) -> Result<Record, BtfError> {
        let index = (id as usize).checked_sub(1).ok_or(BtfError::Truncated("a reference to a type"))?;
        let start = self.starts.get(index).ok_or(BtfError::Truncated("a reference to a type"))?;
        self.record_at(*start as usize)
    }

    fn record_at(&self, at: usize) -> Result<Record, BtfError> {
        let word = |offset| u32_at(self.types, at + offset).ok_or(BtfError::Truncated("a type"));
        Ok(Record { name: word(0)?, info: word(4)?, size_or_type: word(8)?, rest: at + RECORD })
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    /// Writes type information, one record at a time.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend_from_slice(name.as_bytes());
            self.strings.push(0);
            at
        }

        fn words(&mut self, words: &[u32]) {
            for word in words {
                self.types.extend_from_slice(&word.to_ne_bytes());
            }
        }

        fn int(&mut self, name: &str, size: u32) {
            let name = self.name(name);
            self.words(&[name, kind::INT << 24, size, size * 8]);
        }

        /// Members are name, type and offset in bits; with `flagged`, the offset's high byte is a bit field's width.
        fn structure(&mut self, name: &str, size: u32, flagged: bool, members: &[(&str, u32, u32)]) {
            let name = self.name(name);
            let flag = if flagged { 1 << 31 } else { 0 };
            self.words(&[name, flag | kind::STRUCT << 24 | members.len() as u32, size]);
            for (member, type_id, bits) in members {
                let member = self.name(member);
                self.words(&[member, *type_id, *bits]);
            }
        }

        fn finish(self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend_from_slice(&MAGIC.to_ne_bytes());
            bytes.extend_from_slice(&[1, 0]);
            let types = self.types.len() as u32;
            for word in [24, 0, types, types, self.strings.len() as u32] {
                bytes.extend_from_slice(&word.to_ne_bytes());
            }
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    fn sample() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.int("unsigned int", 4); // 1
        writer.words(&[0, kind::CONST << 24, 1]); // 2: const unsigned int
        writer.structure("", 8, false, &[("inner", 2, 32)]); // 3: anonymous
        writer.words(&[0, kind::ARRAY << 24, 0, 5, 1, 3]); // 4: array of 5
        writer.structure("pair", 8, false, &[("left", 1, 0), ("right", 1, 32)]); // 5
        writer.structure(
            "whole",
            64,
            true,
            &[("first", 1, 0), ("bits", 1, 3 << 24 | 32), ("", 3, 64), ("pairs", 4, 128)],
        ); // 6
        writer.finish()
    }

    #[test]
    fn a_member_is_found_through_anonymous_structures_qualifiers_and_arrays() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset_of("whole", "first", 4), Ok(0));
        assert_eq!(btf.offset_of("whole", "inner", 4), Ok(12));
        assert_eq!(btf.offset_of("whole", "pairs.right", 4), Ok(20));
    }

    #[test]
    fn what_cannot_be_read_as_expected_is_refused() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert!(matches!(btf.offset_of("whole", "bits", 4), Err(BtfError::BitField { .. })));
        assert!(matches!(btf.offset_of("whole", "first", 8), Err(BtfError::Size { seen: 4, expected: 8, .. })));
        assert!(matches!(btf.offset_of("whole", "absent", 4), Err(BtfError::NoMember { .. })));
        assert!(matches!(btf.offset_of("whole", "first.more", 4), Err(BtfError::NoMember { .. })));
        assert_eq!(btf.offset_of("hole", "first", 4), Err(BtfError::NoStructure("hole".to_owned())));
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_makes_the_reader_panic() {
        let bytes = sample();
        for length in 0..bytes.len() {
            if let Ok(btf) = Btf::parse(&bytes[..length]) {
                let _ = btf.offset_of("whole", "pairs.right", 4);
            }
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= flip;
                if let Ok(btf) = Btf::parse(&bytes) {
                    let _ = btf.offset_of("whole", "pairs.right", 4);
                    let _ = btf.offset_of("whole", "inner", 4);
                }
            }
        }
    }

    #[test]
    fn types_that_refer_to_themselves_are_refused() {
        let mut writer = Writer::default();
        writer.structure("loop", 4, false, &[("", 1, 0)]);
        let bytes = writer.finish();
        assert_eq!(Btf::parse(&bytes).unwrap().offset_of("loop", "x", 4), Err(BtfError::Circle));
    }
}

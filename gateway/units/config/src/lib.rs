//! The machinery of configuration. It knows the file format and nothing of what is configured.
//!
//! A file is read ([`source`]) and parsed (`parse`) into a [`document`] whose every value knows its line and column. The
//! document is then [loaded](load) as a type: first every value is compared with the type's own JSON Schema ([`mod@schema`],
//! `check`), so that all faults come at once with their place and a suggestion; what is faulty is mended in a copy
//! (`mend`) so that the type can be made and its own `validate` may find the faults of meaning too. Only a document
//! without errors gives its value away.
//!
//! Faults are told with the line they stand in ([`diagnostic`], [`render`]), never with a secret ([`secrets`]). Two
//! configurations can be compared ([`diff`]), one can be shown ([`redact`]), and a file can be watched ([`watch`]), with those that
//! it names ([`files`]).
//!
//! The format is YAML 1.2 with its core schema, without what makes YAML surprising: no anchors, aliases, merge keys, tags
//! or second documents, no duplicate keys, and `on`, `no` and their like are texts. Environment variables are not
//! substituted: what must come from the environment is named where it is needed (`{ env: NAME }`).

pub mod source;
pub mod document;
mod scalar;
mod parse;
pub mod secrets;
pub mod schema;
mod words;
mod union;
mod mend;
mod check;
mod load;
pub mod diagnostic;
pub mod render;
mod redact;
mod diff;
mod looked;
pub mod watch;
pub mod files;

pub use diagnostic::Diagnostic;
pub use diff::{Change, ChangeKind, diff};
pub use document::{Document, Location};
pub use files::{Files, WatchFiles};
pub use load::{Accepted, Loaded, load};
pub use redact::redact;
pub use schema::schema;
pub use source::{ReadError, Source};
pub use watch::{Event, Watch};
pub use words::nearest;

//! Whatever bytes a file holds, it is refused or accepted; nothing panics and nothing takes for ever.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "tests")]

mod world;

use proptest::prelude::*;
use sluice_config::{Document, Source, load, render};
use sluice_vocabulary::fault::Path;
use world::Config;

fn survive(bytes: &[u8]) {
    let Ok(source) = Source::from_bytes("hostile", bytes) else { return };
    let faults = match Document::parse(&source) {
        Ok(document) => {
            document.value();
            match load::<Config>(&document).check(|config, faults| config.validate(&Path::root(), faults)) {
                Ok(accepted) => accepted.warnings,
                Err(faults) => faults,
            }
        }
        Err(faults) => faults,
    };
    render::text(&faults, true);
    render::json(&faults);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survive(&bytes);
    }

    #[test]
    fn any_text_of_yamls_own_characters(text in "[-a-c:{}\\[\\],&*!|>'\"%@`#? \\n\\t0-9.~<$\\\\é]{0,80}") {
        survive(text.as_bytes());
    }

    #[test]
    fn a_good_file_with_a_piece_replaced(at in 0_usize..900, length in 0_usize..20, piece in "[-a-z:{}\\[\\], \\n&*!|>'\"0-9]{0,12}") {
        let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/world/good.yaml")).unwrap();
        let from = at.min(bytes.len());
        let to = (from + length).min(bytes.len());
        bytes.splice(from..to, piece.bytes());
        survive(&bytes);
    }
}

#[test]
fn shapes_that_made_parsers_hang_or_overflow() {
    for text in [
        "{".repeat(10_000),
        "[".repeat(10_000),
        "- ".repeat(10_000),
        "? ".repeat(10_000),
        "a: ".repeat(1_000),
        "&a ".repeat(1_000),
        format!("a: &a [1]\nb: &b [*a,*a]\nc: [{}]", "*b,".repeat(1_000)),
        "\"\\x".to_owned(),
        "%YAML 9.9\n---\n".to_owned(),
        "|\n".repeat(100),
        "\r\r\r".to_owned(),
        "x".repeat(100_000),
        format!("{{{}}}", "a: 1, ".repeat(10_000)),
        (0..20_000).map(|n| format!("unknown{n}: {{ token: t{n}, x: [1] }}\n")).collect(),
    ] {
        survive(text.as_bytes());
    }
}

//! Every seed keeps every promise, with a stable compiler and without a fuzzer: `cargo test` in this folder.

use std::path::Path;

#[test]
fn seeds_keep_the_promises_of_their_targets() {
    for (name, promise) in sluice_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
        let mut count = 0;
        for entry in entries {
            let file = entry.expect("an entry").path();
            promise(&std::fs::read(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display())));
            count += 1;
        }
        assert!(count > 0, "{} holds no seeds", folder.display());
    }
}

#[test]
fn every_target_has_its_line() {
    for (name, _) in sluice_fuzz::TARGETS {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz_targets/{name}.rs"));
        let line = format!("|bytes: &[u8]| sluice_fuzz::{name}(bytes)");
        assert!(std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&line)), "{}", file.display());
    }
}

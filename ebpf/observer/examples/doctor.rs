//! Says what can be observed on this host: `cargo run -p sluice-observer --example doctor`.

use sluice_observer::{Options, doctor};

fn main() {
    print!("{}", doctor(&Options::default()));
}

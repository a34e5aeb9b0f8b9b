//! What the gateway's check of a token costs beside the crypto library's own, for each signature algorithm.
//!
//! The measuring is done by an example of the auth unit, which needs nothing else of the gateway and so builds in release
//! mode without the sandbox's compiler. It times the bare signature check, the whole check of the same token when it has
//! never been seen, and the check of a token seen just now, in short blocks that take turns; a busy machine then slows all
//! three, and their differences stay.

use std::fmt::Write;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::budgets::Verdict;
use crate::error::{Context, Failure, Result};
use crate::process::{PROXY_CORE, pinned};
use crate::results::{Made, median};
use crate::room::Room;
use crate::show;

/// The budgets, in microseconds: what a never-seen token may cost beyond its signature check, and a cached one in all.
const NEW_BEYOND_RAW: f64 = 2.0;
const SEEN: f64 = 1.0;

/// What was found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checks {
    #[serde(flatten)]
    pub(crate) made: Made,
    pub(crate) checks: Vec<Check>,
}

/// Medians of one round of one algorithm, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) algorithm: String,
    pub(crate) round: u32,
    /// The crypto library's check of the signature, with a key parsed beforehand.
    pub(crate) raw_us: f64,
    /// The gateway's check of a token never seen: header, signature, claims, scopes, bounds.
    pub(crate) new_us: f64,
    /// The same without the signature's.
    pub(crate) new_beyond_raw_us: f64,
    /// The gateway's check of a token seen just now.
    pub(crate) seen_us: f64,
}

/// Measures so many rounds, on the core that the proxies get.
pub(crate) fn measure(room: &Room, rounds: u32, tokens: Option<u32>) -> Result<Checks> {
    let mut command = format!("cargo run -p sluice-bench -- checks --rounds {rounds}");
    let mut tail = Vec::new();
    if let Some(tokens) = tokens {
        let _ = write!(command, " --tokens {tokens}");
        tail = vec!["--".to_owned(), "--tokens".to_owned(), tokens.to_string()];
    }
    println!("building the auth unit's measuring example (the first time takes minutes) …");
    // On all cores; only what runs is pinned.
    output(example(Command::new("cargo"), "build", room))?;
    let mut checks = Checks { made: Made::now(room, command), checks: Vec::new() };
    for round in 0..rounds {
        let mut run = example(pinned(PROXY_CORE, "cargo"), "run", room);
        run.args(&tail);
        let text = output(run)?;
        print!("round {}:\n{text}", round + 1);
        checks.checks.extend(read(&text, round)?);
    }
    Ok(checks)
}

fn example(mut cargo: Command, verb: &str, room: &Room) -> Command {
    cargo.current_dir(room.root()).arg(verb);
    cargo.args(["--quiet", "--release", "--locked", "--package", "sluice-auth", "--example", "verify_cost"]);
    cargo
}

fn output(mut command: Command) -> Result<String> {
    let output = command.output().context(|| "cannot start cargo".to_owned())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format_args!("measuring the checks ended with {}: {errors}", output.status)))
}

/// Reads the example's table: a line of headings, then algorithm, raw, new, difference and seen.
fn read(text: &str, round: u32) -> Result<Vec<Check>> {
    let mut lines = text.lines();
    let odd = |line: &str| Failure::new(format_args!("the measuring example wrote what is not expected: {line}"));
    let heading = lines.next().unwrap_or_default();
    if heading.split_whitespace().take(4).ne(["raw", "new", "new-raw", "seen"]) {
        return Err(odd(heading));
    }
    let check = |line: &str| {
        let mut words = line.split_whitespace();
        let algorithm = words.next()?.to_owned();
        let figures: Vec<f64> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [raw_us, new_us, new_beyond_raw_us, seen_us] = figures[..] else { return None };
        Some(Check { algorithm, round, raw_us, new_us, new_beyond_raw_us, seen_us })
    };
    lines.map(|line| check(line).ok_or_else(|| odd(line))).collect()
}

/// Medians over the rounds, and the budgets.
pub(crate) fn table(checks: &Checks) -> String {
    let mut text = show::heading(&checks.made);
    let _ =
        writeln!(text, "\ncheck of a token, µs (budget: {NEW_BEYOND_RAW} beyond the library's, {SEEN} when cached)");
    let columns = ["library", "never seen", "beyond it", "cached"];
    let [library, new, beyond, seen] = columns;
    let _ = writeln!(text, "  {:<10}{library:>12}{new:>12}{beyond:>12}{seen:>12}", "");
    let mut algorithms: Vec<&str> = Vec::new();
    for check in &checks.checks {
        if !algorithms.contains(&check.algorithm.as_str()) {
            algorithms.push(&check.algorithm);
        }
    }
    for algorithm in algorithms {
        let of = |figure: fn(&Check) -> f64| {
            median(checks.checks.iter().filter(|check| check.algorithm == algorithm).map(figure)).unwrap_or(f64::NAN)
        };
        let (beyond, seen) = (of(|check| check.new_beyond_raw_us), of(|check| check.seen_us));
        let (raw, new) = (of(|check| check.raw_us), of(|check| check.new_us));
        let _ = write!(text, "  {algorithm:<10}{raw:>12.2}{new:>12.2}{beyond:>12.2}{seen:>12.2}");
        let verdict = Verdict {
            met: beyond <= NEW_BEYOND_RAW && seen <= SEEN,
            text: match (beyond <= NEW_BEYOND_RAW, seen <= SEEN) {
                (true, true) => String::new(),
                (false, true) => "never seen".to_owned(),
                (true, false) => "cached".to_owned(),
                (false, false) => "both".to_owned(),
            },
        };
        let _ = writeln!(text, "   {}", verdict.to_string().trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SAID: &str = "             raw     new  new-raw    seen   (µs, medians of rounds of 16 tokens)\n \
                        RS256     11.50   12.90     1.40    0.41\n \
                        ES256     32.30   34.80     2.50    1.02\n";

    #[test]
    fn the_example_s_table_is_read_whatever_algorithms_it_has() {
        let read = read(SAID, 3).unwrap();
        let rs256 = Check {
            algorithm: "RS256".to_owned(),
            round: 3,
            raw_us: 11.5,
            new_us: 12.9,
            new_beyond_raw_us: 1.4,
            seen_us: 0.41,
        };
        assert_eq!((read.len(), &read[0]), (2, &rs256));
    }

    #[test]
    fn another_table_is_an_error_rather_than_a_figure() {
        assert!(read("", 0).is_err());
        assert!(read("RS256 1 2 3 4\n", 0).is_err(), "no heading");
        assert!(read("raw new new-raw seen\nRS256 1 2 3\n", 0).is_err(), "a column too few");
        assert!(read("raw new new-raw seen\nRS256 1 2 3 x\n", 0).is_err());
    }

    #[test]
    fn medians_of_rounds_are_held_against_the_budgets() {
        let mut checks: Vec<Check> = (0..3).flat_map(|round| read(SAID, round).unwrap()).collect();
        checks[0].seen_us = 9.0;
        let text = table(&Checks { made: Made::example(), checks });
        let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(row("RS256").ends_with("11.50       12.90        1.40        0.41   budget met"), "{text}");
        assert!(row("ES256").ends_with("34.80        2.50        1.02   budget MISSED  both"), "{text}");
    }
}

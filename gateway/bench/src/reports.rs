//! Files of raw figures: told apart by what they hold, and shown.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Context, Failure, Result};
use crate::room::Room;
use crate::{checks, introspection, results, show};

/// The kinds of reports that have tables, as their files' names begin, in the order in which they are shown.
const KINDS: &[&str] = &["checks", "load", "introspection"];

/// A report of any kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum Report {
    Load(results::Report),
    Introspection(introspection::Report),
    Checks(checks::Checks),
}

/// The tables of a file.
pub(crate) fn tables(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
    let report = serde_json::from_str(&text).context(|| format!("{} holds no report", path.display()))?;
    let tables = match report {
        Report::Load(report) => show::tables(&report),
        Report::Introspection(report) => introspection::tables(&report),
        Report::Checks(report) => checks::table(&report),
    };
    Ok(format!("{tables}raw figures: {}\n", path.display()))
}

/// The tables of the newest file of each kind.
pub(crate) fn newest(room: &Room) -> Result<String> {
    let mut all = Vec::new();
    for kind in KINDS {
        if let Some(file) = room.newest_results(kind)? {
            all.push(tables(&file)?);
        }
    }
    if all.is_empty() {
        return Err(Failure::new("there are no results yet; make some with `make bench`"));
    }
    Ok(all.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;
    use crate::results::{Made, write_json};
    use crate::verify_cost::VerifyCost;

    #[test]
    fn a_file_is_shown_as_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("figures.json");
        let made = Made::example;
        write_json(&file, &checks::Checks { made: made(), checks: Vec::new() }).unwrap();
        assert!(tables(&file).unwrap().contains("check of a token"));
        let (versions, verify_cost) = (BTreeMap::new(), VerifyCost { rs256_us: 1.0, es256_us: 2.0 });
        write_json(&file, &results::Report { made: made(), versions, verify_cost, runs: Vec::new() }).unwrap();
        assert!(tables(&file).unwrap().contains("commit none"));
        let versions = BTreeMap::new();
        write_json(&file, &introspection::Report { made: made(), versions, runs: Vec::new() }).unwrap();
        assert!(tables(&file).unwrap().contains("inline check against introspection"));
        std::fs::write(&file, "{}").unwrap();
        assert!(tables(&file).is_err());
    }
}

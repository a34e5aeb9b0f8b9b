//! Reading a configuration file into a checked configuration, for every command that needs one.

use std::io::IsTerminal;
use std::path::Path;

use sluice_config::{Diagnostic, Document, Source};
use sluice_vocabulary::Fault;

use crate::config::Config;

/// A configuration without errors, with the document it was read from.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) warnings: Vec<Diagnostic>,
    document: Document,
}

/// What is wrong with a file.
pub(crate) enum Faults {
    /// It cannot be read.
    Unreadable(String),
    /// It has faults.
    Faulty(Vec<Diagnostic>),
}

/// Reads and checks `file`. Paths in it are made relative to its own folder.
pub(crate) fn read(file: &Path) -> Result<Loaded, Faults> {
    let source = Source::read(file).map_err(|e| Faults::Unreadable(e.to_string()))?;
    let document = Document::parse(&source).map_err(Faults::Faulty)?;
    let accepted = sluice_config::load::<Config>(&document)
        .prepared(|config| config.resolve_paths(folder_of(file)))
        .check(|config, faults| config.validate(faults))
        .map_err(Faults::Faulty)?;
    Ok(Loaded { config: accepted.config, warnings: accepted.warnings, document })
}

/// The folder that a configuration's relative paths start from.
pub(crate) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Loaded {
    /// Faults found later, when files were opened, told with their place in the document.
    pub(crate) fn diagnose(&self, faults: &[Fault]) -> Vec<Diagnostic> {
        let found = sluice_config::load::<Config>(&self.document).check(|_, all| all.extend(faults.iter().cloned()));
        found.map_or_else(|diagnostics| diagnostics, |accepted| accepted.warnings)
    }

    /// The same as plain text.
    pub(crate) fn explain(&self, faults: &[Fault]) -> String {
        sluice_config::render::text(&self.diagnose(faults), false)
    }
}

impl Faults {
    /// As text without colours.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Unreadable(why) => why.clone(),
            Self::Faulty(diagnostics) => sluice_config::render::text(diagnostics, false),
        }
    }

    /// As text for standard error, coloured on a terminal.
    pub(crate) fn for_terminal(&self) -> String {
        match self {
            Self::Unreadable(why) => why.clone(),
            Self::Faulty(diagnostics) => sluice_config::render::text(diagnostics, colours()),
        }
    }
}

/// Whether standard error is a terminal that wants colours.
pub(crate) fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
